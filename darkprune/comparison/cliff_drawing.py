"""The picture of a sweep: what is left over the operations removed, pruned, recovered, and the control."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from darkprune.darknet.output import atomic_file
from darkprune.runners.measure import MAP

#: rows of the result -> how they are drawn; told apart without colour, too
_STYLES = {
    "pruned": ("o-", "black", "pruned"),
    "recovered": ("D-", "tab:orange", "pruned and recovered"),
    "control": ("s--", "tab:blue", "unpruned, smaller input"),
}


def can_draw() -> bool:
    """Returns whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_sweep(folder: Path, result: dict[str, Any], name: str) -> list[str]:
    """Draws cliff.png and cliff.svg; earlier ones are replaced.

    Args:
        folder: where.
        result: from `summarise`.
        name: of the network.

    Returns:
        The names of the files.
    """
    from matplotlib.figure import Figure  # no pyplot: no window system is looked for

    percent = 100 if result["metric"] == MAP else 1
    base = {"macs_removed": 0.0, "value": result["unpruned"], "ratio": 0.0}
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.margins(x=0.1, y=0.1)
    for kind, (style, colour, label) in _STYLES.items():
        rows = result.get(kind, [])
        if not rows:
            continue
        points = [(100 * row["macs_removed"], percent * row["value"]) for row in rows]
        start = [] if kind == "control" else [(0.0, percent * result["unpruned"])]
        axes.plot(*zip(*start, *points, strict=True), style, label=label, color=colour)
        if kind == "pruned":
            _annotate(axes, points, [f"{row['ratio']:g}" for row in rows], (4, 4), colour)
        elif kind == "control":
            _annotate(
                axes, points[1:], [f"{row['width']}x{row['height']}" for row in rows[1:]], (-5, -12), colour, "right"
            )
    cliff = result["cliff"]
    if cliff:
        ends = [row for row in [base, *result["pruned"]] if row["ratio"] in (cliff["from_ratio"], cliff["to_ratio"])]
        axes.axvspan(*(100 * row["macs_removed"] for row in ends), alpha=0.15, color="gray", label="cliff, pruned")
    axes.set(xlabel="operations removed, % (numbers: ratio)", title=name)
    axes.set_ylabel("mAP@0.5, %" if percent == 100 else "distance to the unpruned outputs")
    axes.grid(alpha=0.3)
    axes.legend()
    for kind, metadata in (("png", None), ("svg", {"Date": None})):
        with atomic_file(folder / f"cliff.{kind}", overwrite=True) as file:
            figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return ["cliff.png", "cliff.svg"]


def _annotate(
    axes: Any,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    offset: tuple[int, int],
    colour: str,
    align: str = "left",
) -> None:
    for place, text in zip(points, texts, strict=True):
        axes.annotate(text, place, offset, textcoords="offset points", fontsize=8, color=colour, ha=align)
