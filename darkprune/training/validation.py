"""mAP of the network in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from darkprune.data.dataset import Dataset
from darkprune.evaluation import Evaluation, evaluate
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.network import Network

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """A set to measure on.

    Attributes:
        dataset: labelled images.
        batch: images at a time.
        workers: threads that decode.
    """

    dataset: Dataset
    batch: int = 8
    workers: int | None = None

    def measure(self, network: Network) -> Evaluation:
        """Measures a network, which stays in the mode (training or not) that it was in.

        Raises:
            DataError: no image can be read.
        """
        training = network.training
        network.eval()
        try:
            figures, _ = evaluate(
                runner_of(network),
                heads_of(network.graph),
                self.dataset,
                input_shape(network.graph),
                coco=False,
                batch=self.batch,
                workers=self.workers,
            )
        finally:
            network.train(training)
        return figures


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
