"""A graph as a torch module: runs images through the layers and returns whatever output is asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkprune.errors import GraphError, TrainingError
from darkprune.graph.graph import Graph, with_input_size
from darkprune.layers import INPUT
from darkprune.network.modules import LayerModule, make_module

_SIZES_REMEMBERED = 256


@dataclass(frozen=True)
class NetworkOutput:
    """Result of a forward pass.

    Attributes:
        heads: detection head's layer index -> the raw map that it reads, (b, c, h, w).
        taps: index of each layer asked for -> its output, (b, c, h, w), or (b, n) where darknet has no map. Of a layer
            with antialiasing the blurred map; of a head darknet's activated one.
        output: output of the last layer that is no loss; for a head its raw map.
    """

    heads: dict[int, Tensor]
    taps: dict[int, Tensor]
    output: Tensor


class Network(nn.Module):
    """A Darknet network.

    Its weights are zero until `load_weights` or `initialise` fills them.

    Attributes:
        graph: the network's layers.
        layers: one module per layer; `layers[i].scales` is darknet's tensor of that name.
        channels_last: whether maps are kept as (b, h, w, c) in memory.
        fused: whether batch normalisation was folded into the weights: for inference only.
    """

    def __init__(self, graph: Graph, device: torch.device | str | None = None, *, channels_last: bool = False) -> None:
        """Makes the modules.

        Args:
            device: where its tensors live; default: torch's.
            channels_last: keep maps as (b, h, w, c) in memory, which many kernels prefer.

        Raises:
            TrainingError: a layer that cannot be run here (recurrent ones, maps that do not fit together).
        """
        super().__init__()
        self.graph = graph
        self.fused = False
        self.channels_last = channels_last
        modules: list[LayerModule] = []
        for layer in graph:
            modules.append(make_module(layer, modules))
        self.layers = nn.ModuleList(modules)
        self._modules_in_order = tuple(modules)
        self._final = max((i for i, module in enumerate(modules) if not module.is_loss), default=len(modules) - 1)
        self._known_sizes: set[tuple[int, ...]] = set()
        if device is not None:
            self.to(device)
        if channels_last:
            for parameter in self.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return next(self.parameters(), torch.zeros(0)).device

    def __call__(self, images: Tensor, taps: Collection[int] = ()) -> NetworkOutput:
        """See `forward`."""
        output: NetworkOutput = super().__call__(images, taps)
        return output

    def forward(self, images: Tensor, taps: Collection[int] = ()) -> NetworkOutput:
        """Runs a batch.

        A map is freed after the last layer that reads it.

        Args:
            images: (b, c, h, w), RGB, 0 to 1; h and w may differ from the cfg's where the layers allow. (b, n) for a
                cfg that gives only `inputs`.
            taps: indices of layers whose output to return.

        Raises:
            GraphError: images that the network cannot take, or a tap that it does not have.
        """
        self._check(images, taps)
        if self.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        wanted, last_use = frozenset(taps), self.graph.last_use
        maps: dict[int, Tensor] = {INPUT: images}
        previous = images  # what the layer before passes to the next one only (a blurred map)
        heads: dict[int, Tensor] = {}
        shown: dict[int, Tensor] = {}
        final: Tensor | None = None
        for layer, module in zip(self.graph, self._modules_in_order, strict=True):
            index = layer.index
            inputs = [previous if source == index - 1 else maps[source] for source in layer.sources]
            used = index in wanted or index in last_use
            if module.is_head:
                heads[index] = inputs[0]
            output = inputs[0] if module.is_head and not used else module(*inputs)
            if not layer.sources:
                output = output.expand(len(images), *output.shape[1:])
            if module.in_place and module.training:
                maps.update({source: output for source in layer.sources if source in maps})
            previous = module.seen_after(output)
            if index in wanted:
                shown[index] = previous
            if index == self._final:
                final = heads.get(index, previous)
            maps[index] = output
            for source in (*layer.sources, index):
                if last_use.get(source, INPUT) <= index:
                    maps.pop(source, None)
        assert final is not None
        return NetworkOutput(heads, shown, final)

    def fuse(self) -> Network:
        """Folds batch normalisation into the weights, in place, and switches to inference for good.

        Returns:
            The network itself.
        """
        self.eval()
        for module in self._modules_in_order:
            module.fuse()
        self.fused = True
        return self

    def train(self, mode: bool = True) -> Network:
        """Switches between training and inference.

        Raises:
            TrainingError: training was asked of a fused network.
        """
        if mode and self.fused:
            raise TrainingError("a network whose batch normalisation is folded into its weights cannot be trained")
        super().train(mode)
        return self

    def _check(self, images: Tensor, taps: Collection[int]) -> None:
        """Checks that the images fit, once per size: a network may be run at other sizes than its cfg's."""
        unknown = sorted(tap for tap in taps if not 0 <= tap < len(self.graph))
        if unknown:
            raise GraphError(f"{self.graph.cfg.source}: has no layer {unknown[0]} to tap (0 to {len(self.graph) - 1})")
        size = tuple(images.shape[1:])
        if size in self._known_sizes:
            return
        want = self.graph.net.input
        if not want.is_map:
            if size != (want.outputs,):
                raise GraphError(f"{self.graph.cfg.source}: takes {want.outputs} values per image, not {size}")
        elif len(size) != 3 or size[0] != want.c:
            raise GraphError(f"{self.graph.cfg.source}: takes images of {want.c} channels x rows x columns, not {size}")
        elif size[1:] != (want.h, want.w):
            self._check_resized(*size[1:])
        if len(self._known_sizes) < _SIZES_REMEMBERED:
            self._known_sizes.add(size)

    def _check_resized(self, height: int, width: int) -> None:
        resized = with_input_size(self.graph, width, height)
        for ours, theirs in zip(self.graph, resized, strict=True):
            if [blob.shape for blob in ours.blobs] != [blob.shape for blob in theirs.blobs]:
                raise GraphError(
                    f"{self.graph.cfg.source}: cannot take images of {width}x{height} instead of "
                    f"{self.graph.net.input.w}x{self.graph.net.input.h}: the weights of layer {ours.index} "
                    f"({ours.name}) are made for that size"
                )
            with torch.device("meta"):
                make_module(theirs, self._modules_in_order)  # says what does not fit at this size
