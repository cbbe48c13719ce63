"""What an error in a convolution's sums does to the network's statements, per channel and per place.

L is a random projection of everything that the network says (see `sensitivity`); the squared derivative of L by a sum
is, on average over projections, the sum of the squared derivatives of all statements. Most places of most images are
background, where an error changes nothing that counts: a refit that weighs all places alike spends itself there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from darkprune.graph.graph import Layer
from darkprune.layers import INPUT
from darkprune.layers.convolution import BN_EPSILON
from darkprune.network import Network
from darkprune.network.modules.convolution import BinaryConvolution, Convolution
from darkprune.network.readout import PROBES, project, read_out
from darkprune.network.samples import Sample

POWER = 0.5  #: of a place's effect: half way between all places alike and the effect itself, whose estimate is noisy


class PlaceWeights:
    """How much each place of each convolution of the original network counts, on one sample; 1 on average.

    Kept in 16 bits: about 2 MB per image for yolov4 at 416 pixels.
    """

    def __init__(self, found: Mapping[int, Sequence[Tensor]]) -> None:
        """Takes weights in any unit: per convolution a list of (b, h, w), batch by batch."""
        self._kept: dict[int, list[tuple[float, Tensor]]] = {}
        for index, batches in found.items():
            places = sum(batch.numel() for batch in batches)
            mean = sum(float(batch.sum(dtype=torch.float64)) for batch in batches) / max(places, 1)
            if 0 < mean < math.inf:  # else nothing that is said depends on this layer
                self._kept[index] = [_compact(batch / mean) for batch in batches]

    def of(self, index: int, batch: int) -> Tensor | None:
        """Returns the weights of a convolution's places in one batch, (b, h, w); None where all count alike."""
        if index not in self._kept:
            return None
        scale, weights = self._kept[index][batch]
        return weights.float() * scale


@dataclass(frozen=True)
class Effects:
    """What an error in the sums of each convolution does to what is said.

    Attributes:
        channels: per convolution (n,) float64: the mean over images of Σ_places (∂L/∂sum)².
        places: (Σ_channels (∂L/∂sum)²)^`POWER` at each place of each image.
    """

    channels: Mapping[int, Tensor]
    places: PlaceWeights


def measure_effects(
    network: Network,
    sample: Sample,
    *,
    power: float = POWER,
    probes: int = PROBES,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Effects:
    """Measures effects on unlabelled images.

    Args:
        network: in eval mode, its parameters without gradients.
        sample: the images; weights of places are of these images alone.
        power: 1 weighs places by their effect, 0 all alike.
        probes: random projections per image.
        seed: of the projections.
        progress: called after each batch.
    """
    totals = {
        layer.index: torch.zeros(layer.output.c, dtype=torch.float64, device=sample.device)
        for layer, _ in convolutions(network)
    }
    places: dict[int, list[Tensor]] = {}
    now: dict[int, Tensor] = {}

    def add(index: int, gradient: Tensor) -> None:
        squares = gradient.square()
        totals[index] += squares.double().sum((0, 2, 3))
        now[index] = now[index] + squares.sum(1) if index in now else squares.sum(1)

    def end_batch() -> None:
        for index, effect in now.items():
            places.setdefault(index, []).append(effect.pow(power))
        now.clear()
        progress()

    seen = probes * _send_back(network, sample, add, probes=probes, seed=seed, progress=end_batch)
    return Effects({index: total / max(seen, 1) for index, total in totals.items()}, PlaceWeights(places))


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
    """Returns what batch normalisation multiplies each sum by."""
    if not module.has_batch_norm:
        return torch.ones_like(module.biases)
    return module.scales / torch.sqrt(module.rolling_variance + BN_EPSILON)


def _send_back(
    network: Network,
    sample: Sample,
    receive: Callable[[int, Tensor], None],
    *,
    probes: int,
    seed: int,
    progress: Callable[[], object],
) -> int:
    """Sends random projections of what a network says back to the sums of its convolutions.

    Args:
        network: in eval mode, its parameters without gradients.
        sample: unlabelled images.
        receive: called with a convolution's number and ∂L/∂sum, (b, n, h, w), for each probe.
        probes: random projections per image.
        seed: of the projections.
        progress: called after each batch.

    Returns:
        How many images were seen.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = 0
    with _watched(network, receive):
        for images in sample.batches():
            with torch.enable_grad():
                said = read_out(network.graph, network(images))
            for probe in range(probes):
                loss = project(said, generator)
                if loss.requires_grad:
                    loss.backward(retain_graph=probe + 1 < probes)  # type: ignore[no-untyped-call]
            seen += len(images)
            progress()
    return seen


@contextmanager
def _watched(network: Network, receive: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within the block gradients that reach a convolution's sums are handed over."""
    inner = {layer.index: module.activation for layer, module in convolutions(network)}
    for layer, module in convolutions(network):
        slope = slope_of(module.owner).view(-1, 1, 1)
        module.activation = partial(_activate, module.activation, partial(_hand_over, receive, layer.index, slope))
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


def _hand_over(receive: Callable[[int, Tensor], None], index: int, slope: Tensor, gradient: Tensor) -> None:
    receive(index, gradient * slope)


def _compact(weights: Tensor) -> tuple[float, Tensor]:
    """Returns weights in 16 bits and what they are multiplied by: the largest is 1, what is far smaller is 0."""
    largest = float(weights.max()) if weights.numel() else 0.0
    return largest, (weights / largest if largest > 0 else weights).half()
