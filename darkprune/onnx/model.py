"""From a Darknet pair to an ONNX model: options, versions, the graph, the metadata."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, helper

from darkprune import __version__
from darkprune.errors import ExportError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.layers import Feature
from darkprune.layers.heads import Head
from darkprune.onnx.facts import facts_of, last_suppression, set_facts
from darkprune.onnx.network import OnnxNetwork, assemble
from darkprune.onnx.nodes.builder import INPUT_NAME, GraphBuilder, LayerOutput
from darkprune.onnx.nodes.heads import decode
from darkprune.onnx.nodes.layer_writer import LayerWriter, layer_name
from darkprune.onnx.nodes.layers import write_layers, writer_of
from darkprune.onnx.nodes.outputs import FORMS, Output, write_outputs
from darkprune.onnx.options import OPSETS, USUAL_OPSET, ExportOptions
from darkprune.targets import Target, target
from darkprune.tensorrt.operators import check_model


def build_onnx(weights: NetworkWeights, options: ExportOptions) -> OnnxNetwork:
    """Makes the graph; large tensors stay in the weights file, which has to be open until they are written.

    Raises:
        ExportError: options that do not fit the network or the target; a layer that ONNX cannot express.
        WeightsError: the weights file ends while it is read.
    """
    graph, place = weights.graph, target(options.target)
    opset = _opset(options, place)
    _check(graph, options, place)
    builder = GraphBuilder(opset, options.batch)
    wanted = [source for layer in graph.heads for source in layer.sources] or [_classifier_output(graph)]
    if options.outputs != "heads" and not graph.heads:
        raise ExportError(f"{graph.cfg.source}: has no detection head to decode; only --outputs heads fits it")
    layer_outputs = write_layers(builder, weights, wanted)
    writers = [writer_of(builder, weights, layer, layer_outputs) for layer in graph.heads]
    if options.outputs == "heads":
        outputs = _raw_outputs(builder, writers) or [_plain_output(graph, builder, layer_outputs, wanted[0])]
    else:
        pixels = options.outputs == "deepstream"
        size = (graph.net.input.w, graph.net.input.h)
        outputs = write_outputs(
            builder, options.outputs, [decode(writer, size, pixels) for writer in writers], options.limits
        )
        _remark_suppression(builder, graph, options)
    model = assemble(
        "darknet",
        builder.nodes,
        builder.constants,
        [Output(INPUT_NAME, TensorProto.FLOAT, (builder.batch_axis, *_sizes(graph.net.input)))],
        outputs,
        opset,
        min(place.ir, helper.find_min_ir_version_for([helper.make_opsetid("", opset)])),
    )
    model.producer_version = __version__
    set_facts(model, facts_of(graph, options, [output.name for output in outputs]))
    problems = check_model(model, place)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ExportError(f"{place.name} cannot read the file: {problems[0]}{more}")
    read = {tensor.name for tensor in model.graph.initializer}
    constants = {name: constant for name, constant in builder.constants.items() if name in read}
    return OnnxNetwork(model, constants, frozenset(builder.full_precision), tuple(builder.remarks))


def _opset(options: ExportOptions, place: Target) -> int:
    low, high = max(OPSETS[0], place.opset[0]), min(OPSETS[1], place.opset[1])
    opset = min(USUAL_OPSET, high) if options.opset is None else options.opset
    if not low <= opset <= high:
        raise ExportError(f"opset {opset}: for {place.name} darkprune writes {low} to {high}; choose one of them")
    return opset


def _check(graph: Graph, options: ExportOptions, place: Target) -> None:
    if options.outputs not in FORMS:
        raise ExportError(f"outputs {options.outputs!r}: unknown; choose one of {', '.join(FORMS)}")
    if options.batch is None and not place.dynamic_batch:
        raise ExportError(f"{place.name} kits have no open batch size; give --batch 1 (or another number)")
    if options.batch is not None and not 1 <= options.batch <= 4096:
        raise ExportError(f"batch {options.batch} is out of range; it must be 1 to 4096, or dynamic")
    if options.outputs in ("nms", "efficientnms") and "NonMaxSuppression" in place.lacks:
        raise ExportError(f"{place.name} has no suppression; take --outputs boxes, and suppress outside the file")
    if options.outputs == "efficientnms" and not place.nms_cap:
        raise ExportError(f"{place.name} has no EfficientNMS plugin, which only TensorRT has; take --outputs nms")
    if options.outputs == "efficientnms" and options.limits.most > place.nms_cap:
        raise ExportError(f"the EfficientNMS plugin considers at most {place.nms_cap} boxes on {place.name}")
    counts = {layer.kind.classes for layer in graph.heads if isinstance(layer.kind, Head)}
    if options.outputs != "heads" and len(counts) > 1:
        raise ExportError(f"the heads have different numbers of classes ({sorted(counts)}); only --outputs heads fits")
    if options.names and counts and counts != {len(options.names)}:
        raise ExportError(
            f"{len(options.names)} class names, but the heads have {'/'.join(map(str, sorted(counts)))} classes; "
            "take the names file that belongs to the cfg"
        )


def _classifier_output(graph: Graph) -> int:
    """Returns the layer that gives the output of a network without heads: no training loss, nor what only it reads."""
    last = next((i for i in reversed(graph.outputs) if graph[i].name not in ("cost", "contrastive")), None)
    if last is None:
        raise ExportError(f"{graph.cfg.source}: gives nothing but a training loss; there is nothing to export")
    return last


def _raw_outputs(builder: GraphBuilder, writers: Sequence[LayerWriter[Head]]) -> list[Output]:
    """The outputs of the form `heads`: the map that each takes, under a name of its own where two take the same."""
    outputs: dict[str, Output] = {}
    for writer in writers:
        name, feature = writer.map_of(), writer.inputs[0].feature
        if name in outputs or name == INPUT_NAME:
            name = builder.node("Identity", [name], layer_name(writer.layer))[0]
        outputs[name] = Output(name, TensorProto.FLOAT, (builder.batch_axis, *_sizes(feature)))
    return list(outputs.values())


def _plain_output(graph: Graph, builder: GraphBuilder, layer_outputs: dict[int, LayerOutput], index: int) -> Output:
    layer_output = layer_outputs[index].blurred or layer_outputs[index]
    if not any(layer_output.name in node.output for node in builder.nodes):  # the input itself, or a constant
        raise ExportError(f"layer {index} ({graph[index].name}): the network computes nothing")
    feature = layer_output.feature
    sizes = _sizes(feature) if layer_output.as_map else (feature.outputs,)
    return Output(layer_output.name, TensorProto.FLOAT, (builder.batch_axis, *sizes))


def _sizes(feature: Feature) -> tuple[int, ...]:
    return (feature.c, feature.h, feature.w) if feature.is_map else (feature.outputs,)


def _remark_suppression(builder: GraphBuilder, graph: Graph, options: ExportOptions) -> None:
    kind = last_suppression(graph)["nms"]
    if options.outputs in ("nms", "efficientnms") and kind in ("greedynms", "diounms"):
        builder.remarks.append(
            f"the cfg says nms_kind={kind}; the suppression in the file compares plain IoU: for darknet's own "
            "detections take --outputs heads or boxes and suppress outside"
        )
