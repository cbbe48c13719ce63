"""Writes the nodes of one layer; and the registry of the functions that do so, one per section kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from darkprune.errors import ExportError
from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.layers import Feature, Kind
from darkprune.onnx.nodes.builder import Array, GraphBuilder, LayerOutput

K = TypeVar("K", bound=Kind)
Kind_co = TypeVar("Kind_co", bound=Kind, covariant=True)


class LayerWriter(Generic[Kind_co]):
    """Writes the nodes of one layer.

    Attributes:
        builder: collects the nodes and constants of the file.
        layer: the layer.
        kind: its section kind with the values of its keys.
        inputs: outputs of its source layers, in their order.
        prefix: start of its nodes' names, such as `012_convolutional`.
        owner: the layer whose weights it uses: itself unless it has share_index.
    """

    def __init__(
        self, builder: GraphBuilder, weights: NetworkWeights, layer: Layer, inputs: Sequence[LayerOutput]
    ) -> None:
        self.builder = builder
        self.layer = layer
        self.kind = cast("Kind_co", layer.kind)
        self.inputs = tuple(inputs)
        self.prefix = layer_name(layer)
        self.owner = layer
        while not self.owner.blobs and self.owner.references:
            self.owner = weights.graph[self.owner.references[0]]
        self._weights = weights

    def blob(self, name: str) -> NDArray[np.float32]:
        """Reads one of the owner's tensors, or darknet's initial values where `dontloadscales` says so.

        Raises:
            ExportError: no file holds the layer's weights (`dontload`).
        """
        owner = self.owner
        if any(blob.name == name for blob in owner.stored):
            return self._weights.read(owner, name)
        if not owner.stored:
            raise ExportError(f"{owner.place}: dontload=1: its weights are in no file, so it cannot be exported")
        return np.full(owner.blob(name).shape, 1 if name == "scales" else 0, np.float32)

    def node(self, operator: str, inputs: Sequence[str], step: str = "", **attributes: Any) -> str:
        """Adds a node with one output; its name ends in `step`, by default the operator in lower case."""
        return self.builder.node(operator, inputs, f"{self.prefix}/{step or operator.lower()}", **attributes)[0]

    def constant(self, step: str, values: Array) -> str:
        """Adds a small float constant of this layer."""
        return self.builder.constant(f"{self.prefix}/{step}", np.ascontiguousarray(values, np.float32))

    def add(self, left: str, right: str | float, step: str = "") -> str:
        """Adds `left + right`."""
        return self._binary("Add", left, right, step)

    def multiply(self, left: str, right: str | float, step: str = "") -> str:
        """Adds `left · right`."""
        return self._binary("Mul", left, right, step)

    def slice(self, tensor: str, axis: int, start: int, stop: int, stride: int = 1, step: str = "slice") -> str:
        """Adds `tensor[..., start:stop:stride]` along an axis."""
        inputs = [tensor, *(self.builder.integers(value) for value in (start, stop, axis))]
        if stride != 1:
            inputs.append(self.builder.integers(stride))
        return self.node("Slice", inputs, step)

    def reshape(self, tensor: str, *sizes: int, step: str = "reshape") -> str:
        """Adds a change of shape: a size of 0 is that of the input, one of −1 follows from the others."""
        return self.node("Reshape", [tensor, self.builder.integers(*sizes)], step)

    def transpose(self, tensor: str, *order: int, step: str = "transpose") -> str:
        """Adds a change of the order of axes."""
        return self.node("Transpose", [tensor], step, perm=list(order))

    def clip(self, tensor: str, low: float, high: float, step: str = "clip") -> str:
        """Adds a limit to values."""
        return self.node("Clip", [tensor, self.builder.scalar(low), self.builder.scalar(high)], step)

    def reduce(self, operator: str, tensor: str, axis: int, keep: bool = True, step: str = "") -> str:
        """Adds a reduction of one axis: an attribute at first, an input from opset 13 (ReduceSum) or 18 on."""
        if self.builder.opset >= (13 if operator == "ReduceSum" else 18):
            return self.node(operator, [tensor, self.builder.integers(axis)], step, keepdims=int(keep))
        return self.node(operator, [tensor], step, axes=[axis], keepdims=int(keep))

    def pads(self, source: Feature, strides: tuple[int, int], reach: int, before: int, after: int) -> list[int]:
        """Returns the padding with which a window gives the layer's map: top, left, bottom, right.

        darknet divides towards zero, so a window that is larger than the padded map by less than a stride still has
        one position; ONNX needs more padding at the end for it.

        Args:
            source: what the window slides over.
            strides: vertical and horizontal.
            reach: size of the window with its dilation.
            before, after: darknet's padding at the start and at the end of an axis.

        Raises:
            ExportError: the window has more positions than darknet gives it (dilation overruns its memory).
        """
        ends = []
        sizes = zip((source.h, source.w), (self.layer.output.h, self.layer.output.w), strides, strict=True)
        for size, wanted, stride in sizes:
            missing = (wanted - 1) * stride + reach - (size + before + after)
            ends.append(after + max(0, missing))
            if missing >= stride or missing <= -stride:
                raise self.error(
                    f"a window of {reach} with padding {before} and {after} over {size} does not give {wanted} "
                    "positions, as darknet's formula has it: there it overruns its memory"
                )
        return [before, before, *ends]

    def map(self, name: str) -> LayerOutput:
        """Returns a tensor (batch, c, h, w) as the layer's output."""
        return LayerOutput(self.layer.output, as_map=name)

    def flat(self, name: str) -> LayerOutput:
        """Returns a tensor (batch, outputs) as the layer's output."""
        return LayerOutput(self.layer.output, as_flat=name)

    def map_of(self, number: int = 0) -> str:
        """Returns input `number` as (batch, c, h, w); of a flat one the values that make up the map."""
        layer_output = self.inputs[number]
        if layer_output.as_map is not None:
            return layer_output.as_map
        flat, feature = layer_output.as_flat or "", layer_output.feature
        size = feature.c * feature.h * feature.w
        if size != feature.outputs:  # a route cut a channel in two: darknet reads the whole ones
            flat = self.slice(flat, 1, 0, size, step="whole")
        return self.reshape(flat, 0, feature.c, feature.h, feature.w, step="map")

    def flat_of(self, number: int = 0) -> str:
        """Returns input `number` as (batch, outputs)."""
        layer_output = self.inputs[number]
        if layer_output.as_flat is not None:
            return layer_output.as_flat
        return self.node("Flatten", [layer_output.as_map or ""], "flat", axis=1)

    def error(self, message: str) -> ExportError:
        """Returns an error that names layer, kind and line."""
        return ExportError(f"{self.layer.place}: {message}")

    def _binary(self, operator: str, left: str, right: str | float, step: str) -> str:
        return self.node(operator, [left, right if isinstance(right, str) else self.builder.scalar(right)], step)


Rule = Callable[[LayerWriter[Any]], LayerOutput]

#: section kind -> the function that writes its nodes
WRITERS: dict[type[Kind], Rule] = {}

#: section kind -> why it cannot be expressed in ONNX
UNSUPPORTED: dict[type[Kind], str] = {}


def writes(
    kind: type[K],
) -> Callable[[Callable[[LayerWriter[K]], LayerOutput]], Callable[[LayerWriter[K]], LayerOutput]]:
    """Registers a function as the one that writes a section kind."""

    def register(rule: Callable[[LayerWriter[K]], LayerOutput]) -> Callable[[LayerWriter[K]], LayerOutput]:
        if kind in WRITERS:
            raise ValueError(f"two functions write {kind.__name__}")
        WRITERS[kind] = rule
        return rule

    return register


def layer_name(layer: Layer) -> str:
    """Returns the name of the layer's output, with which the names of its nodes begin."""
    return f"{layer.index:03d}_{layer.name}"
