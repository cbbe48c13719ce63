"""Which γ a sparse training run penalises: those that pruning ranks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.graph.channels import depthwise_layers, map_channels
from darkprune.graph.graph import Graph
from darkprune.graph.groups import PruneGroup, group_of
from darkprune.selection.voting import prunable_classes


@dataclass(frozen=True, eq=False)
class SparseLayer:
    """A layer whose γ is penalised.

    Attributes:
        layer: its index.
        group: position of its group.
        free: (c,) bool, which channels may be pruned: the others are not penalised.
    """

    layer: int
    group: int
    free: Tensor


def sparse_layers(graph: Graph, groups: Sequence[PruneGroup], exclude: Collection[int]) -> tuple[SparseLayer, ...]:
    """Finds the batch-normalised layers whose channels pruning ranks.

    Pinned channels are not among them, nor depthwise layers (their channels are those of the layer before) and
    squeeze-and-excitation branches (they have no rank of their own).

    Args:
        exclude: layers that keep all their channels; what shares channels with them keeps those too.

    Raises:
        TrainingError: there is no such layer.
    """
    channels = map_channels(graph)
    passing = {layer.index for layer in depthwise_layers(channels)} | channels.followers
    prunable = prunable_classes(channels, groups, frozenset(exclude))
    found = []
    for layer in graph:
        if layer.index not in channels.producers or layer.index in passing:
            continue
        if not any(blob.name == "scales" for blob in layer.blobs):
            continue
        free = prunable[channels.of_layer[layer.index]]
        group = group_of(groups, layer.index)
        if group is not None and free.any():
            found.append(SparseLayer(layer.index, groups.index(group), torch.from_numpy(free)))
    if not found:
        raise TrainingError(
            f"{graph.cfg.source}: has no batch-normalised convolution with channels to prune; sparse training needs γ"
        )
    return tuple(found)
