"""The record of |γ| over a run: histograms, group by group and epoch by epoch, and their file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.darknet.output import atomic_file
from darkprune.errors import DataError

MAX_BYTES = 64 << 20
MAX_COUNTS = 1 << 24
EDGES: npt.NDArray[np.float64] = np.linspace(0, 2, 101)  #: bins of 0.02; larger values count in the last


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
            epoch: its number.
            sizes: |γ| of the channels of every group.
        """
        rows = np.stack([np.histogram(np.minimum(values, self.edges[-1]), self.edges)[0] for values in sizes])
        counts = np.concatenate([self.counts, rows[None].astype(np.int64)])
        return replace(self, epochs=np.append(self.epochs, epoch), counts=counts)

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
        if record.counts.shape != (len(record.epochs), len(record.groups), len(record.edges) - 1) or not counts.size:
            raise ValueError("sizes do not fit")
        if record.counts.size > MAX_COUNTS or not np.isfinite(record.edges).all() or (record.counts < 0).any():
            raise ValueError("counts make no sense")
    except Exception as error:  # numpy, zipfile and zlib raise whatever a damaged file makes of them
        raise DataError(f"{path}: is no record of γ ({str(error)[:80] or type(error).__name__})") from None
    return record
