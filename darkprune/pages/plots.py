"""Diagrams of a report, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkprune.errors import one_line
from darkprune.graph.stats import count
from darkprune.training.records.curves import new_figure

#: of the groups in turn, as in style.css
COLOURS = ("#2b6a99", "#c98a2d", "#3d7f5c", "#a37ab5", "#93363a", "#6b7380", "#2f8f95", "#94743d")
MARKERS, LINES = "osD^vPX<>", ("-", "--", "-.", ":")
FILLS = ("full", "none", "left", "bottom", "right", "top")
MOST_LINES = 40
MOST_SPREAD = 3.0  #: times are drawn up to so many medians: a single slow run would flatten all others
MOST_NAMED = 12  #: classes that get a line of the legend
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
    figure = _new(5.4, 1.1 + 0.17 * len(rows))
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
        figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    axis.set_yticks(place, [one_line(row.name, 28) for row in rows], fontsize=7)
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
        title = f"{one_line(groups[number], 24)}: {len(values[number])} channels"
        if level is not None:
            axis.axvline(level, color="black", linestyle="--", linewidth=1)
            title += f"\n{100 * float((values[number] <= level).mean()):.0f} % up to {level:.3g}"
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("|γ|", fontsize=8)
        _quiet(axis)
    return figure


def precision_recall(
    networks: Mapping[str, tuple[Mapping[int, NDArray[np.float64]], tuple[float, float]]], names: Sequence[str]
) -> Any:
    """Draws precision over recall, a panel per network: thin lines are classes, the thick one is their mean.

    Args:
        networks: name -> precision of every class at equally spaced recalls, and recall and precision at the threshold.
        names: of the classes.
    """
    figure = _new(3.4 * len(networks) + 1.4, 3.1)
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False).flat
    for axis, (network, (curves, (recall, precision))) in zip(panels, networks.items(), strict=True):
        few = len(curves) <= MOST_NAMED
        for place, (number, curve) in enumerate(sorted(curves.items())):
            colour, line = COLOURS[place % len(COLOURS)], LINES[place % len(LINES)]
            axis.plot(np.linspace(0, 1, len(curve)), curve, linewidth=0.9, alpha=1 if few else 0.3, color=colour,
                      linestyle=line, label=one_line(names[number], 24) if few else None)  # fmt: skip
        mean = np.mean(list(curves.values()), axis=0)
        axis.plot(np.linspace(0, 1, len(mean)), mean, color="black", linewidth=2.2, label="mean of the classes")
        axis.plot([recall], [precision], "o", color="black", markerfacecolor="white", markersize=6, label="score 0.25")
        axis.set(xlabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        axis.set_title(one_line(network, 40), fontsize=9)
        _quiet(axis, "both")
    panels[0].set_ylabel("precision")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    return figure


def confusion(networks: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> Any:
    """Draws which class is taken for which, a panel per network; the darker, the larger the share of a row.

    Args:
        networks: name -> objects by labelled class (rows) and detected class (columns), "nothing" last.
        names: of rows and columns.
    """
    side = min(6.0, max(2.4, 0.8 + 0.3 * len(names)))
    figure = _new(side * len(networks), side)
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False).flat
    short = [one_line(name, 14) for name in names]
    small = max(4.0, min(7.5, 150 / len(names)))
    for axis, (network, matrix) in zip(panels, networks.items(), strict=True):
        shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
        axis.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            ink = "white" if shares[row, column] > 0.55 else "black"
            axis.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=small, color=ink)
        axis.set_xticks(range(len(names)), short, rotation=90, fontsize=small)
        axis.set_yticks(range(len(names)), short, fontsize=small)
        axis.set_title(one_line(network, 30), fontsize=9)
        axis.set_xlabel("found as", fontsize=8)
        axis.tick_params(length=0)
    panels[0].set_ylabel("labelled as", fontsize=8)
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
    axis.set_yticks(range(len(times)), [one_line(name, 30) for name, _ in upwards])
    largest = max(map(max, times.values()))
    right = min(1.04 * largest, MOST_SPREAD * max(float(np.median(values)) for values in times.values()))
    beyond = sum(value > right for values in times.values() for value in values)
    axis.set_xlim(0, right)
    more = f"\n{beyond} slower run{'' if beyond == 1 else 's'} not shown" if beyond else ""
    axis.set(xlabel=f"milliseconds per image; the line is the median{more}")
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
                  label=one_line(name, 40))  # fmt: skip
    axis.xaxis.set_major_formatter(lambda value, _: count(value).replace(".00 ", " "))
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
