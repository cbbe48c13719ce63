"""`--criterion surgeon`: what removing a channel does to the outputs after the refit, per multiply-add.

Optimal Brain Surgeon (Hassibi & Stork 1993; of whole channels ZipLM, Kurtić et al. 2023), all convolutions at once. A
consumer that loses channel c and is refitted on what it still reads is wrong by ‖w_c‖² / (C⁻¹)_cc per place, C the
covariance of its inputs. What an error there does to the network's statements is the mean squared derivative of L (see
`sensitivity`) by the consumer's sums, per output channel. The class whose loss costs least, summed over its consumers
and divided by the multiply-adds that go with it, is taken; its consumers' filters and C⁻¹ are brought up to date, what
it produced itself no longer counts, and so on: of two channels that do the same the second is dear once the first went.

In C all places count alike, unlike in the refit: counted by their effects, 64 images are too few to tell what channels
explain each other, and the plan is worse.

Of a k×k consumer C is taken as channels ⊗ taps: with all k² windows of each channel apart it would have k⁴ times the
entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.base import Indices
from darkprune.network import Network
from darkprune.network.loading import load_network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.readout import PROBES
from darkprune.network.samples import Sample
from darkprune.network.walk import Walk
from darkprune.refit.effects import convolutions, measure_effects
from darkprune.refit.least_squares import RIDGE
from darkprune.scores.removal import Reader, removal_prices
from darkprune.scores.sensitivity import class_macs, is_dense, leaves_own, mean_outputs
from darkprune.selection.importance import ImageScores, LayerScores, scored_layers

IMAGES = 64


def score_by_surgeon(
    weights: NetworkWeights,
    channels: ChannelMap,
    sample: Sample,
    *,
    probes: int = PROBES,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> ImageScores:
    """Scores every layer that has channels to choose from by what their removal cost when their turn came.

    Args:
        weights: the pair.
        channels: its labels.
        sample: unlabelled images.
        probes: random projections per image.
        seed: of the projections.
        progress: called after each batch, twice per batch of the sample, and after each layer.

    Raises:
        PlanError: maps or derivatives that are not finite numbers.
    """
    network = load_network(weights.graph, weights, sample.device)
    means = mean_outputs(network, sample, progress)
    effects = measure_effects(network, sample, probes=probes, seed=seed, progress=progress).channels
    readers = list(_readers(network, channels, sample, effects, progress))
    if not all(
        bool(torch.isfinite(reader.filters).all() and torch.isfinite(reader.inverse).all()) for reader in readers
    ):
        raise PlanError(f"{weights.file.path}: the network's maps on these images hold NaN or infinite values")
    scored = list(scored_layers(channels))
    candidates = np.zeros(channels.count, bool)
    for layer, _ in scored:
        classes = channels.of_layer[layer.index]
        candidates[classes[classes >= 0]] = True
    prices = removal_prices(readers, candidates & channels.free, np.maximum(class_macs(channels), 1))
    scores = {
        layer.index: LayerScores(layer.index, "gamma", prices[channels.of_layer[layer.index]], voting)
        for layer, voting in scored
    }
    return ImageScores(scores, {index: values for index, values in means.items() if leaves_own(weights.graph[index])})


def _dense(network: Network) -> Iterator[tuple[Layer, Convolution]]:
    """Yields the convolutions whose inputs are chosen."""
    return ((layer, module) for layer, module in convolutions(network) if is_dense(layer))


@torch.no_grad()
def _readers(
    network: Network,
    channels: ChannelMap,
    sample: Sample,
    effects: Mapping[int, Tensor],
    progress: Callable[[], object],
) -> Iterator[Reader]:
    """Yields every block of every dense convolution as something that reads channels and makes others."""
    walk = Walk(network, sample)
    dense = {layer.index: module for layer, module in _dense(network)}
    for layer in network.graph:
        if layer.index in dense:
            module = dense[layer.index]
            kernel = module.owner.kernel().double().flatten(2)
            moments = _Inputs(module, kernel.shape[1])
            for maps in walk.before(layer.index):
                moments.add(walk.input_of(layer, maps))
            inverse, taps = moments.inverse(), moments.taps()
            # taps and effects act on other axes than channels do: they are multiplied in once and for all
            root = torch.linalg.cholesky(taps)
            kernel = kernel.reshape(module.groups, -1, *kernel.shape[1:])  # (groups, out, in, taps)
            effect = effects[layer.index].reshape(module.groups, -1).sqrt()
            filters = torch.einsum("goct,ts,go->gcso", kernel, root, effect).float()
            read: Indices = channels.inputs(layer).reshape(module.groups, -1)
            made: Indices = channels.of_layer[layer.index].reshape(module.groups, -1)
            for block in range(module.groups):
                yield Reader(read[block], made[block], inverse[block], filters[block])
        progress()


class _Inputs:
    """Covariance of what a convolution reads: between channels of each block, and between taps."""

    def __init__(self, module: Convolution, channels: int) -> None:
        self._module = module
        groups, device = module.groups, module.owner.weights.device
        self._count = 0
        self._shift: Tensor | None = None
        self._total = torch.zeros(groups, channels, dtype=torch.float64, device=device)
        self._gram = torch.zeros(groups, channels, channels, dtype=torch.float64, device=device)
        self._taps = torch.zeros(module.size**2, module.size**2, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Adds (b, c, h, w)."""
        module = self._module
        if self._shift is None:
            self._shift = x.mean((0, 2, 3), keepdim=True)
        x = x - self._shift
        rows = x.transpose(0, 1).reshape(module.groups, x.shape[1] // module.groups, -1)
        self._total += rows.sum(2)
        self._gram += rows @ rows.mT
        self._count += rows.shape[2]
        if module.size > 1:
            planes = x.flatten(0, 1)[:, None]
            windows = functional.unfold(planes, module.size, module.dilation, module.padding, module.stride)
            windows = windows.transpose(0, 1).flatten(1)
            self._taps += windows @ windows.T

    def inverse(self) -> Tensor:
        """Returns (groups, c/groups, c/groups): the inverse covariance, with the ridge of the refit."""
        mean = self._total / max(self._count, 1)
        covariance = self._gram / max(self._count, 1) - mean.unsqueeze(2) * mean.unsqueeze(1)
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        held = RIDGE * diagonal.mean(1).clamp_min(torch.finfo(torch.float32).tiny)
        diagonal.add_(held.unsqueeze(1))
        inverse, failed = torch.linalg.inv_ex(covariance)
        return torch.where((failed == 0).view(-1, 1, 1), inverse, torch.nan)

    def taps(self) -> Tensor:
        """Returns (taps, taps): how the places of a window vary together, 1 on average on the diagonal."""
        eye = torch.eye(len(self._taps), dtype=self._taps.dtype, device=self._taps.device)
        if self._module.size == 1:
            return eye
        mean = self._taps.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        return self._taps / mean + RIDGE * eye
