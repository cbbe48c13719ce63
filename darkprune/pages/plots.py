"""Diagrams of a report, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkprune.graph.stats import count
from darkprune.training.records.curves import new_figure

#: of the groups in turn, as in style.css
COLOURS = ("#2b6a99", "#c98a2d", "#3d7f5c", "#a37ab5", "#93363a", "#6b7380", "#2f8f95", "#94743d")
MARKERS, LINES = "osD^vPX<>", ("-", "--", "-.", ":")
FILLS = ("full", "none", "left", "bottom", "right", "top")
MOST_LINES = 40
BEFORE, AFTER = "#b9c4ce", "#1b4f7a"
MISSING = "diagrams are left out: matplotlib is not installed (pip install 'darkprune[report]')"


class LayerWidth(NamedTuple):
    """Channels of a layer.

    Attributes:
        layer: its index.
        before, after: channels.
        group: position of its group; None outside all.
    """

    layer: int
    before: int
    after: int
    group: int | None


class ClassPrecision(NamedTuple):
    """Average precision of a class as a fraction; `after` is None where there is one network only."""

    name: str
    before: float
    after: float | None


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def render(figure: Any, kind: str) -> bytes:
    """Returns a figure as `svg` or `png`; the same figure always gives the same bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "darkprune", "font.size": 9}):
        figure.savefig(buffer, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else {})
    return buffer.getvalue()


def channels(layers: Sequence[LayerWidth]) -> Any:
    """Draws the width of every layer that makes channels."""
    figure = _new(max(6.0, min(13.0, 2.5 + 0.13 * len(layers))), 2.8)
    axis = figure.add_subplot()
    place = np.arange(len(layers))
    colours = ["#5c6670" if layer.group is None else COLOURS[layer.group % len(COLOURS)] for layer in layers]
    axis.bar(place, [layer.before for layer in layers], 0.86, color=colours, alpha=0.28, label="before")
    axis.bar(place, [layer.after for layer in layers], 0.86, color=colours, label="after")
    step = max(1, len(layers) // 28)
    axis.set_xticks(place[::step], [str(row.layer) for row in layers[::step]], fontsize=7)
    axis.margins(x=0.005)
    axis.set(xlabel="layer", ylabel="channels")
    _quiet(axis)
    return figure


def classes(rows: Sequence[ClassPrecision]) -> Any:
    """Draws the average precision of every class, before and after, in the order from top to bottom."""
    figure = _new(5.4, 0.8 + 0.17 * len(rows))
    axis = figure.add_subplot()
    place = np.arange(len(rows))[::-1]
    first = [100 * row.before for row in rows]
    second = [None if row.after is None else 100 * row.after for row in rows]
    for y, a, b in zip(place, first, second, strict=True):
        if b is not None:
            axis.plot([a, b], [y, y], color="#8b98a5", linewidth=1)
    axis.plot(first, place, "o", markerfacecolor="white", markeredgecolor="black", markersize=5, label="before")
    if rows and second[0] is not None:
        axis.plot(second, place, "o", color=AFTER, markersize=5, label="after")
        axis.legend(fontsize=8, loc="lower right")
    axis.set_yticks(place, [row.name[:28].replace("$", r"\$") for row in rows], fontsize=7)
    axis.set_ylim(-0.8, len(rows) - 0.2)
    axis.set(xlabel="average precision, %", xlim=(-2, 102))
    _quiet(axis, "x")
    return figure


def gamma_now(groups: Sequence[str], values: Sequence[NDArray[np.float32]], thresholds: Sequence[float | None]) -> Any:
    """Draws how |γ| is distributed in the network that was cut, a panel per group, with its threshold."""
    shown = [number for number in range(len(groups)) if len(values[number])]
    columns = min(5, len(shown))
    figure = _new(max(3.6, 2.1 * columns), 0.3 + 2.0 * -(-len(shown) // columns))
    panels = figure.subplots(-(-len(shown) // columns), columns, squeeze=False).flat
    for axis in panels[len(shown) :]:
        axis.set_visible(False)
    for number, axis in zip(shown, panels, strict=False):
        top = max(float(np.quantile(values[number], 0.99)), 1e-3)
        axis.hist(np.minimum(values[number], top), np.linspace(0, top, 41), color=COLOURS[number % len(COLOURS)])
        level = thresholds[number]
        title = f"{groups[number]}: {len(values[number])} channels"
        if level is not None:
            axis.axvline(level, color="black", linestyle="--", linewidth=1)
            title += f"\n{100 * float((values[number] <= level).mean()):.0f} % up to {level:.3g}"
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("|γ|", fontsize=8)
        _quiet(axis)
    return figure


def latency(times: Mapping[str, Sequence[float]]) -> Any:
    """Draws the milliseconds of every run, one line of dots per network."""
    figure = _new(5.2, 0.8 + 0.5 * len(times))
    axis = figure.add_subplot()
    random = np.random.default_rng(0)
    upwards = list(times.items())[::-1]
    for number, ((_, values), colour) in enumerate(zip(upwards, (AFTER, "#5c6670") * 4, strict=False)):
        spread = number + random.uniform(-0.18, 0.18, len(values))
        axis.plot(values, spread, ".", color=colour, alpha=0.55, markersize=5)
        axis.plot([float(np.median(values))] * 2, [number - 0.32, number + 0.32], color="black", linewidth=1.6)
    axis.set_yticks(range(len(times)), [name for name, _ in upwards])
    axis.set_xlim(0, 1.04 * max(map(max, times.values())))
    axis.set(xlabel="milliseconds per image; the line is the median")
    _quiet(axis, "x")
    return figure


def tradeoff(
    rows: Sequence[tuple[str, float, float]], base: tuple[float, float], label: str = "mAP@0.5, %", factor: float = 100
) -> Any:
    """Draws the quality of networks over their operations.

    Args:
        rows: name, multiply-adds, value; the part of a name before a comma decides colour and marker, the part after
            it dashes and filling.
        base: multiply-adds and value of the original.
        label: of the upright axis.
        factor: from values to that axis: 100 for fractions in percent.
    """
    figure = _new(9.0, 3.6)
    axis = figure.add_subplot()
    axis.plot(base[0], factor * base[1], "*", color="black", markersize=11, label="original", linestyle="")
    names = list(dict.fromkeys(name for name, _, _ in rows))
    firsts = list(dict.fromkeys(name.partition(", ")[0] for name in names))
    seconds = list(dict.fromkeys(["", *(name.partition(", ")[2] for name in names)]))
    for name in names[:MOST_LINES]:
        points = sorted((macs, value) for other, macs, value in rows if other == name)
        first, second = (parts.index(name.partition(", ")[n]) for n, parts in ((0, firsts), (2, seconds)))
        axis.plot([macs for macs, _ in points], [factor * value for _, value in points], linewidth=1, markersize=5,
                  marker=MARKERS[first % len(MARKERS)], color=COLOURS[first % len(COLOURS)],
                  linestyle=LINES[second % len(LINES)], fillstyle=FILLS[second % len(FILLS)],
                  label=name[:40].replace("$", r"\$"))  # fmt: skip
    axis.xaxis.set_major_formatter(lambda value, _: count(value))
    axis.set(xlabel="multiply-adds", ylabel=label)
    figure.legend(fontsize=8, loc="outside right upper")
    _quiet(axis, "both")
    return figure


def _new(wide: float, high: float) -> Any:
    return new_figure(wide, high)


def _quiet(axis: Any, grid: str = "y") -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, alpha=0.3)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
