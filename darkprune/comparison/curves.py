"""Pictures of a comparison: mAP over operations with error bars, and the paper's Fig. 10."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from darkprune.comparison.table import Row
from darkprune.training.records.curves import render_figure

#: told apart without colour too
MARKERS = "osDv^P*Xh<>p"
LINES = ("-", "--", "-.", ":")
LARGEST_DOT = 700.0  #: area of the unpruned network's dot, in square points

Save = Callable[[str, bytes], None]
#: draws one panel: all rows, those of its recovery, and the names of all methods
Panel = Callable[[Axes, Sequence[Row], list[Row], list[str]], None]


def draw(rows: Sequence[Row], title: str, save: Save) -> list[str]:
    """Draws both pictures as PNG and SVG; returns the names.

    Args:
        rows: the table; the unpruned network first.
        title: what is compared.
        save: called with name and content of each file.
    """
    names = []
    for name, one in (("curves", _draw_curve), ("ratio", _draw_ratio)):
        figure = _panels(rows, title, one)
        for kind in ("png", "svg"):
            save(f"{name}.{kind}", render_figure(figure, kind))
            names.append(f"{name}.{kind}")
    return names


def _panels(rows: Sequence[Row], title: str, one: Panel) -> Figure:
    """Draws one panel per recovery, on one scale."""
    drawn = [row for row in rows if row.kind == "pruned" and row.map50 is not None]
    recoveries = list(dict.fromkeys(row.recovery for row in drawn)) or [""]
    methods = list(dict.fromkeys(row.label for row in rows if row.kind == "pruned"))
    reached = [100 * row.map50 for row in rows if row.map50 is not None] or [0.0]
    columns = min(2, len(recoveries))
    lines = -(-len(recoveries) // columns)
    figure = Figure(figsize=(5.2 * columns + 2.2, 4.2 * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(recoveries):
            axes.set_visible(False)
            continue
        recovery = recoveries[number]
        axes.set_title(f"recovery: {recovery}" if recovery else "", fontsize=10)
        axes.grid(alpha=0.3)
        one(axes, rows, [row for row in drawn if row.recovery == recovery], methods)
        axes.set_ylim(min(reached) - 6, max(reached) + 6)  # the dots of Fig. 10 are wide
    known = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known.keys(), loc="outside right upper", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.supylabel("mAP@0.5, %", fontsize=10)
    return figure


def _draw_curve(axes: Axes, rows: Sequence[Row], drawn: Sequence[Row], methods: list[str]) -> None:
    whole = _whole(rows)
    for number, method in enumerate(methods):
        of_it = sorted((row for row in drawn if row.label == method), key=lambda row: row.macs or 0)
        if not of_it:
            continue
        axes.errorbar(
            [100 * (row.macs or 0) / (whole.macs or 1) for row in of_it],
            [_percent(row.map50) for row in of_it],
            [_percent(row.map50_std) for row in of_it],
            label=method, marker=MARKERS[number % len(MARKERS)], linestyle=LINES[number % len(LINES)],
            color=f"C{number % 10}", capsize=3, markersize=5, linewidth=1.3,
        )  # fmt: skip
    control = sorted((row for row in rows if row.kind in ("unpruned", "control")), key=lambda row: row.macs or 0)
    axes.plot(
        [100 * (row.macs or 0) / (whole.macs or 1) for row in control],
        [_percent(row.map50) for row in control],
        "s-", color="black", markersize=4, linewidth=1, label="unpruned, smaller input",
    )  # fmt: skip
    axes.set_xlabel("operations that remain, %")


def _draw_ratio(axes: Axes, rows: Sequence[Row], drawn: Sequence[Row], methods: list[str]) -> None:
    whole = _whole(rows)
    for number, method in enumerate(methods):
        of_it = sorted((row for row in drawn if row.label == method), key=lambda row: row.params or 0)
        if not of_it:
            continue
        style: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}"}
        x, y = [_removed(row, whole) for row in of_it], [_percent(row.map50) for row in of_it]
        axes.plot(
            x, y, linewidth=0.7, alpha=0.6, markersize=6, label=method, linestyle=LINES[number % len(LINES)], **style
        )
        axes.scatter(x, y, [_area(row, whole) for row in of_it], alpha=0.6, edgecolors="black", linewidths=0.8, **style)
        for row in of_it:
            place = (_removed(row, whole), _percent(row.map50))
            axes.annotate(f"{(row.bytes or 0) / 1e6:.3g}", place, (0, -2.5), textcoords="offset points", fontsize=6,
                          ha="center")  # fmt: skip
    grey: dict[str, Any] = {"color": "lightgray", "marker": "o"}
    axes.plot([0], [_percent(whole.map50)], markersize=6, linestyle="", label="unpruned (numbers: MB)", **grey)
    axes.scatter([0], [_percent(whole.map50)], [LARGEST_DOT], edgecolors="black", linewidths=0.8, **grey)
    axes.set_xlabel("parameters removed, %")


def _whole(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.kind == "unpruned")


def _removed(row: Row, whole: Row) -> float:
    return 100 * (1 - (row.params or 0) / (whole.params or 1))


def _area(row: Row, whole: Row) -> float:
    return LARGEST_DOT * (row.bytes or 0) / (whole.bytes or 1)


def _percent(value: float | None) -> float:
    return 100 * (value or 0.0)
