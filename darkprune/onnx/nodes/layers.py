"""Writes the layers of a graph that the wanted outputs need, each by the function of its section kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from darkprune.errors import ExportError
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.layers import INPUT
from darkprune.layers.heads import Head
from darkprune.onnx.nodes import (  # noqa: F401  (imported to register)
    activations,
    convolution,
    dense,
    merge,
    pooling,
    resample,
)
from darkprune.onnx.nodes.builder import INPUT_NAME, GraphBuilder, LayerOutput, name_result
from darkprune.onnx.nodes.layer_writer import UNSUPPORTED, WRITERS, LayerWriter


def write_layers(builder: GraphBuilder, weights: NetworkWeights, wanted: Iterable[int]) -> dict[int, LayerOutput]:
    """Writes the wanted layers and those that they need; the pair has to stay open until the file is written.

    Returns:
        Each layer's output, by number; `INPUT` is the network's input.

    Raises:
        ExportError: a layer that ONNX cannot express, with its number, kind and line.
        WeightsError: the file ends while it is read.
    """
    graph = weights.graph
    needed = needed_layers(graph, wanted)
    layer_outputs = {INPUT: _input(graph)}
    for layer in graph:
        if layer.index in needed:
            layer_outputs[layer.index] = _write_layer(builder, weights, layer, layer_outputs)
    return layer_outputs


def needed_layers(graph: Graph, wanted: Iterable[int]) -> set[int]:
    """Returns the wanted layers and all that they read from, directly or not."""
    needed: set[int] = set()
    waiting = [index for index in wanted if index != INPUT]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting.extend(source for source in graph[index].sources if source != INPUT)
    return needed


def writer_of(
    builder: GraphBuilder, weights: NetworkWeights, layer: Layer, layer_outputs: Mapping[int, LayerOutput]
) -> LayerWriter[Any]:
    """Returns the writer of a layer, whose sources are written; directly after an antialiased one it reads the blur."""
    inputs = []
    for source in layer.sources:
        layer_output = layer_outputs[source]
        inputs.append(layer_output.blurred or layer_output if source == layer.index - 1 else layer_output)
    return LayerWriter(builder, weights, layer, inputs)


def _input(graph: Graph) -> LayerOutput:
    feature = graph.net.input
    if feature.is_map:
        return LayerOutput(feature, as_map=INPUT_NAME)
    return LayerOutput(feature, as_flat=INPUT_NAME)


def _write_layer(
    builder: GraphBuilder, weights: NetworkWeights, layer: Layer, layer_outputs: Mapping[int, LayerOutput]
) -> LayerOutput:
    kind = type(layer.kind)
    if isinstance(layer.kind, Head):
        raise ExportError(f"{layer.place}: a detection head that another layer reads from cannot be exported")
    if kind not in WRITERS:
        raise ExportError(f"{layer.place}: {UNSUPPORTED.get(kind, f'[{layer.name}] cannot be written as ONNX')}")
    first = len(builder.nodes)
    writer = writer_of(builder, weights, layer, layer_outputs)
    return name_result(builder, first, WRITERS[kind](writer), writer.prefix)
