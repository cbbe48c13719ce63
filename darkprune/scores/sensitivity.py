"""`--criterion first-order`: the effect of a channel on the network's own outputs, per multiply-add.

Every dense consumer of a map reads x' = μ + z·(x − μ), with a gate z = 1 per channel: z = 0 is what pruning does with
the measured mean left behind. The score of a class of channels is the mean over unlabelled images and random
projections L of the outputs (see `darkprune.network.readout`) of (∂L/∂z)², ∂L/∂z summed over all positions where the
class is read, divided by the multiply-adds that go with the class. (Molchanov et al. 2019, "Importance estimation for
neural network pruning", square the derivatives of the training loss instead.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from darkprune.data.samples import Sample
from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers import INPUT
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.layers.dense import Connected
from darkprune.network import Network
from darkprune.network.loading import batches_for, load_network
from darkprune.network.readout import PROBES, backward_passes
from darkprune.progress import track
from darkprune.selection.importance import ImageScores, LayerScores, scored_layers

IMAGES = 64  #: that a criterion uses
#: returns per class of channels what it costs to keep it
ClassPrice = Callable[[ChannelMap], Floats]


def class_macs(channels: ChannelMap) -> Floats:
    """Counts per class the multiply-adds that produce it and that read it, wherever it occurs."""
    return class_shares(channels, lambda layer: (layer.macs, layer.macs))


def class_shares(channels: ChannelMap, of_layer: Callable[[Layer], tuple[float, float]]) -> Floats:
    """Shares out what layers cost to the classes that they read and produce.

    Args:
        of_layer: returns what a layer's inputs cost together, and its outputs.
    """
    total = np.zeros(channels.count)

    def share(cost: float, classes: Indices) -> None:
        np.add.at(total, classes[classes >= 0], cost / max(1, len(classes)))

    for layer in channels.graph:
        if not isinstance(layer.kind, Convolutional | Connected):
            continue
        read, made = of_layer(layer)
        share(made, channels.of_layer[layer.index])
        if layer.sources[0] != INPUT and is_dense(layer):
            share(read, channels.inputs(layer))
    return total


def score_by_effect(
    weights: TensorSource,
    channels: ChannelMap,
    sample: Sample,
    price: ClassPrice = class_macs,
) -> ImageScores:
    """Scores every layer that has channels to choose from, and measures what removed channels leave behind.

    Raises:
        PlanError: a score that is not a finite number.
    """
    network = load_network(weights)
    means = mean_outputs(network, sample)
    return image_scores(channels, effect_per_price(network, channels, sample, means, price), means)


def image_scores(channels: ChannelMap, importance: Floats, means: Mapping[int, Floats]) -> ImageScores:
    """Makes scores of an importance per class, with the means that do not follow from those of the layers before.

    Args:
        means: per layer, from `mean_outputs`.
    """
    scores = {
        layer.index: LayerScores(layer.index, "gamma", importance[channels.of_layer[layer.index]], voting)
        for layer, voting in scored_layers(channels)
    }
    return ImageScores(scores, {index: mean for index, mean in means.items() if leaves_own(channels.graph[index])})


def effect_per_price(
    network: Network,
    channels: ChannelMap,
    sample: Sample,
    means: Mapping[int, Floats],
    price: ClassPrice = class_macs,
) -> Floats:
    """Returns the effect of every class of channels per multiply-add, or per another price.

    Args:
        network: in eval mode, its parameters without gradients.
        means: per layer, from `mean_outputs`.

    Raises:
        PlanError: an effect that is not a finite number.
    """
    effects = gate_effects(network, channels, means, sample)
    if not np.isfinite(effects).all():
        source = network.graph.cfg.source
        raise PlanError(f"{source}: the network's outputs on these images hold NaN or infinite values")
    return effects / np.maximum(price(channels), 1)


def mean_outputs(network: Network, sample: Sample) -> dict[int, Floats]:
    """Measures the mean of every channel of every layer's map over images and positions."""
    step = track("measuring means", sample.batch_count, "batch")
    with averaging(network) as means, torch.inference_mode():
        for batch in batches_for(network, sample):
            network(batch)
            step()
    return means.result()


class Means:
    """Means of maps, collected while a network runs."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._images: dict[int, int] = {}

    def add(self, index: int, module: object, inputs: object, output: Tensor) -> None:
        """Forward hook of layer `index`."""
        total = output.detach().double().flatten(2).mean(2).sum(0)
        self._sums[index] = self._sums[index] + total if index in self._sums else total
        self._images[index] = self._images.get(index, 0) + len(output)

    def result(self) -> dict[int, Floats]:
        """Returns the mean of every channel over images and positions, per layer."""
        return {index: (total / self._images[index]).cpu().numpy() for index, total in self._sums.items()}


@contextmanager
def averaging(network: Network) -> Iterator[Means]:
    """Collects the means of all maps that the network computes within the block."""
    means = Means()
    layers = (layer.index for layer in network.graph if layer.output.is_map and layer.sources)
    with hooked(network.layers[index].register_forward_hook(partial(means.add, index)) for index in layers):
        yield means


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Removes hooks of modules when the block ends."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


def gate_effects(
    network: Network,
    channels: ChannelMap,
    means: Mapping[int, Floats],
    sample: Sample,
) -> Floats:
    """Measures the mean of (∂L/∂z)² per class; see the module.

    Args:
        network: in eval mode, its parameters without gradients.
        means: per layer, from `mean_outputs`.
    """
    generator = torch.Generator().manual_seed(0)
    gates = _Gates(channels, means, network.device)
    hooks = [
        network.layers[layer.index].register_forward_pre_hook(partial(gates.enter, layer))
        for layer in channels.graph
        if is_dense(layer) and layer.sources[0] != INPUT
    ]
    total = np.zeros(channels.count)
    count = 0
    step = track("measuring effects", sample.batch_count, "batch")
    with hooked(hooks):
        for batch in batches_for(network, sample):
            gates.reset(len(batch))
            for _ in backward_passes(network, batch, PROBES, generator):
                total += gates.derivative.double().square().sum(0).cpu().numpy()
                gates.reset(len(batch))
                count += len(batch)
            step()
    return total / max(count, 1)


class _Gates:
    """Collects ∂L/∂z per image and class during a backward pass.

    Attributes:
        derivative: (b, classes).
    """

    def __init__(self, channels: ChannelMap, means: Mapping[int, Floats], device: torch.device) -> None:
        self._device, self._count = device, channels.count
        self._sites: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for layer in channels.graph:
            if is_dense(layer) and layer.sources[0] in means:
                classes: Indices = channels.inputs(layer)
                chosen = np.flatnonzero(classes >= 0)
                mean = torch.from_numpy(means[layer.sources[0]]).float().view(-1, 1, 1)
                self._sites[layer.index] = (
                    torch.from_numpy(chosen).to(device),
                    torch.from_numpy(classes[chosen]).to(device),
                    mean.to(device),
                )
        self.derivative = torch.zeros(0, channels.count)

    def reset(self, images: int) -> None:
        """Starts a backward pass."""
        self.derivative = torch.zeros(images, self._count, device=self._device)

    def enter(self, layer: Layer, module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Forward pre-hook of a dense consumer: gives it a node of its own, whose gradient is that of its gate."""
        if layer.index not in self._sites:
            return None
        x = inputs[0]
        site = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()  # the first consumer starts the graph
        chosen, classes, mean = self._sites[layer.index]
        content = x.detach()

        def collect(gradient: Tensor) -> None:
            each = (gradient * (content - mean)).flatten(2).sum(2)
            self.derivative.index_add_(1, classes, each[:, chosen])

        site.register_hook(collect)  # type: ignore[no-untyped-call]
        return (site, *inputs[1:])


def is_dense(layer: Layer) -> bool:
    """Returns whether a layer mixes the channels that it reads: only there a removed channel's weights go."""
    return layer.is_dense and layer.inputs[0].is_map


def leaves_own(layer: Layer) -> bool:
    """Returns whether the mean after a layer does not follow from the means before: all but layers that pass it on."""
    if layer.name in ("route", "upsample", "dropout", "avgpool", "local_avgpool", "reorg", "reorg3d", "empty"):
        return False
    return layer.name != "shortcut" or getattr(layer.kind, "activation", "linear") != "linear"
