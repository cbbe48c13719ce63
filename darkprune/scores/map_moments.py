"""Means and covariances of channels, measured on images at every map that a convolution reads.

Similar channels are found by them (Zhang et al. 2024). Unlike moments that follow from the filters
(`darkprune.selection.filter_moments`) these know the real inputs, and hold after any layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from darkprune.data.samples import Sample, Samples
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Graph
from darkprune.graph.weights import TensorSource
from darkprune.layers import INPUT
from darkprune.layers.base import Floats, Indices
from darkprune.network.loading import batches_for, load_network
from darkprune.progress import track
from darkprune.scores.sensitivity import hooked, is_dense
from darkprune.selection.filter_moments import Moments, MomentsFrom, MomentsOf

IMAGES = 64


def map_moments(weights: TensorSource, channels: ChannelMap, sample: Sample) -> MomentsOf:
    """Measures mean and covariance of all channels of every map that a dense convolution reads."""
    network = load_network(weights)
    step = track("measuring maps", sample.batch_count, "batch")
    sums = {index: _Sums() for index in _read(weights.graph)}
    hooks = [network.layers[index].register_forward_hook(here.add) for index, here in sums.items()]
    with hooked(hooks), torch.inference_mode():
        for images in batches_for(network, sample):
            network(images)
            step()
    measured = {index: here.moments() for index, here in sums.items()}

    def moments(classes: Indices) -> Mapping[int, Sequence[Moments]]:
        known = {}
        for index, (mean, covariance) in measured.items():
            found = list(_occurrences(channels.of_layer[index], classes))
            if found:
                known[index] = [Moments(at, mean[at], covariance[np.ix_(at, at)]) for at in found]
        return known

    return moments


def moments_on(samples: Samples) -> MomentsFrom:
    """Returns a function that measures the moments of the one network that it is called with, once."""
    known: list[MomentsOf] = []

    def moments(weights: TensorSource, channels: ChannelMap) -> MomentsOf:
        if not known:
            known.append(map_moments(weights, channels, samples.fit.first(IMAGES)))
        return known[0]

    return moments


class _Sums:
    """Sums over positions and images of one map's channels, centred by the first batch's mean."""

    def __init__(self) -> None:
        self._shift = self._total = self._gram = torch.zeros(0)
        self._count = 0

    def add(self, module: object, inputs: object, output: Tensor) -> None:
        """Forward hook: adds a map, (b, c, h, w)."""
        rows = output.transpose(0, 1).flatten(1)
        if not self._count:
            self._shift = rows.mean(1, keepdim=True)
            self._total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
            self._gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        rows = rows - self._shift
        self._total += rows.sum(1)
        self._gram += rows @ rows.T
        self._count += rows.shape[1]

    def moments(self) -> tuple[Floats, Floats]:
        """Returns mean (c,) and covariance (c, c)."""
        count = max(self._count, 1)
        mean = self._total / count
        covariance = self._gram / count - torch.outer(mean, mean)
        return (self._shift.flatten() + mean).cpu().numpy(), covariance.cpu().numpy()


def _read(graph: Graph) -> list[int]:
    """Lists the layers whose maps dense layers read."""
    return sorted({layer.sources[0] for layer in graph if is_dense(layer)} - {INPUT})


def _occurrences(own: Indices, classes: Indices) -> Iterator[Indices]:
    """Yields the positions of classes in a map, one array for each time that all of them occur."""
    order = np.argsort(own, kind="stable")  # equal classes stay in the order of the map
    first = np.searchsorted(own, classes, sorter=order)
    times = np.searchsorted(own, classes, side="right", sorter=order) - first
    for number in range(int(times.min(initial=len(own)))):
        yield order[first + number]
