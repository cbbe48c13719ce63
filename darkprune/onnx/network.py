"""A finished ONNX graph whose large tensors are still in the weights file: what is checked, converted and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from darkprune.errors import ExportError
from darkprune.onnx.facts import set_facts
from darkprune.onnx.nodes.builder import Array, Constant
from darkprune.onnx.nodes.outputs import Output

MAX_PROTO = 2**31 - 1  #: protobuf reads no larger message
_SMALL = 4096  #: bytes up to which a constant is put into the skeleton at once


@dataclass(frozen=True)
class OnnxNetwork:
    """A graph and where its tensors come from.

    Attributes:
        model: everything but the values of large tensors, which stand in it with name, type and sizes.
        constants: how the values of every tensor are made.
        full_precision: names of nodes that a half-precision file computes in FP32.
        remarks: what a user should know about the result.
    """

    model: onnx.ModelProto
    constants: Mapping[str, Constant]
    full_precision: frozenset[str]
    remarks: tuple[str, ...]

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(constant.nbytes for constant in self.constants.values())

    @property
    def opset(self) -> int:
        """Version of the operators in the default domain."""
        return next(int(item.version) for item in self.model.opset_import if item.domain == "")

    def rewritten(
        self, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Constant], precision: str
    ) -> OnnxNetwork:
        """Returns the network with other nodes, and those of the constants that they read, for a file so written."""
        read = {name for node in nodes for name in node.input} | {output.name for output in self.model.graph.output}
        constants = {name: constant for name, constant in constants.items() if name in read}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:]
        del model.graph.initializer[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(tensor_of(name, constant) for name, constant in constants.items())
        set_facts(model, {**self.metadata, "precision": precision})
        return replace(self, model=model, constants=constants)


def assemble(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Constant],
    inputs: Sequence[Output],
    outputs: Sequence[Output],
    opset: int,
    ir: int,
) -> onnx.ModelProto:
    """Makes a model of nodes; only constants that some node reads, or that are outputs, come into it."""
    read = {tensor for node in nodes for tensor in node.input} | {output.name for output in outputs}
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [tensor_of(key, constant) for key, constant in constants.items() if key in read],
    )
    domains = sorted({node.domain for node in nodes if node.domain})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, producer_name="darkprune")


def tensor_of(name: str, constant: Constant) -> TensorProto:
    """Makes a tensor message; without values where they are many."""
    kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=constant.shape)
    if constant.nbytes <= _SMALL:
        tensor.raw_data = values_of(name, constant).tobytes()
    return tensor


def values_of(name: str, constant: Constant) -> Array:
    """Makes a constant's values: contiguous, little endian, as a file holds them.

    Raises:
        ExportError: values that are not finite, with the name of the tensor.
    """
    values = np.ascontiguousarray(constant.make(), constant.dtype.newbyteorder("<")).reshape(constant.shape)
    if values.dtype.kind == "f" and not np.isfinite(_extremes(values)).all():
        raise ExportError(f"tensor {name}: holds values that are NaN, infinite or beyond {values.dtype.name}")
    return values


def _extremes(values: Array) -> Array:
    """NaN and infinities survive in minimum and maximum, which need no second array."""
    return np.array([values.min(), values.max()]) if values.size else np.zeros(1)
