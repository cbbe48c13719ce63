"""`--criterion surgeon`: the error at the outputs that removing a channel causes after the refit, per multiply-add.

Optimal Brain Surgeon (Hassibi & Stork 1993; for whole channels ZipLM, Kurtić et al. 2023), on all convolutions at once.
A consumer that loses channel c and is refitted on the channels that are left is wrong by ‖w_c‖² / (C⁻¹)_cc per
position, C the covariance of its inputs. The effect of that error on the outputs is the mean squared derivative of L
(see `darkprune.refit.effects`) by the consumer's sums, per output channel. The class of channels whose loss costs
least, summed over its consumers and divided by the multiply-adds that go with it, is removed; its consumers' filters
and C⁻¹ are updated, its own filters no longer count, and so on: of two channels that do the same, the second becomes
important once the first is gone.

In C all positions count equally, unlike in the refit: weighted by their effects, 64 images are too few to tell which
channels explain each other, and the plan is worse.

Of a k×k consumer C is approximated by channels ⊗ taps: with all k² windows of each channel apart it would have k⁴ times
the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from darkprune.data.samples import Sample
from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers.base import Indices
from darkprune.network import Network
from darkprune.network.loading import load_network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.windows import Scratch, shifted
from darkprune.refit.effects import convolutions, measure_effects
from darkprune.refit.least_squares import RIDGE, add_ridge
from darkprune.scores.removal import Consumer, removal_prices
from darkprune.scores.sensitivity import ClassPrice, averaging, class_macs, hooked, image_scores, is_dense
from darkprune.selection.importance import ImageScores, scored_layers


def score_by_surgeon(
    weights: TensorSource,
    channels: ChannelMap,
    sample: Sample,
    price: ClassPrice = class_macs,
) -> ImageScores:
    """Scores every layer that has channels to choose from by the cost of their removal when their turn came.

    Raises:
        PlanError: maps or derivatives that are not finite numbers.
    """
    network = load_network(weights)
    with averaging(network) as means, _collecting_inputs(network) as inputs:
        effects = measure_effects(network, sample).channels
    consumers = list(_consumers(network, channels, inputs, effects))
    if not all(
        bool(torch.isfinite(consumer.filters).all() and torch.isfinite(consumer.inverse).all())
        for consumer in consumers
    ):
        raise PlanError(f"{weights.path}: the network's maps on these images hold NaN or infinite values")
    candidates = np.zeros(channels.count, bool)
    for layer, _ in scored_layers(channels):
        classes = channels.of_layer[layer.index]
        candidates[classes[classes >= 0]] = True
    prices = removal_prices(consumers, candidates & channels.free, np.maximum(price(channels), 1))
    return image_scores(channels, prices, means.result())


def _dense(network: Network) -> Iterator[tuple[Layer, Convolution]]:
    """Yields the convolutions whose inputs are chosen."""
    return ((layer, module) for layer, module in convolutions(network) if is_dense(layer))


@torch.no_grad()
def _consumers(
    network: Network, channels: ChannelMap, inputs: dict[int, _Inputs], effects: Mapping[int, Tensor]
) -> Iterator[Consumer]:
    """Yields every block of every dense convolution; `inputs` are used up."""
    for layer, module in _dense(network):
        moments = inputs.pop(layer.index)
        inverse, taps = moments.inverse(), moments.taps()
        # taps and effects act on other axes than channels do: multiplied in once, they stay valid
        root = torch.linalg.cholesky(taps)
        kernel = module.owner.kernel().double().flatten(2)
        kernel = kernel.reshape(module.groups, -1, *kernel.shape[1:])  # (groups, out, in, taps)
        effect = effects[layer.index].reshape(module.groups, -1).sqrt()
        filters = torch.einsum("goct,ts,go->gcso", kernel, root, effect).float()
        read: Indices = channels.inputs(layer).reshape(module.groups, -1)
        produced: Indices = channels.of_layer[layer.index].reshape(module.groups, -1)
        for block in range(module.groups):
            yield Consumer(read[block], produced[block], inverse[block], filters[block])


@contextmanager
def _collecting_inputs(network: Network) -> Iterator[dict[int, _Inputs]]:
    """Collects the inputs of all dense convolutions that the network runs within the block."""
    scratch = Scratch()
    inputs = {layer.index: _Inputs(module, scratch) for layer, module in _dense(network)}
    hooks = [
        network.layers[index].register_forward_pre_hook(lambda module, maps, index=index: inputs[index].add(maps[0]))
        for index in inputs
    ]
    with hooked(hooks):
        yield inputs


class _Inputs:
    """Covariance of a convolution's inputs: between the channels of each block, and between taps."""

    def __init__(self, module: Convolution, scratch: Scratch) -> None:
        self._module, self._scratch = module, scratch
        kernel = module.owner.kernel()
        groups, channels, device = module.groups, kernel.shape[1], kernel.device
        self._count = 0
        self._shift: Tensor | None = None
        self._total = torch.zeros(groups, channels, dtype=torch.float64, device=device)
        self._gram = torch.zeros(groups, channels, channels, dtype=torch.float64, device=device)
        self._taps = torch.zeros(module.size**2, module.size**2, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Adds a batch (b, c, h, w)."""
        x, module = x.detach(), self._module
        if self._shift is None:
            self._shift = x.mean((0, 2, 3), keepdim=True)
        x = x - self._shift
        rows = x.transpose(0, 1).reshape(module.groups, x.shape[1] // module.groups, -1)
        self._total += rows.sum(2)
        self._gram += rows @ rows.mT
        self._count += rows.shape[2]
        if module.size > 1:
            parts = shifted(module, module.padded(x).flatten(0, 1))
            taps = self._scratch.take("taps", len(parts), *parts[0].shape, like=x)
            for tap, part in enumerate(parts):
                taps[tap] = part
            taps = taps.flatten(1)
            self._taps += taps @ taps.T

    def inverse(self) -> Tensor:
        """Returns the inverse covariance, (groups, c/groups, c/groups), with the ridge of the refit."""
        mean = self._total / max(self._count, 1)
        covariance = self._gram / max(self._count, 1) - mean.unsqueeze(2) * mean.unsqueeze(1)
        add_ridge(covariance, RIDGE)
        inverse, failed = torch.linalg.inv_ex(covariance)
        return torch.where((failed == 0).view(-1, 1, 1), inverse, torch.nan)

    def taps(self) -> Tensor:
        """Returns (taps, taps): covariance of the positions of a window, scaled to 1 on average on the diagonal."""
        eye = torch.eye(len(self._taps), dtype=self._taps.dtype, device=self._taps.device)
        if self._module.size == 1:
            return eye
        mean = self._taps.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        return self._taps / mean + RIDGE * eye
