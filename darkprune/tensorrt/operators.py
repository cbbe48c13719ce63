"""Whether a TensorRT target's ONNX parser takes a file: operators, tensor types, opset, IR version, outputs.

The tables stand in `operators.json`, transcribed from the ones that onnx-tensorrt publishes with each release. They
are an upper bound on trouble, not a proof: the parser of the board has the last word, but what they refuse it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from darkprune.targets import Target, target

_NAMES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
_TO_BOOL = {"And", "Equal", "Greater", "Less", "Not", "Or"}
_TO_INT64 = {"NonMaxSuppression", "Shape"}
_DOMAINS = ("", "ai.onnx")


class OperatorRow(TypedDict, total=False):
    """What a parser takes of an operator; see `about` in `operators.json`."""

    types: list[str]
    constant: list[int]
    dequantized: list[int]


class Table(TypedDict):
    """The operators of a generation."""

    operators: dict[str, OperatorRow]


class Plugin(TypedDict):
    """A plugin that the parser finds by its operator's name."""

    attributes: list[str]
    attributes_since: dict[str, str]
    types: list[str]
    outputs: list[str]


class OperatorFacts(TypedDict):
    """The content of `operators.json`."""

    data_inputs: dict[str, list[int]]
    resize: dict[str, list[str]]
    plugins: dict[str, Plugin]
    tables: dict[str, Table]


@lru_cache(maxsize=1)
def operator_facts() -> OperatorFacts:
    """Returns the content of `operators.json`; see its `about`."""
    facts: OperatorFacts = json.loads((Path(__file__).with_name("operators.json")).read_text(encoding="utf-8"))
    return facts


def check_model(model: onnx.ModelProto, where: Target | str) -> list[str]:
    """Lists what the target cannot read in a file, one line each; empty where nothing is known against it.

    Args:
        model: the file; weights may be absent (external data is not read).
        where: a target or its name.

    Returns:
        Lines such as `node 'conv_3/mish' (Mish): TensorRT 8.2 has no such operator`, in the order of the nodes.

    Raises:
        ExportError: no target has that name.
    """
    place = target(where) if isinstance(where, str) else where
    problems = list(_versions(model, place))
    problems += _batch(model, place)
    types = tensor_types(model.graph)
    for generation in place.tensorrt:
        problems += _Parser(generation, place, model.graph, types).problems()
    if place.tensorrt:
        problems += [
            f"output {value.name!r}: INT64, which TensorRT before 10 cannot return: cast it to INT32"
            for value in model.graph.output
            if types.get(value.name, "") == "INT64"
        ]
    return list(dict.fromkeys(problems))


def file_precision(model: onnx.ModelProto) -> str:
    """Returns what a file is written in: `int8` with Q/DQ nodes, `fp16` with half weights, else `fp32`."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    half = any(item.data_type == TensorProto.FLOAT16 for item in model.graph.initializer)
    return "fp16" if half else "fp32"


def tensor_types(graph: onnx.GraphProto) -> dict[str, str]:
    """Returns the element type (FP32, INT64, …) of every tensor whose type follows without knowing shapes."""
    types = {item.name: _NAMES.get(item.data_type, "other") for item in graph.initializer}
    types.update({item.name: _NAMES.get(item.type.tensor_type.elem_type, "other") for item in graph.input})
    for node in graph.node:
        for output, kind in zip(node.output, _output_types(node, types), strict=False):
            types[output] = kind
    return types


def _output_types(node: onnx.NodeProto, types: Mapping[str, str]) -> list[str]:
    inputs = [types.get(name, "") for name in node.input]
    first = inputs[0] if inputs else ""
    match node.op_type:
        case "Cast":
            kind = _NAMES.get(_attribute(node, "to", 0), "other")
        case "Constant":
            kind = _constant_type(node)
        case "ConstantOfShape":
            value = _attribute(node, "value", None)
            kind = "FP32" if value is None else _NAMES.get(value.data_type, "other")
        case "DequantizeLinear":
            kind = inputs[1] if len(inputs) > 1 else ""
        case "QuantizeLinear":
            kind = inputs[2] if len(inputs) > 2 else "UINT8"
        case "Where":
            kind = inputs[1] if len(inputs) > 1 else ""
        case "TopK":
            return [first, "INT64"]
        case plugin if plugin in operator_facts()["plugins"]:
            return [first if item == "same" else item for item in operator_facts()["plugins"][plugin]["outputs"]]
        case name if name in _TO_BOOL:
            kind = "BOOL"
        case name if name in _TO_INT64:
            kind = "INT64"
        case _:
            kind = first
    return [kind] * len(node.output)


def _constant_type(node: onnx.NodeProto) -> str:
    for attribute in node.attribute:
        if attribute.name == "value":
            return _NAMES.get(attribute.t.data_type, "other")
        if attribute.name.startswith("value_int"):
            return "INT64"
        if attribute.name.startswith("value_float"):
            return "FP32"
    return "other"


def _attribute(node: onnx.NodeProto, name: str, default: object) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _versions(model: onnx.ModelProto, place: Target) -> Iterator[str]:
    if model.ir_version > place.ir:
        yield f"IR version {model.ir_version}: {place.name} reads up to {place.ir}"
    low, high = place.opset
    for imported in model.opset_import:
        if imported.domain in _DOMAINS and not low <= imported.version <= high:
            yield f"opset {imported.version}: {place.name} reads {low} to {high}"


def _batch(model: onnx.ModelProto, place: Target) -> Iterator[str]:
    constants = {item.name for item in model.graph.initializer}
    for value in model.graph.input:
        sizes = value.type.tensor_type.shape.dim
        if value.name in constants or not sizes:
            continue
        if not place.dynamic_batch and not sizes[0].HasField("dim_value"):
            yield f"input {value.name!r}: open batch size, which {place.name} kits do not have: export with --batch 1"
        if any(not size.HasField("dim_value") for size in list(sizes)[1:]):
            yield f"input {value.name!r}: open image size, a kit needs a fixed one"


class _Parser:
    """The rules of one TensorRT generation, applied to one graph."""

    def __init__(self, generation: str, place: Target, graph: onnx.GraphProto, types: Mapping[str, str]) -> None:
        self.name = f"TensorRT {generation}"
        self.version = tuple(int(part) for part in generation.split("."))
        self.place = place
        self.graph = graph
        self.types = types
        self.table = operator_facts()["tables"][generation]["operators"]
        self.tensors = {item.name: item for item in graph.initializer}
        self.constants = set(self.tensors) | {
            name for node in graph.node if node.op_type == "Constant" for name in node.output
        }
        self.dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}

    def problems(self) -> Iterator[str]:
        for index, node in enumerate(self.graph.node):
            label = f"node {node.name or index!r} ({node.op_type})"
            for complaint in self._complaints(node):
                yield f"{label}: {complaint}"

    def _complaints(self, node: onnx.NodeProto) -> Iterator[str]:
        plugin = operator_facts()["plugins"].get(node.op_type)
        if plugin is not None:
            yield from self._plugin(node, plugin)
            return
        row = self.table.get(node.op_type) if node.domain in _DOMAINS else None
        if row is None:
            yield f"{self.name} has no such operator"
            return
        if node.op_type in self.place.lacks:
            yield f"{self.place.name} has no implementation of it"
        yield from self._types(node, row["types"])
        for index in row.get("constant", ()):
            if index < len(node.input) and node.input[index] and node.input[index] not in self.constants:
                yield f"{self.name} needs input {index} ({node.input[index]!r}) as an initializer"
        for index in row.get("dequantized", ()):
            if index < len(node.input) and node.input[index] not in self.constants | self.dequantized:
                yield f"{self.name} needs input {index} ({node.input[index]!r}) as an initializer or dequantised"
        match node.op_type:
            case "Resize":
                yield from self._resize(node)
            case "MaxPool" | "AveragePool":
                yield from self._pooling(node)
            case "QuantizeLinear" | "DequantizeLinear":
                yield from self._quantization(node)

    def _types(self, node: onnx.NodeProto, allowed: list[str]) -> Iterator[str]:
        data = operator_facts()["data_inputs"].get(node.op_type, range(len(node.input)))
        names = [node.input[index] for index in data if index < len(node.input)]
        if node.op_type in ("Cast", "Constant"):  # what they make matters as much as what they take
            names += node.output
        for name in names:
            kind = self.types.get(name, "")
            if kind == "INT64" and self.version < (10,):
                kind = "INT32"  # cast by the parser
            if kind and kind not in allowed:
                yield f"{self.name} does not take {kind} there ({name!r}), only {', '.join(allowed)}"

    def _plugin(self, node: onnx.NodeProto, facts: Plugin) -> Iterator[str]:
        since = facts["attributes_since"]
        known = set(facts["attributes"])
        known |= {key for key, version in since.items() if tuple(map(int, version.split("."))) <= self.version}
        for attribute in node.attribute:
            # the parser itself reads these two to find the plugin
            if attribute.name not in known | {"plugin_version", "plugin_namespace"}:
                yield f"the plugin of {self.name} has no attribute {attribute.name!r}"
        yield from self._types(node, facts["types"])
        boxes = _attribute(node, "max_output_boxes", 0)
        if boxes > self.place.nms_cap:
            yield f"max_output_boxes {boxes}: the plugin considers {self.place.nms_cap} boxes on {self.place.name}"

    def _resize(self, node: onnx.NodeProto) -> Iterator[str]:
        defaults = {
            "mode": "nearest",
            "coordinate_transformation_mode": "half_pixel",
            "nearest_mode": "round_prefer_floor",
        }
        for key, allowed in operator_facts()["resize"].items():
            value = _attribute(node, key, defaults[key])
            text = value.decode() if isinstance(value, bytes) else str(value)
            if text not in allowed:
                yield f"{self.name} does not resize with {key}={text}, only {', '.join(allowed)}"

    def _pooling(self, node: onnx.NodeProto) -> Iterator[str]:
        if len(node.output) > 1 and node.output[1]:
            yield f"{self.name} has no second output (indices)"
        if any(step != 1 for step in _attribute(node, "dilations", [])):
            yield f"{self.name} does not dilate pooling windows"

    def _quantization(self, node: onnx.NodeProto) -> Iterator[str]:
        # ONNX: without a zero point the quantised type is UINT8, which TensorRT has for inputs and outputs only.
        zero = self.tensors.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None:
            yield f"{self.name} needs a zero point of INT8 zeros as an initializer"
        elif zero.data_type != TensorProto.INT8 or np.any(numpy_helper.to_array(zero)):
            yield f"{self.name} quantises symmetrically: the zero point has to be INT8 zeros"
