"""INT8 written into the file as Q/DQ pairs, as TensorRT reads them: symmetric, with pairs on weights, per channel.

onnxruntime's quantiser does the work; its defaults are others (asymmetric, weights stored as integers, biases
quantised), which TensorRT refuses. Quantised are convolutions, connected layers and the sums of shortcuts; not the
first convolution, depthwise ones, nor those that feed heads, whose errors cost most.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from darkprune.errors import ExportError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.convolution import Convolutional
from darkprune.layers.dense import Connected
from darkprune.layers.heads import Head
from darkprune.layers.merge import Shortcut
from darkprune.onnx.calibration import Ranges
from darkprune.onnx.check import check_structure
from darkprune.onnx.network import OnnxNetwork, values_of
from darkprune.onnx.nodes.builder import Constant
from darkprune.onnx.nodes.layer_writer import layer_name
from darkprune.onnx.options import LeftOut
from darkprune.onnx.session import onnxruntime, silenced
from darkprune.targets import Target
from darkprune.tensorrt.operators import check_model

_LOWEST_OPSET = 13  #: DequantizeLinear per channel
_STEPS = ("conv", "connect", "add")  #: what the quantised nodes of a layer are called


def left_out_layers(graph: Graph, choice: LeftOut) -> list[Layer]:
    """Lists the layers that are not quantised.

    Raises:
        ExportError: a number that no layer has.
    """
    for index in choice.layers:
        if not 0 <= index < len(graph):
            raise ExportError(f"layer {index}: cannot be left out, the network has layers 0 to {len(graph) - 1}")
    left = set(choice.layers)
    if choice.first:
        left |= {layer.index for layer in graph if isinstance(layer.kind, Convolutional) and -1 in layer.sources}
    if choice.depthwise:
        left |= {layer.index for layer in graph if layer.is_depthwise}
    if choice.heads:
        left |= {source for layer in graph for source in layer.sources if isinstance(layer.kind, Head)}
        left |= set() if graph.heads else _last_weights(graph)
    return [graph[index] for index in sorted(left) if index >= 0]


def quantize_onnx(network: OnnxNetwork, graph: Graph, ranges: Ranges, choice: LeftOut, place: Target) -> OnnxNetwork:
    """Returns the network with Q/DQ pairs.

    Args:
        network: in FP32, of opset 13 or later.
        graph: the network it was made from.
        ranges: smallest and largest value of every tensor.
        choice: layers that are not quantised.
        place: target that has to read it.

    Raises:
        ExportError: a target without INT8, an opset below 13, or a file that the target could not read.
        RunnerError: onnxruntime is missing.
    """
    onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    if "int8" not in place.precisions:
        raise ExportError(f"{place.name} does not compute in INT8; choose one of {', '.join(place.precisions)}")
    if network.opset < _LOWEST_OPSET:
        raise ExportError(f"opset {network.opset}: INT8 needs {_LOWEST_OPSET} or later")
    nodes = quantised_nodes(network, graph, choice)
    if not nodes:
        raise ExportError("no layer is left to quantise")
    quantizer = QDQQuantizer(
        _with_magnitudes(network, nodes),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {name: tuple(np.array(value, np.float32) for value in range_) for name, range_ in ranges.items()},
        ),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "Gemm", "Add"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "Add"],
            # the pairs of a tensor that several nodes read are one pair
            "DedicatedQDQPair": False,
        },
    )
    with silenced():
        quantizer.quantize_model()
    quantizer.model.topological_sort()  # it appends the pairs at the end
    result = _with_pairs(network, quantizer.model.model)
    _check(result, graph, place)
    return result


def quantised_nodes(network: OnnxNetwork, graph: Graph, choice: LeftOut) -> list[str]:
    """Lists the names of the nodes that are quantised."""
    left = {layer.index for layer in left_out_layers(graph, choice)}
    kinds = (Convolutional, Connected, Shortcut)
    wanted = {layer_name(layer) for layer in graph if isinstance(layer.kind, kinds) and layer.index not in left}
    names = [node.name for node in network.model.graph.node]
    return [
        name
        for name in names
        if name.partition("/")[0] in wanted and name.partition("/")[2].partition("_")[0] in _STEPS
    ]


def quantised_tensors(network: OnnxNetwork, graph: Graph, choice: LeftOut) -> set[str]:
    """Returns the names of the tensors that quantised nodes read."""
    nodes = set(quantised_nodes(network, graph, choice))
    return {name for node in network.model.graph.node if node.name in nodes for name in node.input}


def _last_weights(graph: Graph) -> set[int]:
    """Returns the last layer with weights of a classifier."""
    weighted = [layer.index for layer in graph if isinstance(layer.kind, Convolutional | Connected)]
    return set(weighted[-1:])


def _with_magnitudes(network: OnnxNetwork, nodes: Collection[str]) -> onnx.ModelProto:
    """Returns a model for the quantiser, with the largest magnitude per output channel in place of the weights.

    The steps of symmetric quantisation follow from these alone, so that the weights need not be in memory together.
    """
    model = onnx.shape_inference.infer_shapes(network.model)
    model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")  # shapes are inferred: it need not do it
    weighted = [node for node in model.graph.node if node.name in nodes and node.op_type in ("Conv", "Gemm")]
    weights = {node.input[1] for node in weighted}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            values = values_of(tensor.name, network.constants[tensor.name])
            channels = np.abs(values.reshape(len(values), -1)).max(axis=1)
            tensor.CopyFrom(numpy_helper.from_array(channels.reshape(-1, *[1] * (values.ndim - 1)), tensor.name))
    return model


def _with_pairs(network: OnnxNetwork, quantised: onnx.ModelProto) -> OnnxNetwork:
    """Returns the network with the nodes and steps of the quantised model, and nothing else of it."""
    constants = dict(network.constants)
    for tensor in quantised.graph.initializer:
        if tensor.name not in constants:
            values = numpy_helper.to_array(tensor)
            constants[tensor.name] = Constant(values.shape, values.dtype, partial(np.asarray, values))
    return network.rewritten(quantised.graph.node, constants, "int8")


def _check(network: OnnxNetwork, graph: Graph, place: Target) -> None:
    """Demands what TensorRT's rules for explicit quantisation demand."""
    check_structure(network, graph)
    problems = check_model(network.model, place)
    for node in network.model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            source = network.constants.get(node.input[0])
            if source is not None and source.dtype == np.int32:
                problems.append(f"{node.name}: a quantised bias")
            if not (network.constants[node.input[1]].make() > 0).all():
                problems.append(f"{node.name}: a step that is not positive")
    if problems:
        raise ExportError(f"onnxruntime's quantiser wrote what {place.name} cannot read: {problems[0]}")


def quantised_share(model: onnx.ModelProto) -> float:
    """Returns the share of convolutions and connected layers whose weights are quantised."""
    made = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    return float(np.mean([node.input[1] in made for node in weighted])) if weighted else 0.0
