"""darknet's losses, one per kind of head."""

from __future__ import annotations

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.heads import GaussianYolo, Region, Yolo
from darkprune.training.losses.base import PARTS, DetectionLoss, Loss
from darkprune.training.losses.gaussian import GaussianLoss, GaussianSettings
from darkprune.training.losses.region import RegionLoss, read_region
from darkprune.training.losses.settings import read_head
from darkprune.training.losses.truths import Truths, make_truths
from darkprune.training.losses.yolo import YoloLoss, YoloSettings

__all__ = ["PARTS", "DetectionLoss", "Loss", "Truths", "loss_of", "make_truths"]


def loss_of(graph: Graph, layer: Layer) -> DetectionLoss:
    """Returns the loss of a detection head, as its section asks for it.

    Raises:
        TrainingError: the head cannot be trained here.
        CfgError: a training key that makes no sense.
    """
    options = graph.options(layer)
    if isinstance(layer.kind, Yolo):
        return YoloLoss(layer.kind, read_head(YoloSettings, options, layer.kind.classes))
    if isinstance(layer.kind, GaussianYolo):
        return GaussianLoss(layer.kind, read_head(GaussianSettings, options, layer.kind.classes))
    if isinstance(layer.kind, Region):
        return RegionLoss(layer.kind, read_region(options))
    raise TrainingError(f"{graph.cfg.source}:{layer.line}: [{layer.name}] cannot be trained here")
