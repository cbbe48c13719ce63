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
from darkprune.network.modules.convolution import Convolution

MEMORY = 2 << 30  #: bytes of maps that are kept between two layers

Maps = dict[int, Tensor]


class Walk:
    """A network and the maps of a sample's images before some layer."""

    def __init__(self, network: Network, sample: Sample, memory: int = MEMORY) -> None:
        """Starts at the images.

        Args:
            network: in eval mode; a layer may be changed as long as no later one was asked for.
            memory: bytes of maps that may be kept.
        """
        self.network = network
        self.sample = sample
        self._memory = memory
        self._reached = 0  # the layer before which `_kept` holds the maps
        self._kept: list[Maps] | None = None
        self._renewed: list[Maps] = []

    def before(self, index: int) -> Iterator[Maps]:
        """Yields, batch by batch, the maps that layer `index` and those after it read.

        Each call must name the same or a later layer than the call before, and be iterated to its end.
        """
        keep = index if self._fits(index) else None
        for number, maps in self._run_to(index):
            self._keep(keep, number, maps)
            yield maps
        self._end(keep)

    def through(self, index: int) -> Iterator[tuple[Maps, Tensor]]:
        """Yields, batch by batch, the maps before convolution `index` and its sums; the next call names a later layer.

        The sums are overwritten afterwards.
        """
        layer, module = self.network.graph[index], self._module(index)
        assert isinstance(module, Convolution)
        keep = next((end for end in (index + 1, index) if self._fits(end)), None)
        for number, maps in self._run_to(index):
            with torch.no_grad():
                sums = module.sums(self.input_of(layer, maps))
            yield maps, sums
            if keep == index + 1:
                with torch.no_grad():
                    self._pass(layer, maps, module.activated(sums))
            self._keep(keep, number, maps)
        self._end(keep)

    def _run_to(self, index: int) -> Iterator[tuple[int, Maps]]:
        """Yields the number of each batch and its maps before a layer."""
        start, kept = self._reached, self._kept
        images = batches_for(self.network, self.sample)
        batches = iter(kept) if kept is not None else ({INPUT: batch} for batch in images)
        for number, maps in enumerate(batches):
            now = dict(maps)
            with torch.no_grad():  # not around the yield: the mode would reach the caller
                for layer in self.network.graph.layers[start:index]:
                    self._run(layer, now)
            yield number, now

    def _keep(self, end: int | None, number: int, maps: Maps) -> None:
        if end is not None and self._kept is not None:
            self._kept[number] = maps  # in place: two copies would be twice the memory
        elif end is not None:
            self._renewed.append(maps)

    def _end(self, end: int | None) -> None:
        if end is not None:
            self._reached, self._kept = end, self._renewed if self._kept is None else self._kept
        self._renewed = []

    def input_of(self, layer: Layer, maps: Maps, number: int = 0) -> Tensor:
        """Returns one of a layer's inputs, from the maps before it."""
        source = layer.sources[number]
        if source == layer.index - 1 and source != INPUT:
            return self._module(source).seen_after(maps[source])
        return maps[source]

    def _run(self, layer: Layer, maps: Maps) -> None:
        module = self._module(layer.index)
        used = layer.index in self.network.graph.last_use
        if used or not (module.is_head or module.is_loss):
            inputs = [self.input_of(layer, maps, number) for number in range(len(layer.sources))]
            self._pass(layer, maps, module(*inputs))
        else:
            self._pass(layer, maps)

    def _pass(self, layer: Layer, maps: Maps, output: Tensor | None = None) -> None:
        """Puts the output of a layer among the maps, and drops those that no later layer reads."""
        if output is not None:
            maps[layer.index] = output
        for source in {*layer.sources, layer.index}:
            if self.network.graph.last_use.get(source, INPUT) <= layer.index:
                maps.pop(source, None)

    def _fits(self, index: int) -> bool:
        return len(self.sample) * live_bytes(self.network.graph, index) <= self._memory

    def _module(self, index: int) -> LayerModule:
        module = self.network.layers[index]
        assert isinstance(module, LayerModule)
        return module


def live_bytes(graph: Graph, index: int) -> int:
    """Counts the bytes of one image's maps that layer `index` and those after it read."""
    return 4 * sum(graph.feature(i).outputs for i in range(INPUT, index) if graph.last_use.get(i, INPUT) >= index)


def affordable_images(graph: Graph, memory: int = MEMORY) -> int:
    """Returns the number of images whose maps before any layer but the first fit into memory: no layer is run twice."""
    return memory // max(live_bytes(graph, index) for index in range(1, len(graph) + 1))
