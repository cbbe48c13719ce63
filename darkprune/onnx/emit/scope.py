"""One layer being written: what its function reads from and writes to, and the register of these functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from darkprune.darknet.options import Options
from darkprune.errors import ExportError
from darkprune.graph.graph import Layer
from darkprune.layers import Feature, Kind
from darkprune.layers.base import BlobReader
from darkprune.onnx.emit.base import Array, Emitter, Signal

K = TypeVar("K", bound=Kind)


class Scope(Generic[K]):
    """One layer being written.

    Attributes:
        net: the file.
        layer: the layer.
        kind: what its section says.
        inputs: what it reads, in the order of its sources.
        prefix: start of its names, such as `012_convolutional`.
        owner: the layer whose tensors it uses: itself but for share_index.
        blob: reads one of the owner's tensors.
        options: the layer's section, for keys that its kind does not hold.
    """

    def __init__(
        self,
        net: Emitter,
        layer: Layer,
        kind: K,
        inputs: Sequence[Signal],
        owner: Layer,
        blob: BlobReader,
        options: Options,
    ) -> None:
        self.net = net
        self.layer = layer
        self.kind = kind
        self.inputs = tuple(inputs)
        self.prefix = layer_name(layer)
        self.owner = owner
        self.blob = blob
        self.options = options

    def node(self, operator: str, inputs: Sequence[str], step: str = "", **attributes: Any) -> str:
        """Adds a node with one output; its name ends in `step`, by default the operator in lower case."""
        return self.net.node(operator, inputs, f"{self.prefix}/{step or operator.lower()}", **attributes)[0]

    def constant(self, step: str, values: Array) -> str:
        """Adds a small float constant of this layer."""
        return self.net.constant(f"{self.prefix}/{step}", np.ascontiguousarray(values, np.float32))

    def add(self, left: str, right: str | float, step: str = "") -> str:
        """left + right."""
        return self._binary("Add", left, right, step)

    def multiply(self, left: str, right: str | float, step: str = "") -> str:
        """left · right."""
        return self._binary("Mul", left, right, step)

    def slice(self, tensor: str, axis: int, start: int, stop: int, stride: int = 1, step: str = "slice") -> str:
        """Takes positions start, start + stride … below stop of one axis."""
        inputs = [tensor, *(self.net.integers(value) for value in (start, stop, axis))]
        if stride != 1:
            inputs.append(self.net.integers(stride))
        return self.node("Slice", inputs, step)

    def reshape(self, tensor: str, *sizes: int, step: str = "reshape") -> str:
        """Changes the shape; a size of 0 keeps that of the input, one of −1 takes what is left."""
        return self.node("Reshape", [tensor, self.net.integers(*sizes)], step)

    def transpose(self, tensor: str, *order: int, step: str = "transpose") -> str:
        """Reorders the axes."""
        return self.node("Transpose", [tensor], step, perm=list(order))

    def clip(self, tensor: str, low: float, high: float, step: str = "clip") -> str:
        """Limits the values."""
        return self.node("Clip", [tensor, self.net.scalar(low), self.net.scalar(high)], step)

    def reduce(self, operator: str, tensor: str, axis: int, keep: bool = True, step: str = "") -> str:
        """Reduces one axis; ReduceSum took its axes as an input from opset 13 on, the others from 18."""
        if self.net.opset >= (13 if operator == "ReduceSum" else 18):
            return self.node(operator, [tensor, self.net.integers(axis)], step, keepdims=int(keep))
        return self.node(operator, [tensor], step, axes=[axis], keepdims=int(keep))

    def pads(self, source: Feature, strides: tuple[int, int], reach: int, before: int, behind: int) -> list[int]:
        """Returns the padding of a window that gives the layer's map: top, left, bottom, right.

        darknet divides towards zero, so a window that is larger than the padded map by less than a stride still has
        one position: then more is needed at the end.

        Raises:
            ExportError: the window has more positions than darknet gives it (dilation overruns its memory).
        """
        ends = []
        sizes = zip((source.h, source.w), (self.layer.output.h, self.layer.output.w), strides, strict=True)
        for size, wanted, stride in sizes:
            missing = (wanted - 1) * stride + reach - (size + before + behind)
            ends.append(behind + max(0, missing))
            if missing >= stride or missing <= -stride:
                raise self.error(
                    f"a window of {reach} with padding {before} and {behind} over {size} does not give {wanted} "
                    "positions, as darknet's formula has it: there it overruns its memory"
                )
        return [before, before, *ends]

    def map(self, name: str) -> Signal:
        """Makes a signal of a tensor (batch, c, h, w)."""
        return Signal(self.layer.output, as_map=name)

    def flat(self, name: str) -> Signal:
        """Makes a signal of a tensor (batch, outputs)."""
        return Signal(self.layer.output, as_flat=name)

    def map_of(self, number: int = 0) -> str:
        """Returns input `number` as (batch, c, h, w); where it is flat, the values that make up the map."""
        signal = self.inputs[number]
        if signal.as_map is not None:
            return signal.as_map
        flat, feature = signal.as_flat or "", signal.feature
        size = feature.c * feature.h * feature.w
        if size != feature.outputs:  # a route cut a channel in two: darknet reads the whole ones
            flat = self.slice(flat, 1, 0, size, step="whole")
        return self.reshape(flat, 0, feature.c, feature.h, feature.w, step="map")

    def flat_of(self, number: int = 0) -> str:
        """Returns input `number` as (batch, outputs)."""
        signal = self.inputs[number]
        if signal.as_flat is not None:
            return signal.as_flat
        return self.node("Flatten", [signal.as_map or ""], "flat", axis=1)

    def error(self, message: str) -> ExportError:
        """Makes an error that names layer, kind and line."""
        return layer_error(self.layer, message)

    def _binary(self, operator: str, left: str, right: str | float, step: str) -> str:
        return self.node(operator, [left, right if isinstance(right, str) else self.net.scalar(right)], step)


Rule = Callable[[Scope[Any]], Signal]

#: kind -> how it is written; one entry per kind
EMITTERS: dict[type[Kind], Rule] = {}

#: kinds that ONNX cannot say without state between calls, or that have no meaning there
UNSUPPORTED: dict[type[Kind], str] = {}


def emits(kind: type[K]) -> Callable[[Callable[[Scope[K]], Signal]], Callable[[Scope[K]], Signal]]:
    """Decorator: makes a function the way that a kind is written."""

    def register(rule: Callable[[Scope[K]], Signal]) -> Callable[[Scope[K]], Signal]:
        if kind in EMITTERS:
            raise ValueError(f"two functions write {kind.__name__}")
        EMITTERS[kind] = rule
        return rule

    return register


def layer_name(layer: Layer) -> str:
    """What the layer's result and the start of its nodes are called."""
    return f"{layer.index:03d}_{layer.name}"


def layer_error(layer: Layer, message: str) -> ExportError:
    """Makes an error that names layer, kind and line."""
    return ExportError(f"layer {layer.index} ({layer.name}, line {layer.line}): {message}")
