"""Scores of channels: how much a producing layer's output channel matters.

A score is only compared within its *family*: |γ| of batch-normalised layers in one, norms of weights in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap, depthwise_layers
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers import Role
from darkprune.layers.base import Floats

#: name -> function(weights of a layer as (out, rest)) giving one score per output channel
WEIGHT_NORMS: dict[str, Callable[[Floats], Floats]] = {
    "l1": lambda rows: np.abs(rows).mean(axis=1),
    "l2": lambda rows: np.sqrt(np.square(rows).mean(axis=1)),
}
Criterion = Literal["auto", "bn_gamma", "l1", "l2", "sensitivity", "first-order", "surgeon", "thinet"]
CRITERIA = ("bn_gamma", *WEIGHT_NORMS)
#: criteria that look at images, which only `darkprune.scores` can compute
IMAGE_CRITERIA = ("sensitivity", "first-order", "surgeon", "thinet")
#: those of them whose scores are comparable over the whole network
GLOBAL_CRITERIA = ("sensitivity", "first-order", "surgeon")
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class LayerScores:
    """Scores of one layer's output channels.

    Attributes:
        layer: layer index.
        family: `gamma` or `weights`; scores of different families are not comparable.
        values: one per output channel, larger is more important, float64.
        voting: False for depthwise layers (their channels are their feeder's) and squeeze-and-excitation branches.
    """

    layer: int
    family: str
    values: Floats
    voting: bool


@dataclass(frozen=True)
class ImageScores:
    """Scores of a criterion that looks at images, and what it measured on the way.

    Attributes:
        scores: per layer.
        measured: layer -> mean of each output channel, the constant that a removed one leaves behind; for the layers
            where it does not follow from the means before.
    """

    scores: Mapping[int, LayerScores]
    measured: Mapping[int, Floats] = field(default_factory=dict)


def scored_layers(channels: ChannelMap) -> Iterator[tuple[Layer, bool]]:
    """Yields the layers that have channels to choose from, and whether they vote (see `LayerScores`)."""
    passing = {layer.index for layer in depthwise_layers(channels)}
    for layer in channels.graph:
        if "weights" not in {blob.name for blob in layer.stored} or layer.name not in ("convolutional", "connected"):
            continue
        classes = channels.of_layer[layer.index]
        if channels.free[classes[classes >= 0]].any():
            yield layer, layer.index not in passing and layer.index not in channels.followers


def score_channels(weights: TensorSource, channels: ChannelMap, criterion: str) -> dict[int, LayerScores]:
    """Scores every layer that has channels to choose from.

    Args:
        criterion: `bn_gamma`: |γ|, and the mean |w| of filters without batch normalisation; `l1`, `l2`: mean
            and root mean square of each filter's weights, for all layers alike.

    Raises:
        PlanError: no such criterion, or a score that is not a finite number.
    """
    if criterion in IMAGE_CRITERIA:
        raise PlanError(f"criterion {criterion} looks at images: give some with --images DIR (labels are not needed)")
    if criterion not in CRITERIA:
        raise PlanError(f"no criterion '{criterion}'; there are {', '.join(CRITERIA)}")
    scores = {}
    for layer, voting in scored_layers(channels):
        names = {blob.name for blob in layer.stored}
        if criterion == "bn_gamma" and "scales" in names:
            family, values = "gamma", np.abs(np.array(weights.read(layer, "scales"), np.float64))
        else:
            norm = WEIGHT_NORMS["l1" if criterion == "bn_gamma" else criterion]
            family, values = "weights", _filter_norms(weights, layer, norm)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).argmax())
            raise PlanError(
                f"{weights.path}: layer {layer.index} ({layer.name}): channel {bad} has a weight that is NaN or "
                "infinite; repair or retrain the checkpoint"
            )
        scores[layer.index] = LayerScores(layer.index, family, values, voting)
    return scores


def _filter_norms(weights: TensorSource, layer: Layer, norm: Callable[[Floats], Floats]) -> Floats:
    if layer.blob("weights").axes[0].role is not Role.OUT:
        rows = np.moveaxis(weights.read(layer, "weights"), -1, 0)
        return norm(np.array(rows.reshape(layer.output.c, -1), np.float64))
    chunks = weights.chunks(layer, "weights", CHUNK_BYTES)
    parts = [norm(np.array(rows.reshape(len(rows), -1), np.float64)) for _, rows in chunks]
    return np.concatenate(parts)
