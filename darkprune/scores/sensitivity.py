"""`--criterion sensitivity`: what a channel does to the network's own outputs, per multiply-add (METHODS §7).

Every dense consumer of a map reads x' = μ + z·(x − μ), with a gate z = 1 per channel: z = 0 is what pruning does with
the measured mean left behind. The score of a class of channels is the mean over unlabelled images and random ±1 probes
of (∂L/∂z)², ∂L/∂z summed over all places where the class is read, with L = Σ ±σ(obj)·σ(cls) + Σ ±box·σ(obj): a random
projection of everything that the network says, whose squared derivative is, on average, the sum of the squared
derivatives of all statements. Divided by the multiply-adds that go with the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.layers import INPUT
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.layers.dense import Connected
from darkprune.network import Network
from darkprune.network.loading import load_network
from darkprune.network.readout import PROBES, project, read_out
from darkprune.network.samples import Sample
from darkprune.selection.importance import ImageScores, LayerScores, scored_layers

IMAGES = 64


def score_by_effect(
    weights: NetworkWeights,
    channels: ChannelMap,
    sample: Sample,
    *,
    probes: int = PROBES,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> ImageScores:
    """Scores every layer that has channels to choose from, and measures what removed channels leave behind.

    Args:
        weights: the pair.
        channels: its labels.
        sample: unlabelled images.
        probes: random projections per image.
        seed: of the projections.
        progress: called after each batch, twice per batch of the sample.

    Raises:
        PlanError: a score that is not a finite number.
    """
    network = load_network(weights.graph, weights, sample.device)
    means = mean_outputs(network, sample, progress)
    scores = score_network(network, channels, sample, means, probes=probes, seed=seed, progress=progress)
    return ImageScores(scores, {index: values for index, values in means.items() if leaves_own(weights.graph[index])})


def score_network(
    network: Network,
    channels: ChannelMap,
    sample: Sample,
    means: Mapping[int, Floats] | None = None,
    *,
    probes: int = PROBES,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> dict[int, LayerScores]:
    """Scores the channels of a loaded network.

    Args:
        network: in eval mode, its parameters without gradients.
        channels: its labels.
        sample: unlabelled images.
        means: from `mean_outputs`, if they are known.
        probes: random projections per image.
        seed: of the projections.
        progress: called after each batch.

    Raises:
        PlanError: a score that is not a finite number.
    """
    means = mean_outputs(network, sample) if means is None else means
    effects = gate_effects(network, channels, means, sample, probes=probes, seed=seed, progress=progress)
    if not np.isfinite(effects).all():
        source = network.graph.cfg.source
        raise PlanError(f"{source}: the network's outputs on these images hold NaN or infinite values")
    per_mac = effects / np.maximum(class_macs(channels), 1)
    return {
        layer.index: LayerScores(layer.index, "gamma", per_mac[channels.of_layer[layer.index]], voting)
        for layer, voting in scored_layers(channels)
    }


def mean_outputs(network: Network, sample: Sample, progress: Callable[[], object] = lambda: None) -> dict[int, Floats]:
    """Measures the mean of every channel of every layer's map over images and places."""
    sums: dict[int, Tensor] = {}
    images_seen = 0

    def add(index: int, module: object, inputs: object, output: Tensor) -> None:
        total = output.double().flatten(2).mean(2).sum(0)
        sums[index] = sums[index] + total if index in sums else total

    hooks = [
        network.layers[layer.index].register_forward_hook(partial(add, layer.index))
        for layer in network.graph
        if layer.output.is_map and layer.sources
    ]
    try:
        with torch.inference_mode():
            for images in sample.batches():
                network(images)
                images_seen += len(images)
                progress()
    finally:
        _remove(hooks)
    return {index: (total / images_seen).cpu().numpy() for index, total in sums.items()}


def gate_effects(
    network: Network,
    channels: ChannelMap,
    means: Mapping[int, Floats],
    sample: Sample,
    *,
    probes: int = PROBES,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Floats:
    """Measures the mean of (∂L/∂z)² per class; see the module.

    Args:
        network: the network, in eval mode, its parameters without gradients.
        channels: its labels.
        means: per layer, from `mean_outputs`.
        sample: images.
        probes: random projections per image.
        seed: of the projections.
        progress: called after each batch.
    """
    generator = torch.Generator().manual_seed(seed)
    gates = _Gates(channels, means, sample.device)
    hooks = [
        network.layers[layer.index].register_forward_pre_hook(partial(gates.enter, layer))
        for layer in channels.graph
        if is_dense(layer) and layer.sources[0] != INPUT
    ]
    total = np.zeros(channels.count)
    seen = 0
    try:
        for images in sample.batches():
            with torch.enable_grad():
                said = read_out(network.graph, network(images))
            for probe in range(probes):
                gates.begin(len(images))
                loss = project(said, generator)
                if loss.requires_grad:
                    loss.backward(retain_graph=probe + 1 < probes)  # type: ignore[no-untyped-call]
                total += gates.derivative.double().square().sum(0).cpu().numpy()
            seen += probes * len(images)
            progress()
    finally:
        _remove(hooks)
    return total / max(seen, 1)


class _Gates:
    """Collects ∂L/∂z per image and class while gradients flow back.

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

    def begin(self, images: int) -> None:
        """Starts a probe."""
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
    """Whether a layer mixes the channels that it reads: only there a removed channel's weights go."""
    if isinstance(layer.kind, Convolutional):
        return not layer.kind.depthwise(layer.inputs[0].c)
    return isinstance(layer.kind, Connected) and layer.inputs[0].is_map


def class_macs(channels: ChannelMap) -> Floats:
    """Counts per class the multiply-adds that make it, and those that read it, wherever it occurs."""
    macs = np.zeros(channels.count)

    def share(total: int, classes: Indices) -> None:
        np.add.at(macs, classes[classes >= 0], total / max(1, len(classes)))

    for layer in channels.graph:
        if not isinstance(layer.kind, Convolutional | Connected):
            continue
        share(layer.macs, channels.of_layer[layer.index])
        if layer.sources[0] != INPUT and is_dense(layer):
            share(layer.macs, channels.inputs(layer))
    return macs


def leaves_own(layer: Layer) -> bool:
    """Whether the mean behind a layer does not follow from the means before it: all but linear passing on."""
    if layer.name in ("route", "upsample", "dropout", "avgpool", "local_avgpool", "reorg", "reorg3d", "empty"):
        return False
    return layer.name != "shortcut" or getattr(layer.kind, "activation", "linear") != "linear"


def _remove(hooks: list[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()
