"""A network run layer by layer over a sample, while its layers are being changed one after the other.

Before each layer the maps of all images are needed. Running from the image anew for every layer takes time quadratic in
the depth; keeping all maps takes memory. So the maps that are still needed are kept from the latest layer at which they
fit into the given memory, and the layers from there on are run again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from darkprune.data.samples import Sample
from darkprune.graph.graph import Graph, Layer
from darkprune.layers import INPUT
from darkprune.network import LayerModule, Network
from darkprune.network.loading import batches_for

MEMORY = 2 << 30  #: bytes of maps that are kept between two layers

Maps = dict[int, Tensor]


class Walk:
    """A network and the maps of a sample's images before some layer.

    Attributes:
        network: the network.
        sample: the images.
    """

    def __init__(self, network: Network, sample: Sample, memory: int = MEMORY) -> None:
        """Starts at the images.

        Args:
            network: in eval mode; a layer may be changed as long as no later one was asked for.
            sample: the images.
            memory: bytes of maps that may be kept.
        """
        self.network = network
        self.sample = sample
        self._memory = memory
        self._reached = 0  # the layer before which `_kept` holds the maps
        self._kept: list[Maps] | None = None
        graph = network.graph
        self._last_use = {source: layer.index for layer in graph for source in layer.sources}

    def before(self, index: int) -> Iterator[Maps]:
        """Yields, batch by batch, the maps that layer `index` and those after it read.

        Each call must name the same or a later layer than the call before, and be iterated to its end.
        """
        keep = self._size(index) <= self._memory
        start, kept = self._reached, self._kept
        images = batches_for(self.network, self.sample)
        batches = iter(kept) if kept is not None else ({INPUT: batch} for batch in images)
        renewed: list[Maps] = []
        for number, maps in enumerate(batches):
            now = dict(maps)
            with torch.no_grad():  # not around the yield: the mode would reach the caller
                for layer in self.network.graph.layers[start:index]:
                    self._run(layer, now)
            if keep and kept is not None:
                kept[number] = now  # in place: two copies would be twice the memory
            elif keep:
                renewed.append(now)
            yield now
        if keep:
            self._reached, self._kept = index, kept if kept is not None else renewed

    def input_of(self, layer: Layer, maps: Maps, number: int = 0) -> Tensor:
        """Returns one of a layer's inputs, from the maps before it."""
        source = layer.sources[number]
        if source == layer.index - 1 and source != INPUT:
            return self._module(source).seen_behind(maps[source])
        return maps[source]

    def _run(self, layer: Layer, maps: Maps) -> None:
        module = self._module(layer.index)
        used = layer.index in self._last_use
        if used or not (module.is_head or module.is_loss):
            inputs = [self.input_of(layer, maps, number) for number in range(len(layer.sources))]
            output = module(*inputs)
            if used:
                maps[layer.index] = output
        for source in {*layer.sources, layer.index}:
            if self._last_use.get(source, -1) <= layer.index:
                maps.pop(source, None)

    def _size(self, index: int) -> int:
        return len(self.sample) * live_bytes(self.network.graph, index)

    def _module(self, index: int) -> LayerModule:
        module = self.network.layers[index]
        assert isinstance(module, LayerModule)
        return module


def live_bytes(graph: Graph, index: int) -> int:
    """Counts the bytes of one image's maps that layer `index` and those after it read."""
    last_use = {source: layer.index for layer in graph for source in layer.sources}
    return 4 * sum(graph.feature(i).outputs for i in range(INPUT, index) if last_use.get(i, INPUT) >= index)


def affordable_images(graph: Graph, memory: int = MEMORY) -> int:
    """Returns the number of images whose maps before any layer but the first fit into memory: no layer is run twice."""
    return memory // max(live_bytes(graph, index) for index in range(1, len(graph) + 1))
