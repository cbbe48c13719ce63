"""`--recover lsq`: the slim network's convolutions, in order, take up what they lost, by least squares (METHODS §7).

For each convolution the original's sums (before batch normalisation) are regressed on what the slim network itself
reads there, everything before it refitted already; what is solved for is the *change* of the cut weights, held at 0 by
a ridge: where nothing is lost nothing changes. A linear convolution that feeds a shortcut also targets what the stream
that it is added to has lost so far. Places count by what they do to the network's statements (see `effects`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from darkprune.graph.graph import Graph, Layer
from darkprune.layers.base import Indices
from darkprune.layers.convolution import Convolutional
from darkprune.layers.merge import Shortcut
from darkprune.network import Network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.samples import Sample
from darkprune.network.walk import MEMORY, Walk
from darkprune.refit.effects import PlaceWeights, convolution_of, slope_of
from darkprune.refit.least_squares import RIDGE, NormalEquations
from darkprune.surgery.apply import Cut

SMALLEST_SLOPE = 1e-4  #: a channel whose batch normalisation multiplies by less cannot correct a stream


@dataclass(frozen=True)
class Pairing:
    """How a slim network's layers and channels lie in the original.

    Attributes:
        original: the network before, in eval mode.
        slim: the network after, in eval mode.
        cut: what went; its labels are those of the original without the units that were cut out.
        layers: slim layer -> the original's number (they differ where units were cut out).
    """

    original: Network
    slim: Network
    cut: Cut
    layers: tuple[int, ...]

    def kept(self, layer: int) -> Tensor:
        """Returns the positions, in the original's map, of the channels of a slim layer."""
        return torch.from_numpy(self.cut.kept(self.cut.channels.of_layer[layer]))

    def carriers(self, layer: int) -> Tensor:
        """Returns per channel of a slim layer whether it is a carrier, which must stay the constant that it is."""
        classes: Indices = self.cut.channels.of_layer[layer]
        mask = (classes >= 0) & self.cut.carriers[classes]
        return torch.from_numpy(mask[self.cut.kept(classes)])


def refit(
    pair: Pairing,
    sample: Sample,
    places: PlaceWeights | None = None,
    *,
    ridge: float = RIDGE,
    stream: bool = True,
    scales: bool = False,
    memory: int = MEMORY,
    progress: Callable[[], object] = lambda: None,
) -> list[int]:
    """Refits a slim network in place.

    Args:
        pair: both networks.
        sample: unlabelled images.
        places: how much each place of the original's maps counts; all alike without.
        ridge: see `NormalEquations.solve`.
        stream: whether convolutions that feed a shortcut correct the stream.
        scales: find one factor per input channel only, as ThiNet does.
        memory: bytes of maps that may be kept, for each of the two networks.
        progress: called after each layer of the slim network.

    Returns:
        The slim layers that were refitted.
    """
    before, after = Walk(pair.original, sample, memory), Walk(pair.slim, sample, memory)
    done = []
    for layer in pair.slim.graph:
        if refittable(pair.slim, layer):
            shortcut = stream_of(pair.slim.graph, layer) if stream else None
            change, offset = _solve(pair, layer, before, after, shortcut, places, ridge, scales)
            _apply(pair.slim, layer, change, offset)
            done.append(layer.index)
        progress()
    return done


def refittable(network: Network, layer: Layer) -> bool:
    """Whether a layer can be refitted: a convolution with weights of its own, but not the first one.

    Shared weights serve several layers, and binary ones cannot take any value.
    """
    module = convolution_of(network, layer)
    if module is None or module.sharing:
        return False
    return all(layer.index not in other.references for other in network.graph)


def stream_of(graph: Graph, layer: Layer) -> Layer | None:
    """Returns the shortcut that a linear convolution alone feeds, if all else that it adds is known before it."""
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


@torch.no_grad()
def _solve(
    pair: Pairing,
    layer: Layer,
    before: Walk,
    after: Walk,
    shortcut: Layer | None,
    places: PlaceWeights | None,
    ridge: float,
    scales: bool,
) -> tuple[Tensor, Tensor]:
    twin = pair.original.graph[pair.layers[layer.index]]
    module, reference = pair.slim.layers[layer.index], pair.original.layers[twin.index]
    assert isinstance(module, Convolution)
    assert isinstance(reference, Convolution)
    kept = pair.kept(layer.index).to(module.weights.device)
    carriers = pair.carriers(layer.index).to(kept.device)
    slope = slope_of(module)
    correctable = (slope.abs() > SMALLEST_SLOPE).view(-1, 1, 1)
    equations = NormalEquations(module, len(after.sample) * layer.output.h * layer.output.w)
    both = zip(before.before(twin.index), after.before(layer.index), strict=True)
    for batch, (maps, slim_maps) in enumerate(both):
        x = after.input_of(layer, slim_maps)
        missing = _sums(reference, before.input_of(twin, maps))[:, kept] - _sums(module, x)
        if shortcut is not None:
            lost = _stream(pair, shortcut, before, maps, slim_maps)
            missing += torch.where(correctable, lost / slope.view(-1, 1, 1), 0.0)
        missing[:, carriers] = 0
        equations.add(x, missing, places.of(twin.index, batch) if places else None)
    return equations.solve_scales(ridge) if scales else equations.solve(ridge)


@torch.no_grad()
def _apply(network: Network, layer: Layer, change: Tensor, offset: Tensor) -> None:
    module = network.layers[layer.index]
    assert isinstance(module, Convolution)
    module.kernel().add_(change)
    if module.has_batch_norm:
        module.rolling_mean.sub_(offset)
    else:
        module.biases.add_(offset)


def _stream(pair: Pairing, shortcut: Layer, before: Walk, maps: dict[int, Tensor], slim: dict[int, Tensor]) -> Tensor:
    """Returns what the other inputs of a shortcut have lost: the original's minus the slim network's."""
    twin = pair.original.graph[pair.layers[shortcut.index]]
    own, theirs = _others(shortcut, slim), _others(twin, maps)
    kept = pair.kept(shortcut.index).to(own.device)
    return theirs[:, kept] - own


def _others(shortcut: Layer, maps: dict[int, Tensor]) -> Tensor:
    return torch.stack([maps[source] for source in shortcut.sources if source in maps]).sum(0)


def _sums(module: Convolution, x: Tensor) -> Tensor:
    """Computes a convolution's sums, less the mean that batch normalisation takes off, or plus the bias."""
    if module.has_batch_norm:
        return module.convolve(x, module.kernel(), None) - module.rolling_mean.view(-1, 1, 1)
    return module.convolve(x, module.kernel(), module.biases)
