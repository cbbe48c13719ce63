"""The figure of |γ| over a run, as figures 8, 9 and 11 of Chu et al. 2023."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from darkprune.training.records.curves import new_figure
from darkprune.training.sparsity.gammas import GammaRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 5


def quantile(record: GammaRecord, group: int, part: float) -> npt.NDArray[np.float64]:
    """Returns per epoch the |γ| below which a part of the group's channels lie, to a bin."""
    counts = record.counts[:, group]
    reached = counts.cumsum(axis=1) >= np.maximum(1, part * counts.sum(axis=1))[:, None]
    centres = (record.edges[:-1] + record.edges[1:]) / 2
    found: npt.NDArray[np.float64] = centres[reached.argmax(axis=1)]
    return found


def gamma_figure(record: GammaRecord, thresholds: Mapping[str, float] | None = None) -> Figure | None:
    """Draws a panel per group: epochs to the right, |γ| upwards, the darker the more channels.

    Args:
        record: what to draw.
        thresholds: group -> |γ| up to which channels were removed.

    Returns:
        The figure; None where matplotlib is not installed.
    """
    columns = min(_COLUMNS, len(record.groups))
    rows = -(-len(record.groups) // columns)
    figure = new_figure(max(3.6, 2.1 * columns), 0.4 + 2.5 * rows)
    if figure is None:
        return None
    bounds = np.append(record.epochs, record.epochs[-1] + 1)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    top = max(float(quantile(record, number, 0.98).max()) for number in range(len(record.groups)))
    for number, axis in enumerate(panels):
        if number >= len(record.groups):
            axis.set_visible(False)
            continue
        counts, name = record.counts[:, number], record.groups[number][:24]
        shares = counts.T / np.maximum(1, counts.sum(axis=1))
        axis.pcolormesh(bounds, record.edges, np.sqrt(shares), cmap="Blues", vmin=0, vmax=0.5, rasterized=True)
        middle = record.epochs + 0.5
        axis.plot(middle, quantile(record, number, 0.5), color="black", linewidth=1.3, label="median")
        for part in (0.1, 0.9):
            label = "10 %, 90 %" if part == 0.1 else None
            axis.plot(middle, quantile(record, number, part), ":", color="black", linewidth=0.9, label=label)
        if thresholds and thresholds.get(record.groups[number]) is not None:
            level = thresholds[record.groups[number]]
            axis.axhline(level, color="tab:red", linestyle="--", linewidth=1.2)
            place = (record.epochs[0] + 0.5, level)
            axis.annotate(f"threshold {level:.3g}", place, (2, 3), textcoords="offset points", fontsize=7)
        axis.set_title(f"{name}: {counts[-1].sum()} channels", fontsize=9)
        axis.set_ylim(0, 1.05 * top)
        if number // columns == rows - 1:
            axis.set_xlabel("epoch")
        if number % columns == 0:
            axis.set_ylabel("|γ|")
        if number == 0:
            axis.legend(fontsize=7, loc="upper right", framealpha=0.85)
    return figure
