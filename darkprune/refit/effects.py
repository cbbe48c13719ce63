"""How much an error in a convolution's sums changes the network's outputs, per channel and per position.

L is a random projection of all outputs (see `darkprune.network.readout`); the squared derivative of L by a sum is, on
average over projections, the sum of the squared derivatives of all outputs. At most positions of most images there is
background, where an error changes nothing that counts: a refit that weighs all positions equally is spent there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from darkprune.data.samples import Sample
from darkprune.graph.graph import Layer
from darkprune.layers import INPUT
from darkprune.layers.convolution import BN_EPSILON
from darkprune.network import Network
from darkprune.network.loading import batches_for
from darkprune.network.modules.convolution import BinaryConvolution, Convolution
from darkprune.network.readout import PROBES, backward_passes
from darkprune.progress import track

POWER = 0.5  #: of a position's effect: between equal weights and the effect itself, whose estimate is noisy


class PositionWeights:
    """Weight of each position of each convolution of the original network, on one sample; 1 on average.

    Kept in 16 bits: about 2 MB per image for yolov4 at 416 pixels.
    """

    def __init__(self, found: Mapping[int, Sequence[Tensor]]) -> None:
        """Takes weights in any unit: per convolution a list of (b, h, w), batch by batch."""
        self._kept: dict[int, list[tuple[float, Tensor]]] = {}
        for index, batches in found.items():
            count = sum(batch.numel() for batch in batches)
            mean = sum(float(batch.sum(dtype=torch.float64)) for batch in batches) / max(count, 1)
            if 0 < mean < math.inf:  # else no output depends on this layer
                self._kept[index] = [_compact(batch / mean) for batch in batches]

    def of(self, index: int, batch: int) -> Tensor | None:
        """Returns the weights of a convolution's positions in one batch, (b, h, w); None where all are equal."""
        if index not in self._kept:
            return None
        scale, weights = self._kept[index][batch]
        return weights.float() * scale


@dataclass(frozen=True)
class Effects:
    """How much an error in the sums of each convolution changes the outputs.

    Attributes:
        channels: per convolution (n,) float64: the mean over images of Σ_positions (∂L/∂sum)².
        positions: (Σ_channels (∂L/∂sum)²)^`POWER` at each position of each image.
    """

    channels: Mapping[int, Tensor]
    positions: PositionWeights


def measure_effects(network: Network, sample: Sample) -> Effects:
    """Measures effects on unlabelled images.

    Args:
        network: in eval mode, its parameters without gradients.
        sample: the images; the weights of positions are of these images alone.
    """
    generator = torch.Generator().manual_seed(0)
    totals = {
        layer.index: torch.zeros(layer.output.c, dtype=torch.float64, device=network.device)
        for layer, _ in convolutions(network)
    }
    positions: dict[int, list[Tensor]] = {}
    of_batch: dict[int, Tensor] = {}

    def add(index: int, gradient: Tensor) -> None:
        squares = gradient.square()
        totals[index] += squares.double().sum((0, 2, 3))
        of_batch[index] = of_batch[index] + squares.sum(1) if index in of_batch else squares.sum(1)

    images = 0
    step = track("measuring effects", sample.batch_count, "batch")
    with _gradients_to(network, add):
        for batch in batches_for(network, sample):
            for _ in backward_passes(network, batch, PROBES, generator):
                pass
            for index, effect in of_batch.items():
                positions.setdefault(index, []).append(effect.pow(POWER))
            of_batch.clear()
            images += len(batch)
            step()
    count = max(PROBES * images, 1)
    return Effects({index: total / count for index, total in totals.items()}, PositionWeights(positions))


def convolutions(network: Network) -> Iterator[tuple[Layer, Convolution]]:
    """Yields the convolutions whose sums can be corrected."""
    for layer in network.graph:
        module = convolution_of(network, layer)
        if module is not None:
            yield layer, module


def convolution_of(network: Network, layer: Layer) -> Convolution | None:
    """Returns a layer's convolution if its sums can be corrected: no binary one, and none that reads the image."""
    module = network.layers[layer.index]
    if not isinstance(module, Convolution) or isinstance(module, BinaryConvolution) or layer.sources[0] == INPUT:
        return None
    return module


def slope_of(module: Convolution) -> Tensor:
    """Returns the factor of batch normalisation for each sum, (n,) float32; 1 without batch normalisation.

    Not `slope_and_intercept`, which computes in 64 bits: rounded afterwards it differs in the last bit, and with it
    every refitted weight.
    """
    if not module.has_batch_norm:
        return torch.ones_like(module.biases)
    return module.scales / torch.sqrt(module.rolling_variance + BN_EPSILON)


@contextmanager
def _gradients_to(network: Network, receive: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within the block `receive` gets a convolution's index and ∂L/∂sum, (b, n, h, w), of every backward pass."""
    inner = {layer.index: module.activation for layer, module in convolutions(network)}
    for layer, module in convolutions(network):
        slope = slope_of(module.owner).view(-1, 1, 1)
        module.activation = partial(_activate, module.activation, partial(_pass_on, receive, layer.index, slope))
    try:
        yield
    finally:
        for layer, module in convolutions(network):
            module.activation = inner[layer.index]


def _activate(activation: Callable[[Tensor], Tensor], hook: Callable[[Tensor], None], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return activation(x)
    # the first one starts the graph: a leaf, which must not be overwritten
    x = x if x.requires_grad else x.detach().requires_grad_().clone()
    x.register_hook(hook)  # type: ignore[no-untyped-call]
    return activation(x)


def _pass_on(receive: Callable[[int, Tensor], None], index: int, slope: Tensor, gradient: Tensor) -> None:
    receive(index, gradient * slope)


def _compact(weights: Tensor) -> tuple[float, Tensor]:
    """Returns weights in 16 bits and their factor: the largest is 1, far smaller ones become 0."""
    largest = float(weights.max()) if weights.numel() else 0.0
    return largest, (weights / largest if largest > 0 else weights).half()
