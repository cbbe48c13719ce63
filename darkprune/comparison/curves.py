"""Pictures of a comparison: mAP over operations with error bars, the paper's Fig. 10, training that draws γ to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from darkprune.comparison.table import Row
from darkprune.errors import DataError
from darkprune.training.records.curves import render_figure
from darkprune.training.records.log import NO_CURVE, read_curves
from darkprune.training.sparsity.gammas import GammaRecord, quantile, read_gammas

#: told apart without colour too
MARKERS = "osDv^P*Xh<>p"
LINES = ("-", "--", "-.", ":")
LARGEST_DOT = 700.0  #: area of the unpruned network's dot, in square points
#: share of the channels whose |γ| lie below a line -> how the line is drawn
QUANTILES = {0.3: ":", 0.5: "-", 0.7: "--"}

#: called with name and content of each file
Save = Callable[[str, bytes], None]
#: draws one panel: all rows, those of its recovery, and the names of all methods
Panel = Callable[[Axes, Sequence[Row], list[Row], list[str]], None]


def draw(rows: Sequence[Row], title: str, save: Save) -> None:
    """Draws curves.png and ratio.png, and both as SVG.

    Args:
        rows: the table; the unpruned network first.
    """
    for name, one in (("curves", _draw_curve), ("ratio", _draw_ratio)):
        _save(_panels(rows, title, one), name, save)


def _save(figure: Figure, name: str, save: Save) -> None:
    for kind in ("png", "svg"):
        save(f"{name}.{kind}", render_figure(figure, kind))


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


def _by_method(rows: Sequence[Row], methods: list[str]) -> Iterator[tuple[str, list[Row], dict[str, Any], str]]:
    """Yields the methods that have rows: name, rows from small to large, marker and colour, kind of line."""
    for number, method in enumerate(methods):
        of_it = sorted((row for row in rows if row.label == method), key=lambda row: row.macs or 0)
        if of_it:
            style = {"marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}"}
            yield method, of_it, style, LINES[number % len(LINES)]


def _draw_curve(axes: Axes, rows: Sequence[Row], drawn: list[Row], methods: list[str]) -> None:
    whole = _whole(rows)
    for method, of_it, style, line in _by_method(drawn, methods):
        axes.errorbar(
            [100 * (row.macs or 0) / (whole.macs or 1) for row in of_it],
            [_percent(row.map50) for row in of_it],
            [_percent(row.map50_std) for row in of_it],
            label=method, linestyle=line, capsize=3, markersize=5, linewidth=1.3, **style,
        )  # fmt: skip
    control = sorted((row for row in rows if row.kind in ("unpruned", "control")), key=lambda row: row.macs or 0)
    axes.plot(
        [100 * (row.macs or 0) / (whole.macs or 1) for row in control],
        [_percent(row.map50) for row in control],
        "s-", color="black", markersize=4, linewidth=1, label="unpruned, smaller input",
    )  # fmt: skip
    axes.set_xlabel("operations that remain, %")


def _draw_ratio(axes: Axes, rows: Sequence[Row], drawn: list[Row], methods: list[str]) -> None:
    whole = _whole(rows)
    for method, of_it, style, line in _by_method(drawn, methods):
        of_it = sorted(of_it, key=lambda row: row.params or 0)
        x = [100 * (1 - (row.params or 0) / (whole.params or 1)) for row in of_it]
        y = [_percent(row.map50) for row in of_it]
        areas = [LARGEST_DOT * (row.bytes or 0) / (whole.bytes or 1) for row in of_it]
        axes.plot(x, y, linewidth=0.7, alpha=0.6, markersize=6, label=method, linestyle=line, **style)
        axes.scatter(x, y, areas, alpha=0.6, edgecolors="black", linewidths=0.8, **style)
        for row, right, up in zip(of_it, x, y, strict=True):
            megabytes = f"{(row.bytes or 0) / 1e6:.3g}"
            axes.annotate(megabytes, (right, up), (0, -2.5), textcoords="offset points", fontsize=6, ha="center")
    grey: dict[str, Any] = {"color": "lightgray", "marker": "o"}
    axes.plot([0], [_percent(whole.map50)], markersize=6, linestyle="", label="unpruned (numbers: MB)", **grey)
    axes.scatter([0], [_percent(whole.map50)], [LARGEST_DOT], edgecolors="black", linewidths=0.8, **grey)
    axes.set_xlabel("parameters removed, %")


def _whole(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.kind == "unpruned")


def _percent(value: float | None) -> float:
    return 100 * (value or 0.0)


def draw_sparsity(runs: Mapping[str, Path], save: Save) -> None:
    """Draws sparsity.png and .svg: mAP and |γ| over the runs that draw γ to zero, side by side (Chu et al. 2023).

    Args:
        runs: sparsity -> folder with the log and the record of γ of its training.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    by_step, by_epoch = figure.subplots(1, 2)
    for number, (name, folder) in enumerate(runs.items()):
        colour, log = f"C{number}", folder / "log.csv"
        steps, values = (read_curves(log) if log.is_file() else {}).get("map50", NO_CURVE)
        if steps:
            by_step.plot(steps, [100 * value for value in values], "o-", markersize=3, color=colour, label=name)
        try:
            _draw_gammas(by_epoch, name, read_gammas(folder / "gamma.npz"), colour)
        except DataError:
            continue
    by_step.set(xlabel="step", ylabel="mAP@0.5, %")
    by_epoch.set(xlabel="epoch", ylabel="|γ| of 30, 50 and 70 % of the channels")
    for axes in (by_step, by_epoch):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    _save(figure, "sparsity", save)


def _draw_gammas(axes: Axes, name: str, record: GammaRecord, colour: str) -> None:
    counts = record.counts.sum(axis=1, keepdims=True)
    whole = GammaRecord((name,), record.epochs, record.edges, np.asarray(counts))
    for part, style in QUANTILES.items():
        label = name if part == 0.5 else None
        axes.plot(record.epochs, quantile(whole, 0, part), style, color=colour, label=label)
