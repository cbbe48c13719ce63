"""How |γ| is distributed, group by group and epoch by epoch: the figures 8, 9 and 11 of [GCP]."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from darkprune.darknet.output import atomic_file
from darkprune.training.curves import new_figure, save_figure

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
        """Draws a panel per group: epochs to the right, |γ| upwards, the darker the more channels.

        Returns:
            Whether matplotlib is installed.

        Raises:
            OutputError: the picture cannot be written.
        """
        if not self.counts:
            return True
        figure = new_figure(figsize=(2.6 * len(self.groups) + 1, 3.4), layout="constrained")
        if figure is None:
            return False
        counts = np.stack(self.counts)
        for number, axis in enumerate(figure.subplots(1, len(self.groups), sharey=True, squeeze=False)[0]):
            shares = counts[:, number].T / np.maximum(1, counts[:, number].sum(axis=1))
            bounds = [*self.epochs, self.epochs[-1] + 1]
            axis.pcolormesh(bounds, EDGES, np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
            axis.set_title(f"{self.groups[number]} ({counts[-1, number].sum()} channels)", fontsize=9)
            axis.set_xlabel("epoch")
            if number == 0:
                axis.set_ylabel("|γ|")
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
