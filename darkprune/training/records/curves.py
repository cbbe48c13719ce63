"""Curves of a run as a picture, where matplotlib is installed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.darknet.output import atomic_file
from darkprune.training.records.log import Curve, read_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 2000
PERCENT = ("map50", "map", "accuracy", "top1", "top5")
WIDE = ("loss", "attention", "hard")  #: drawn on a logarithmic axis where they span more than a factor of 20
SPARSE = 60  #: so few values are marked one by one
SMOOTHED_OVER = 100  #: a curve is drawn in so many averaged pieces, with its raw values in the background


def draw_curves(log: Path, target: Path, columns: Sequence[str]) -> None:
    """Draws columns of a log, where matplotlib is installed.

    Args:
        log: the table.
        target: PNG to write.
        columns: names; those without values are left out.

    Raises:
        OutputError: the picture cannot be written.
    """
    figure = curves_figure(read_curves(log), columns)
    if figure is not None:
        save_figure(figure, target)


def curves_figure(curves: Mapping[str, Curve], columns: Sequence[str]) -> Figure | None:
    """Draws a panel per column, two in a row: the values pale, their averages on top.

    Args:
        curves: of a log, by column.
        columns: names; those without values are left out, fractions such as mAP are drawn in percent.

    Returns:
        The figure; None where matplotlib is not installed, or nothing is to be drawn.
    """
    drawn = [(name, *curves[name]) for name in columns if name in curves and curves[name].steps]
    across = min(2, len(drawn))
    down = -(-len(drawn) // max(1, across))
    figure = new_figure(9 if across > 1 else 5, 0.3 + 1.75 * down)
    if figure is None or not drawn:
        return None
    panels = figure.subplots(down, across, squeeze=False, sharex=True)
    for axis, (name, steps, values) in zip(panels.flat, drawn, strict=False):
        _panel(axis, name, steps, values)
    for axis in panels.flat[len(drawn) :]:
        axis.set_visible(False)
    for place in range(across):
        last = (len(drawn) - 1 - place) // across
        panels[last, place].set_xlabel("step")
        panels[last, place].tick_params(labelbottom=True)
    return figure


def _panel(axis: Axes, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
    percent = name in PERCENT
    shown = [100 * value for value in values] if percent else list(values)
    stride = max(1, len(steps) // MOST_POINTS)
    many = len(steps) > 2 * SMOOTHED_OVER
    axis.plot(
        steps[::stride], shown[::stride], "-" if len(steps) > SPARSE else ".-",
        linewidth=0.5 if many else 1.2, color="tab:blue" if not many else "#a9c4de",
    )  # fmt: skip
    if many:
        axis.plot(*_smoothed(steps, shown), linewidth=1.4, color="#12436d")
        low, high = _limits(shown)
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if percent and len(shown) <= SPARSE:
        best = max(range(len(shown)), key=shown.__getitem__)
        axis.annotate(
            f"{shown[best]:.2f}", (steps[best], shown[best]), (0, -11), textcoords="offset points", fontsize=8
        )
    axis.set_title(f"{name}, %" if percent else name, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.ticklabel_format(axis="y", useOffset=False)
    if min(shown) > 0 and max(shown) > 20 * min(shown) and name in WIDE:
        axis.set_yscale("log")
        axis.autoscale(axis="y")


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns a range without the few largest and smallest values, which would flatten the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 200
    low, high = ordered[cut], ordered[-1 - cut]
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def save_figure(figure: Figure, target: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    with atomic_file(target, overwrite=True) as file:
        file.write(buffer.getvalue())


def new_figure(width: float, height: float) -> Figure | None:
    """Returns a figure of a size in inches; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


def _smoothed(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    size = len(steps) // SMOOTHED_OVER
    pieces = range(0, len(steps) - size + 1, size)
    return [sum(steps[i : i + size]) / size for i in pieces], [sum(values[i : i + size]) / size for i in pieces]
