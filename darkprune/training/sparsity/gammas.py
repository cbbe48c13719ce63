"""The record of |γ| over a run: histograms, group by group and epoch by epoch, their file and their figure."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from darkprune.darknet.output import atomic_file
from darkprune.errors import DataError
from darkprune.training.records.curves import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BYTES = 64 << 20
MAX_COUNTS = 1 << 24
EDGES: npt.NDArray[np.float64] = np.linspace(0, 2, 101)  #: bins of 0.02; larger values count in the last
_COLUMNS = 5  #: panels of the figure in a row


@dataclass(frozen=True, eq=False)
class GammaRecord:
    """Histograms of |γ|.

    Attributes:
        groups: names of the groups.
        epochs: (epochs,) numbers of the recorded epochs.
        edges: (bins + 1,) of the bins; larger values count in the last.
        counts: (epochs, groups, bins) channels.
    """

    groups: tuple[str, ...]
    epochs: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64] = field(repr=False)

    @classmethod
    def empty(cls, groups: tuple[str, ...]) -> GammaRecord:
        """Returns a record without epochs."""
        return cls(groups, np.zeros(0, np.int64), EDGES, np.zeros((0, len(groups), len(EDGES) - 1), np.int64))

    def with_epoch(self, epoch: int, sizes: Sequence[npt.NDArray[np.float32]]) -> GammaRecord:
        """Returns the record with one more epoch.

        Args:
            sizes: |γ| of the channels of every group.
        """
        rows = np.stack([np.histogram(np.minimum(values, self.edges[-1]), self.edges)[0] for values in sizes])
        counts = np.concatenate([self.counts, rows[None].astype(np.int64)])
        return replace(self, epochs=np.append(self.epochs, epoch), counts=counts)

    def check(self) -> GammaRecord:
        """Returns the record, if it can be one.

        Raises:
            ValueError: sizes that do not fit, or counts that make no sense.
        """
        if self.counts.shape != (len(self.epochs), len(self.groups), len(self.edges) - 1):
            raise ValueError("sizes do not fit")
        if self.counts.size > MAX_COUNTS or not np.isfinite(self.edges).all() or (self.counts < 0).any():
            raise ValueError("counts make no sense")
        return self

    def write(self, path: Path) -> None:
        """Writes the arrays as .npz.

        Raises:
            OutputError: it cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, epochs=self.epochs, edges=self.edges, groups=np.array(self.groups), counts=self.counts
        )
        with atomic_file(path, overwrite=True) as file:
            file.write(buffer.getvalue())


def read_gammas(path: Path) -> GammaRecord:
    """Reads a `gamma.npz`.

    Raises:
        DataError: it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError("too large")
        with np.load(path, allow_pickle=False) as data:
            groups, epochs, edges, counts = (data[name] for name in ("groups", "epochs", "edges", "counts"))
        record = GammaRecord(
            tuple(str(name) for name in groups.tolist()),
            epochs.astype(np.int64),
            edges.astype(np.float64),
            counts.astype(np.int64),
        )
        if not counts.size:
            raise ValueError("it is empty")
        record.check()
    except Exception as error:  # numpy, zipfile and zlib raise whatever a damaged file makes of them
        raise DataError(f"{path}: is no record of γ ({str(error)[:80] or type(error).__name__})") from None
    return record


def quantile(record: GammaRecord, group: int, part: float) -> npt.NDArray[np.float64]:
    """Returns per epoch the |γ| below which a part of the group's channels lie, to a bin."""
    counts = record.counts[:, group]
    reached = counts.cumsum(axis=1) >= np.maximum(1, part * counts.sum(axis=1))[:, None]
    centres = (record.edges[:-1] + record.edges[1:]) / 2
    found: npt.NDArray[np.float64] = centres[reached.argmax(axis=1)]
    return found


def gamma_figure(record: GammaRecord, thresholds: Mapping[str, float] | None = None) -> Figure | None:
    """Draws a panel per group: epochs to the right, |γ| upwards, the darker the more channels.

    As figures 8, 9 and 11 of Chu et al. 2023.

    Args:
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
