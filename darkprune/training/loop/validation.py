"""Measuring a network in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from darkprune.data.dataset import Dataset
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.network import Network
from darkprune.network.loading import run_of
from darkprune.progress import reporting, silent


class Validator(Protocol):
    """Returns how good a network is, as a fraction: more is better."""

    @property
    def column(self) -> str: ...  # noqa: D102

    @property
    def title(self) -> str: ...  # noqa: D102

    def measure(self, network: Network) -> float:
        """Measures a network, which stays in the mode (training or not) that it was in."""
        ...


@contextmanager
def in_eval_mode(network: Network) -> Iterator[None]:
    """Puts a network into inference while the block runs."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@dataclass(frozen=True)
class Validation:
    """mAP on a labelled set."""

    dataset: Dataset
    batch: int = 8
    workers: int | None = None
    column: str = "map50"
    title: str = "mAP@0.5"

    @reporting(silent)
    def measure(self, network: Network) -> float:
        """Returns mAP@0.5; see `Validator`.

        Raises:
            DataError: no image can be read.
        """
        with in_eval_mode(network):
            detector = Detector.of(network.graph, run_of(network))
            loading = Loading(self.batch, self.workers)
            figures, _ = evaluate_detector(detector, self.dataset, loading=loading, coco=False)
        return figures.map50
