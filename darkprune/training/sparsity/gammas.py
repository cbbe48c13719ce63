"""How |γ| is distributed, recorded group by group and epoch by epoch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from darkprune.darknet.output import atomic_file
from darkprune.training.records.curves import save_figure
from darkprune.training.sparsity.gamma_figure import GammaRecord, gamma_figure

EDGES: npt.NDArray[np.float64] = np.linspace(0, 2, 101)  #: bins of 0.02; larger values count in the last


class GammaHistory:
    """Histograms of |γ|.

    Attributes:
        groups: names of the groups.
        epochs: epochs recorded.
        counts: per epoch (groups, bins).
    """

    def __init__(self, groups: tuple[str, ...]) -> None:
        self.groups = groups
        self.epochs: list[int] = []
        self.counts: list[npt.NDArray[np.int64]] = []

    def add(self, epoch: int, sizes: Sequence[npt.NDArray[np.float32]]) -> None:
        """Records an epoch.

        Args:
            epoch: its number.
            sizes: per group |γ| of its channels.
        """
        rows = [np.histogram(np.minimum(values, EDGES[-1]), EDGES)[0] for values in sizes]
        self.epochs.append(epoch)
        self.counts.append(np.stack(rows).astype(np.int64))

    def write(self, path: Path) -> None:
        """Writes epochs, edges, groups and counts (epochs, groups, bins) as .npz.

        Raises:
            OutputError: it cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, epochs=self.epochs, edges=EDGES, groups=np.array(self.groups), counts=np.stack(self.counts)
        )
        with atomic_file(path, overwrite=True) as file:
            file.write(buffer.getvalue())

    def draw(self, path: Path) -> bool:
        """Draws it, see `gamma_figure`.

        Returns:
            Whether matplotlib is installed.

        Raises:
            OutputError: the picture cannot be written.
        """
        if not self.counts:
            return True
        figure = gamma_figure(GammaRecord(self.groups, np.array(self.epochs), EDGES, np.stack(self.counts)))
        if figure is None:
            return False
        save_figure(figure, path)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns everything recorded."""
        counts = torch.from_numpy(np.stack(self.counts)) if self.counts else None
        return {"epochs": list(self.epochs), "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.epochs = list(state["epochs"])
        counts = state["counts"]
        self.counts = [] if counts is None else list(counts.numpy())
