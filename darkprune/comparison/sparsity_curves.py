"""Training that draws γ to zero in one picture: mAP and |γ| over the run, constant beside dynamic (Chu et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from darkprune.errors import DataError
from darkprune.training.records.curves import render_figure
from darkprune.training.records.log import NO_CURVE, read_curves
from darkprune.training.sparsity.gammas import GammaRecord, quantile, read_gammas

#: share of the channels whose |γ| lie below a line -> how the line is drawn
QUANTILES = {0.3: ":", 0.5: "-", 0.7: "--"}


def draw_sparsity(runs: Mapping[str, Path], save: Callable[[str, bytes], None]) -> None:
    """Draws sparsity.png and sparsity.svg.

    Args:
        runs: sparsity -> folder with the log and the record of γ of its training.
        save: called with name and content of each file.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    by_step, by_epoch = figure.subplots(1, 2)
    for number, (name, folder) in enumerate(runs.items()):
        colour = f"C{number}"
        _draw_map(by_step, name, folder / "log.csv", colour)
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
    for kind in ("png", "svg"):
        save(f"sparsity.{kind}", render_figure(figure, kind))


def _draw_map(axes: Axes, name: str, log: Path, colour: str) -> None:
    steps, values = (read_curves(log) if log.is_file() else {}).get("map50", NO_CURVE)
    if steps:
        axes.plot(steps, [100 * value for value in values], "o-", markersize=3, color=colour, label=name)


def _draw_gammas(axes: Axes, name: str, record: GammaRecord, colour: str) -> None:
    counts = record.counts.sum(axis=1, keepdims=True)
    whole = GammaRecord((name,), record.epochs, record.edges, np.asarray(counts))
    for part, style in QUANTILES.items():
        label = name if part == 0.5 else None
        axes.plot(record.epochs, quantile(whole, 0, part), style, color=colour, label=label)
