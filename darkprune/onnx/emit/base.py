"""What an ONNX file is collected from: constants, signals between layers, and nodes.

Every node and tensor bears the number that darknet gives its layer: `012_convolutional` is what layer 12 gives,
`012_convolutional/conv` a step on the way. Large constants are not held: a constant knows its shape and how to make
its values, so that a file can be written one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        make: computes its values; called once per writing, so that they need not stay in memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Signal:
    """What a layer gives, as one or two tensors of the same values.

    Attributes:
        feature: its shape for one image.
        as_map: tensor (batch, c, h, w), if there is one yet.
        as_flat: tensor (batch, outputs), if there is one yet.
        blurred: what the layer directly behind sees instead (antialiasing).
    """

    feature: Feature
    as_map: str | None = None
    as_flat: str | None = None
    blurred: Signal | None = None

    @property
    def name(self) -> str:
        """The tensor that exists already."""
        return self.as_map or self.as_flat or ""


class Emitter:
    """Collects the nodes and constants of one file.

    Attributes:
        opset: the ONNX opset that is written.
        batch: images per call; None where it is left open.
        nodes: in the order of computation.
        constants: by name.
        full_precision: names of nodes that a half-precision file computes in FP32.
        remarks: what a user should know about the result.
    """

    def __init__(self, opset: int, batch: int | None) -> None:
        self.opset = opset
        self.batch = batch
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Constant] = {}
        self.full_precision: set[str] = set()
        self.remarks: list[str] = []
        self._careful = False
        self._names: set[str] = set()

    @contextmanager
    def careful(self) -> Iterator[None]:
        """Marks the nodes made within as ones that half precision would spoil."""
        before, self._careful = self._careful, True
        try:
            yield
        finally:
            self._careful = before

    def node(self, operator: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds a node and returns the names of its outputs: its own name, and `name.1` on for further ones."""
        name = self._unique(name)
        made = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), made, name=name, **attributes))
        if self._careful:
            self.full_precision.add(name)
        return made

    def constant(self, name: str, values: Array) -> str:
        """Adds a small constant; the same name means the same values."""
        self.constants.setdefault(name, Constant(values.shape, values.dtype, lambda: values))
        return name

    def deferred(self, name: str, shape: Sequence[int], make: Callable[[], Array]) -> str:
        """Adds a float32 constant whose values are made when the file is written."""
        self.constants.setdefault(name, Constant(tuple(shape), np.dtype(np.float32), make))
        return name

    def integers(self, *values: int) -> str:
        """Returns a one-dimensional INT64 constant (shapes and indices; nothing else is INT64)."""
        return self.constant("int/" + ",".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Returns a float32 constant without dimensions."""
        return self.constant(f"scalar/{value!r}", np.array(value, np.float32))

    def rename(self, first: int, old: str, new: str) -> None:
        """Gives a tensor made by one of the nodes from number `first` on another name."""
        for node in self.nodes[first:]:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = new

    def _unique(self, name: str) -> str:
        number, wanted = 2, name
        while name in self._names:
            name = f"{wanted}_{number}"
            number += 1
        self._names.add(name)
        return name


def settle(net: Emitter, first: int, signal: Signal, name: str) -> Signal:
    """Names a layer's result after the layer, if one of the nodes from number `first` on makes it."""
    made = {output for node in net.nodes[first:] for output in node.output}
    if signal.name not in made:
        return signal  # passed on from another layer, or a constant
    net.rename(first, signal.name, name)
    if signal.as_map is not None:
        return replace(signal, as_map=name)
    return replace(signal, as_flat=name)
