"""What a run minimises: something computed from a network's outputs for one part of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph
from darkprune.layers.heads import Detection
from darkprune.network import NetworkOutput
from darkprune.surgery.apply import Cut
from darkprune.training.data.batches import Batch
from darkprune.training.loop.checkpoint import State
from darkprune.training.losses import PARTS, Loss, loss_of


class Objective(ABC):
    """Computes losses.

    Attributes:
        taps: layers whose outputs it wants.
        columns: names of the figures that `report` gives, `loss` first.
    """

    taps: frozenset[int] = frozenset()
    columns: tuple[str, ...]

    def teach(self, images: Tensor) -> NetworkOutput | None:
        """Returns what a teacher makes of the images; None without one. Called in the precision of the forward pass."""
        return None

    @abstractmethod
    def compute(self, output: NetworkOutput, batch: Batch, seen: int, wanted: NetworkOutput | None) -> Loss:
        """Computes the loss of a part.

        Args:
            output: what the network makes of its images, with `taps`.
            seen: images trained on so far, these included.
            wanted: what `teach` returned for the same images.
        """

    @abstractmethod
    def report(self, sums: list[float], images: int) -> dict[str, float]:
        """Turns figures that were added up over a step into the columns.

        Args:
            sums: sum of `Loss.parts`.
            images: how many images they are from.
        """

    def use(self, cut: Cut) -> None:  # noqa: B027 (most losses do not depend on widths)
        """Is called after a cut of the network in training."""

    def state_dict(self) -> State:
        """Returns what a resumed run needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Restores it."""


class DetectionObjective(Objective):
    """The losses of all detection heads, as darknet has them."""

    columns = ("loss", "box", "objectness", "class", "iou", "matched")

    def __init__(self, graph: Graph) -> None:
        """Reads the heads' training keys.

        Raises:
            TrainingError: no head that can be trained.
            CfgError: a training key that makes no sense.
        """
        for layer in graph:
            if isinstance(layer.kind, Detection):
                raise TrainingError(f"{graph.cfg.source}:{layer.line}: [detection] (YOLOv1) cannot be trained here")
        self.heads = {layer.index: loss_of(graph, layer) for layer in graph.heads}
        if not self.heads:
            raise TrainingError(f"{graph.cfg.source}: has no detection head to train")

    def compute(self, output: NetworkOutput, batch: Batch, seen: int, wanted: NetworkOutput | None) -> Loss:
        """See `Objective.compute`."""
        values, parts = [], []
        for index, head in self.heads.items():
            found = head(output.heads[index], batch.truths, batch.size, seen)
            values.append(found.value)
            parts.append(found.parts)
        total = torch.stack(parts).sum(dim=0)
        total[0] /= len(self.heads)  # darknet shows the mean over the heads
        return Loss(torch.stack(values).sum(), total)

    def report(self, sums: list[float], images: int) -> dict[str, float]:
        """See `Objective.report`."""
        found = dict(zip(PARTS, sums, strict=True))
        return {
            "loss": found["loss"] / images,
            "box": found["box"] / images,
            "objectness": found["objectness"] / images,
            "class": found["class"] / images,
            "iou": found["iou"] / max(1.0, found["count"]),
            "matched": found["count"] / images,
        }
