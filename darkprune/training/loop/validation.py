"""Measuring a network in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from darkprune.data.dataset import Dataset
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.network import Network

Floats = npt.NDArray[np.float32]


class Measure(Protocol):
    """Returns how good a network is, as a fraction: more is better."""

    @property
    def column(self) -> str: ...  # noqa: D102

    @property
    def title(self) -> str: ...  # noqa: D102

    def measure(self, network: Network) -> float:
        """Measures a network, which stays in the mode (training or not) that it was in."""
        ...


@dataclass(frozen=True)
class Validation:
    """mAP on a labelled set."""

    dataset: Dataset
    batch: int = 8
    workers: int | None = None
    column: str = "map50"
    title: str = "mAP@0.5"

    def measure(self, network: Network) -> float:
        """Returns mAP@0.5; see `Measure`.

        Raises:
            DataError: no image can be read.
        """
        training = network.training
        network.eval()
        try:
            detector = Detector.of(network.graph, runner_of(network))
            loading = Loading(self.batch, self.workers)
            figures, _ = evaluate_detector(detector, self.dataset, loading=loading, coco=False)
        finally:
            network.train(training)
        return figures.map50


class _Maps:
    """Runs a network on arrays."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.heads = [layer.index for layer in network.graph.heads]
        self.device = next(network.parameters()).device

    def __call__(self, images: Floats) -> Sequence[Floats]:
        with torch.inference_mode():
            given = torch.from_numpy(images).to(self.device, non_blocking=True)
            output = self.network(given)
            return [output.heads[index].float().cpu().numpy() for index in self.heads]


def runner_of(network: Network) -> _Maps:
    """Returns what evaluation runs: images in, the heads' raw maps out."""
    return _Maps(network)
