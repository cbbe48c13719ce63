"""The picture of a sweep: what is left over the operations removed, pruned, recovered, and the control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.darknet.output import atomic_file
from darkprune.runners.measure import AGREEMENT, DISTANCE, MAP
from darkprune.sweep.points import Sweep, SweepCurve
from darkprune.training.records.curves import render_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Points = Sequence[tuple[float, float]]
LABELS = {
    MAP: "mAP@0.5, %",
    AGREEMENT: "agreement with the unpruned network, %",
    DISTANCE: "distance to the unpruned outputs",
}


def draw_sweep(folder: Path, sweep: Sweep, name: str) -> list[str]:
    """Draws cliff.png and cliff.svg; earlier ones are replaced.

    Returns:
        The names of the files.
    """
    from matplotlib.figure import Figure  # no pyplot: no window system is looked for

    percent = 1 if sweep.metric == DISTANCE else 100
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.margins(x=0.1, y=0.1)
    start = (0.0, percent * sweep.base.value)
    pruned = _places(sweep.pruned, percent)
    axes.plot(*zip(start, *pruned, strict=True), "o-", color="black", label="pruned")
    _annotate(axes, pruned, [f"{each.point.ratio:g}" for each in sweep.pruned.points], ((4, 4), "left", "black"))
    if sweep.recovered is not None:
        recovered = _places(sweep.recovered, percent)
        axes.plot(*zip(start, *recovered, strict=True), "D-", color="tab:orange", label="pruned and recovered")
    control = [(100 * (1 - each.macs / sweep.base.macs), percent * each.value) for each in sweep.controls]
    axes.plot(*zip(*control, strict=True), "s--", color="tab:blue", label="unpruned, smaller input")
    sizes = [f"{each.width}x{each.height}" for each in sweep.controls[1:]]
    _annotate(axes, control[1:], sizes, ((-5, -12), "right", "tab:blue"))
    fall = sweep.pruned.fall
    if fall is not None:
        by_ratio = {0.0: 0.0, **{each.point.ratio: 100 * each.macs_removed for each in sweep.pruned.points}}
        ends = by_ratio[fall.from_ratio], by_ratio[fall.to_ratio]
        axes.axvspan(*ends, alpha=0.15, color="gray", label="cliff, pruned")
    axes.set(xlabel="operations removed, % (numbers: ratio)", title=name)
    axes.set_ylabel(LABELS[sweep.metric])
    axes.grid(alpha=0.3)
    axes.legend()
    for kind in ("png", "svg"):
        with atomic_file(folder / f"cliff.{kind}", overwrite=True) as file:
            file.write(render_figure(figure, kind, 150))
    return ["cliff.png", "cliff.svg"]


def _places(curve: SweepCurve, percent: int) -> _Points:
    return [(100 * each.macs_removed, percent * each.point.value) for each in curve.points]


def _annotate(axes: Axes, points: _Points, texts: Sequence[str], style: tuple[tuple[int, int], str, str]) -> None:
    offset, align, colour = style
    for place, text in zip(points, texts, strict=True):
        axes.annotate(text, place, offset, textcoords="offset points", fontsize=8, color=colour, ha=align)
