"""Collects the nodes and constants of one ONNX file.

Nodes and tensors are named after darknet's layers: `012_convolutional` is the output of layer 12,
`012_convolutional/conv` a step towards it. Large constants are not held in memory: a constant knows its shape and how
to compute its values, so that a file can be written one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from darkprune.layers import Feature

Array = NDArray[Any]
INPUT_NAME = "input"


@dataclass(frozen=True)
class Constant:
    """A tensor of the file that does not depend on the input.

    Attributes:
        shape: its sizes.
        dtype: its element type.
        make: computes its values; called whenever they are written, so that they need not stay in memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class LayerOutput:
    """The output of a layer, as one or two tensors of the same values.

    Attributes:
        feature: its shape for one image.
        as_map: name of the tensor (batch, c, h, w), if there is one.
        as_flat: name of the tensor (batch, outputs), if there is one.
        blurred: what the directly following layer reads instead (antialiasing).
    """

    feature: Feature
    as_map: str | None = None
    as_flat: str | None = None
    blurred: LayerOutput | None = None

    @property
    def name(self) -> str:
        """Name of a tensor that exists."""
        return self.as_map or self.as_flat or ""


class GraphBuilder:
    """Collects the nodes and constants of one file.

    Attributes:
        opset: the ONNX opset that is written.
        batch: images per call; None where it is left open.
        batch_axis: the same as an axis of a tensor: a text where it is left open.
        nodes: in the order of computation.
        constants: by name.
        full_precision: names of nodes that a half-precision file computes in FP32.
        remarks: what a user should know about the result.
    """

    def __init__(self, opset: int, batch: int | None) -> None:
        self.opset = opset
        self.batch = batch
        self.batch_axis: int | str = "batch" if batch is None else batch
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Constant] = {}
        self.full_precision: set[str] = set()
        self.remarks: list[str] = []
        self._in_fp32 = False
        self._names: set[str] = set()

    @contextmanager
    def in_fp32(self) -> Iterator[None]:
        """Marks the nodes added within as ones that a half-precision file computes in FP32."""
        before, self._in_fp32 = self._in_fp32, True
        try:
            yield
        finally:
            self._in_fp32 = before

    def node(self, operator: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds a node and returns the names of its outputs: its own name, then `name.1`, `name.2` …"""
        name = self._unique(name)
        results = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), results, name=name, **attributes))
        if self._in_fp32:
            self.full_precision.add(name)
        return results

    def constant(self, name: str, values: Array) -> str:
        """Adds a small constant; the same name means the same values."""
        self.constants.setdefault(name, Constant(values.shape, values.dtype, lambda: values))
        return name

    def deferred(self, name: str, shape: Sequence[int], make: Callable[[], Array]) -> str:
        """Adds a float32 constant whose values are made when the file is written."""
        self.constants.setdefault(name, Constant(tuple(shape), np.dtype(np.float32), make))
        return name

    def integers(self, *values: int) -> str:
        """Returns a one-dimensional INT64 constant, for shapes and indices."""
        return self.constant("int/" + ",".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Returns a float32 constant without dimensions."""
        return self.constant(f"scalar/{value!r}", np.array(value, np.float32))

    def rename(self, first: int, old: str, new: str) -> None:
        """Renames a tensor in the nodes from number `first` on."""
        rename_tensor(self.nodes[first:], old, new)

    def _unique(self, name: str) -> str:
        number, wanted = 2, name
        while name in self._names:
            name = f"{wanted}_{number}"
            number += 1
        self._names.add(name)
        return name


def rename_tensor(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    """Renames a tensor in all nodes that read or give it."""
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def name_result(builder: GraphBuilder, first: int, layer_output: LayerOutput, name: str) -> LayerOutput:
    """Names a layer's output after the layer, if one of the nodes from number `first` on computes it."""
    computed = {output for node in builder.nodes[first:] for output in node.output}
    if layer_output.name not in computed:
        return layer_output  # another layer's output, or a constant
    builder.rename(first, layer_output.name, name)
    if layer_output.as_map is not None:
        return replace(layer_output, as_map=name)
    return replace(layer_output, as_flat=name)
