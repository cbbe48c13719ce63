"""`--recover lsq`: each convolution of the slim network is refitted to the original's sums by least squares.

Layer by layer (He et al. 2017, §3.2, "Channel pruning for accelerating very deep neural networks"): the original's sums
before batch normalisation are regressed on the inputs that the slim network itself provides, everything before it
refitted already. The unknown is the *change* of the cut weights, held at 0 by a ridge: where nothing is lost nothing
changes. A linear convolution that feeds a shortcut also targets what the residual stream has lost so far. Positions are
weighted by their effect on the outputs (see `darkprune.refit.effects`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from darkprune.data.samples import Sample
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.base import Indices
from darkprune.layers.convolution import Convolutional
from darkprune.layers.merge import Shortcut
from darkprune.network import Network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.walk import MEMORY, Maps, Walk
from darkprune.network.windows import Scratch
from darkprune.progress import say, track
from darkprune.refit.effects import PositionWeights, convolution_of, slope_of
from darkprune.refit.least_squares import RIDGE, NormalEquations
from darkprune.refit.solved_layers import SolvedLayers
from darkprune.surgery.apply import Cut

SMALLEST_SLOPE = 1e-4  #: a channel whose batch normalisation multiplies by less cannot correct a stream


@dataclass(frozen=True)
class AlignedNetworks:
    """An original and a slim network, and which layers and channels of them correspond.

    Attributes:
        original: in eval mode.
        slim: in eval mode.
        cut: what was removed; its labels are those of the original without the units that were cut out.
        layers: slim layer -> the original's index (they differ where units were cut out).
    """

    original: Network
    slim: Network
    cut: Cut
    layers: tuple[int, ...]

    def kept(self, layer: int) -> Tensor:
        """Returns the positions, in the original's map, of the channels of a slim layer."""
        return torch.from_numpy(self.cut.kept(self.cut.channels.of_layer[layer])).to(self.slim.device)

    def carriers(self, layer: int) -> Tensor:
        """Returns per channel of a slim layer whether it is a carrier, whose constant must stay as it is."""
        classes: Indices = self.cut.channels.of_layer[layer]
        mask = (classes >= 0) & self.cut.carriers[classes]
        return torch.from_numpy(mask[self.cut.kept(classes)]).to(self.slim.device)

    def twin(self, layer: Layer) -> Layer:
        """Returns the original's layer that a slim one was cut from."""
        return self.original.graph[self.layers[layer.index]]


@dataclass(frozen=True, kw_only=True)
class RefitSettings:
    """How a network is refitted.

    Attributes:
        ridge: see `NormalEquations.solve`.
        stream: convolutions that feed a shortcut correct the residual stream.
        scales: find one factor per input channel only, as ThiNet does.
        memory: bytes of maps that may be kept, for each of the two networks.
    """

    ridge: float = RIDGE
    stream: bool = True
    scales: bool = False
    memory: int = MEMORY


def refit(
    networks: AlignedNetworks,
    sample: Sample,
    positions: PositionWeights | None = None,
    settings: RefitSettings | None = None,
    solved: SolvedLayers | None = None,
) -> list[int]:
    """Refits a slim network in place.

    Args:
        positions: weights of the positions of the original's maps; all equal without.
        solved: takes what each layer's new values are; those that it has already are not solved for again.

    Returns:
        The slim layers that were refitted.
    """
    work = _Refit(networks, sample, positions, settings or RefitSettings())
    step = track("refitting", len(networks.slim.graph), "layer")
    changed: list[int] = []
    continues = False
    for layer in networks.slim.graph:
        if refittable(networks.slim, layer):
            known = solved.take(layer.index) if solved is not None else None
            if known is not None:
                work.restore(layer, known)
                continues = True
            else:
                if continues:
                    say(f"the refit continues at layer {layer.index} of {len(networks.slim.graph)}")
                    continues = False
                work.refit(layer)
                if solved is not None:
                    solved.keep(layer.index, work.values(layer))
            changed.append(layer.index)
        step()
    return changed


def refittable(network: Network, layer: Layer) -> bool:
    """Returns whether a layer can be refitted: a convolution with weights of its own, but not the first one.

    Shared weights serve several layers, and binary ones cannot take any value.
    """
    module = convolution_of(network, layer)
    if module is None or module.sharing:
        return False
    return all(layer.index not in other.references for other in network.graph)


def stream_of(graph: Graph, layer: Layer) -> Layer | None:
    """Returns the shortcut that a linear convolution alone feeds, if all other inputs of it are computed before."""
    assert isinstance(layer.kind, Convolutional)
    if layer.kind.activation != "linear" or layer.kind.antialiasing:
        return None
    last = layer.index
    readers = graph.consumers[last]
    while len(readers) == 1 and graph[readers[0]].name == "dropout":
        last = readers[0]
        readers = graph.consumers[last]
    if len(readers) != 1:
        return None
    shortcut = graph[readers[0]]
    kind = shortcut.kind
    if not isinstance(kind, Shortcut) or kind.weights_type != "none" or len({*shortcut.inputs}) > 1:
        return None
    others = [source for source in shortcut.sources if source != last]
    known = all(source < layer.index for source in others) and len(others) == len(shortcut.sources) - 1
    return shortcut if others and known else None


class _Refit:
    """The refit of one network, layer after layer."""

    def __init__(
        self, networks: AlignedNetworks, sample: Sample, positions: PositionWeights | None, settings: RefitSettings
    ) -> None:
        self._networks, self._positions, self._settings = networks, positions, settings
        self._original = Walk(networks.original, sample, settings.memory)
        self._slim = Walk(networks.slim, sample, settings.memory)
        self._images, self._scratch = len(sample), Scratch()

    @torch.no_grad()
    def refit(self, layer: Layer) -> None:
        """Refits a layer; those before it are done."""
        module = self._module(layer)
        equations = self._equations(layer, module)
        solve = equations.solve_scales if self._settings.scales else equations.solve
        change, offset = solve(self._settings.ridge)
        module.kernel().add_(change)
        if module.has_batch_norm:
            module.rolling_mean.sub_(offset)
        else:
            module.biases.add_(offset)

    def values(self, layer: Layer) -> bytes:
        """Returns what a refit changes of a layer: its weights, and its rolling mean or its biases."""
        return b"".join(part.cpu().numpy().tobytes() for part in self._changed(layer))

    @torch.no_grad()
    def restore(self, layer: Layer, values: bytes) -> None:
        """Gives a layer the values that `values` returned after its refit."""
        left = np.frombuffer(values, np.float32)
        for part in self._changed(layer):
            new, left = left[: part.numel()], left[part.numel() :]
            part.copy_(torch.from_numpy(new.copy()).view(part.shape))

    def _changed(self, layer: Layer) -> tuple[Tensor, Tensor]:
        module = self._module(layer)
        return module.weights, module.rolling_mean if module.has_batch_norm else module.biases

    def _module(self, layer: Layer) -> Convolution:
        module = self._networks.slim.layers[layer.index]
        assert isinstance(module, Convolution)
        return module

    def _equations(self, layer: Layer, module: Convolution) -> NormalEquations:
        twin = self._networks.twin(layer)
        reference = self._networks.original.layers[twin.index]
        assert isinstance(reference, Convolution)
        kept, carriers = self._networks.kept(layer.index), self._networks.carriers(layer.index)
        shortcut = stream_of(self._networks.slim.graph, layer) if self._settings.stream else None
        slope = slope_of(module)
        correctable = (slope.abs() > SMALLEST_SLOPE).view(-1, 1, 1)
        equations = NormalEquations(module, self._images * layer.output.h * layer.output.w, self._scratch)
        both = zip(self._original.through(twin.index), self._slim.before(layer.index), strict=True)
        for batch, ((original_maps, wanted), slim_maps) in enumerate(both):
            x = self._slim.input_of(layer, slim_maps)
            missing = _less_mean(reference, wanted)[:, kept] - _less_mean(module, module.sums(x))
            if shortcut is not None:
                lost = self._lost_of_stream(shortcut, original_maps, slim_maps)
                missing += torch.where(correctable, lost / slope.view(-1, 1, 1), 0.0)
            missing[:, carriers] = 0
            equations.add(x, missing, self._positions.of(twin.index, batch) if self._positions else None)
        return equations

    def _lost_of_stream(self, shortcut: Layer, original_maps: Maps, slim_maps: Maps) -> Tensor:
        """Returns the original's minus the slim network's sum of the shortcut's other inputs."""
        original = _sum_of_inputs(self._networks.twin(shortcut), original_maps)
        return original[:, self._networks.kept(shortcut.index)] - _sum_of_inputs(shortcut, slim_maps)


def _sum_of_inputs(shortcut: Layer, maps: Maps) -> Tensor:
    """Adds up the inputs of a shortcut that are computed already."""
    return torch.stack([maps[source] for source in shortcut.sources if source in maps]).sum(0)


def _less_mean(module: Convolution, sums: Tensor) -> Tensor:
    """Returns a convolution's sums, minus the mean that batch normalisation subtracts."""
    return sums - module.rolling_mean.view(-1, 1, 1) if module.has_batch_norm else sums
