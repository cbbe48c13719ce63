"""Half precision written into the file: for TensorRT 11, which knows no other way, and for onnxruntime.

Inputs and outputs stay FP32. What half precision would spoil stays FP32 too, between casts: the decoding of heads and
suppression, exponentials, sums of squares (the nodes that their writers marked), and layers that the caller names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from darkprune.errors import ExportError
from darkprune.onnx.network import OnnxNetwork
from darkprune.onnx.nodes.builder import Array, Constant, rename_tensor
from darkprune.tensorrt.operators import tensor_types

_DATA_INPUTS = {"Resize": 1}  #: operators of which only the first inputs follow the type of the data
_HALF = np.dtype(np.float16)


def to_half(network: OnnxNetwork, keep_layers: Collection[int] = ()) -> OnnxNetwork:
    """Returns the network with half-typed tensors.

    Args:
        network: in FP32.
        keep_layers: darknet's numbers of layers that stay FP32.

    Raises:
        ExportError: when it is written: weights beyond half precision's 65504, with the tensor's name.
    """
    kept = tuple(f"{index:03d}_" for index in keep_layers)
    full = {
        node.name
        for node in network.model.graph.node
        if node.name in network.full_precision or (kept and node.name.startswith(kept))
    }
    rewriter = _Rewriter(network, full)
    for node in network.model.graph.node:
        rewriter.add(node)
    rewriter.finish_outputs([output.name for output in network.model.graph.output])
    return network.rewritten(rewriter.nodes, rewriter.constants, "fp16")


class _Rewriter:
    """Goes through the nodes in order and gives each its inputs in the precision that it computes in."""

    def __init__(self, network: OnnxNetwork, full: Collection[str]) -> None:
        self.nodes: list[NodeProto] = []
        self.constants = dict(network.constants)
        self._full = full
        self._types = tensor_types(network.model.graph)
        self._half: set[str] = set()  # tensors that are half where they are made
        self._casts: dict[tuple[str, bool], str] = {}

    def add(self, node: NodeProto) -> None:
        """Adds a node, and casts before it where its inputs are of the other precision."""
        half = node.name not in self._full
        copy = NodeProto()
        copy.CopyFrom(node)
        followers = _DATA_INPUTS.get(node.op_type, len(node.input))
        for place, name in enumerate(node.input[:followers]):
            if self._types.get(name) == "FP32":
                copy.input[place] = self._in_precision(name, half)
        self.nodes.append(copy)
        if half:
            self._half.update(name for name in node.output if self._types.get(name) == "FP32")

    def finish_outputs(self, outputs: Sequence[str]) -> None:
        """Makes the file's outputs FP32 under their own names."""
        for name in outputs:
            if name not in self._half:
                continue
            inner = f"{name}/half"
            rename_tensor(self.nodes, name, inner)
            self.nodes.append(_cast(inner, name, False))

    def _in_precision(self, name: str, half: bool) -> str:
        if name in self.constants:
            return self._half_constant(name) if half else name
        if (name in self._half) == half:
            return name
        if (name, half) not in self._casts:
            made = f"{name}/{'as_half' if half else 'as_float'}"
            self.nodes.append(_cast(name, made, half))
            self._casts[name, half] = made
        return self._casts[name, half]

    def _half_constant(self, name: str) -> str:
        constant = self.constants[name]

        def make() -> Array:
            values = constant.make()
            if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                raise ExportError(
                    f"tensor {name}: holds {np.abs(values).max():.3g}, half precision ends at 65504; "
                    "keep its layer in FP32"
                )
            return values.astype(np.float16)

        made = f"{name}/half"
        self.constants.setdefault(made, Constant(constant.shape, _HALF, make))
        return made


def _cast(source: str, target: str, half: bool) -> NodeProto:
    return helper.make_node(
        "Cast", [source], [target], name=f"{target}/cast", to=TensorProto.FLOAT16 if half else TensorProto.FLOAT
    )
