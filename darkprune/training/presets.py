"""Published settings of sparse training.

Source: Chu et al., arXiv 2306.01526, §5.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from darkprune.graph.graph import Graph
from darkprune.graph.groups import PRESETS as GROUP_PRESETS
from darkprune.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class SparsityPreset:
    """A published setting for sparse training.

    Attributes:
        s: weight of Σ|γ| as published.
        batch: images per step.
        lr: learning rate at the start; it falls as a cosine.
        epochs: length of the run.
        size: input size in pixels.
        keep_fraction: share of the channels that are spared after the switch.
    """

    s: float
    batch: int
    lr: float = 0.002
    epochs: int = 200
    size: int = 416
    keep_fraction: float = 0.3


SPARSITY_PRESETS = {
    "yolov4": SparsityPreset(s=0.00075, batch=16),
    "yolov3": SparsityPreset(s=0.003, batch=32),
    "mobilenet-yolov3": SparsityPreset(s=0.005, batch=32),
}


def with_preset(settings: TrainSettings, graph: Graph) -> TrainSettings:
    """Fills in what `sparsity_preset` sets and the user does not: everything that the paper says of its training.

    The groups of the histograms are the paper's where the network has its layers.
    """
    if settings.sparsity_preset is None:
        return settings
    preset = SPARSITY_PRESETS[settings.sparsity_preset]
    fits = settings.groups == "auto" and GROUP_PRESETS[settings.sparsity_preset][0] == len(graph)
    return replace(
        settings,
        sparsity=settings.sparsity or "dynamic",
        s=preset.s if settings.s is None else settings.s,
        batch=settings.batch or preset.batch,
        lr=settings.lr or preset.lr,
        policy=settings.policy or "cosine",
        adam=False if settings.adam is None else settings.adam,
        epochs=settings.epochs if settings.iterations or settings.epochs else float(preset.epochs),
        size=settings.size or str(preset.size),
        keep_fraction=preset.keep_fraction if settings.keep_fraction is None else settings.keep_fraction,
        groups=settings.sparsity_preset if fits else settings.groups,
    )
