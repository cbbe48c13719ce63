"""Writes the layers of a graph that the wanted outputs need, each by the function of its section kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.layers import INPUT
from darkprune.layers.base import BlobReader
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
from darkprune.onnx.nodes.layer_writer import UNSUPPORTED, WRITERS, LayerWriter, layer_error, layer_name


def write_layers(builder: GraphBuilder, weights: NetworkWeights, wanted: Iterable[int]) -> dict[int, LayerOutput]:
    """Writes the layers that the wanted ones need.

    Args:
        builder: gets the nodes and constants.
        weights: the open pair; has to stay open until the file is written.
        wanted: layer numbers.

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


def seen_from(layer_outputs: Mapping[int, LayerOutput], source: int, reader: int) -> LayerOutput:
    """Returns a source's output as a layer reads it: blurred where the layer directly follows an antialiased one."""
    layer_output = layer_outputs[source]
    if layer_output.blurred is not None and source == reader - 1:
        return layer_output.blurred
    return layer_output


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
        raise layer_error(layer, "a detection head that another layer reads from cannot be exported")
    if kind not in WRITERS:
        raise layer_error(layer, UNSUPPORTED.get(kind, f"[{layer.name}] cannot be written as ONNX"))
    owner = layer
    while not owner.blobs and owner.references:
        owner = weights.graph[owner.references[0]]
    inputs = [seen_from(layer_outputs, source, layer.index) for source in layer.sources]
    options = weights.graph.options(layer)
    first = len(builder.nodes)
    writer = LayerWriter(builder, layer, layer.kind, inputs, owner, _reader(weights, owner), options)
    return name_result(builder, first, WRITERS[kind](writer), layer_name(layer))


def _reader(weights: NetworkWeights, owner: Layer) -> BlobReader:
    """Returns a function that reads a layer's tensors, with darknet's initial ones where `dontloadscales` says so."""
    stored = {blob.name for blob in owner.stored}

    def read(name: str) -> NDArray[np.float32]:
        if name in stored:
            return weights.read(owner, name)
        if not stored:
            raise layer_error(owner, "dontload=1: its weights are in no file, so it cannot be exported")
        blob = owner.blob(name)
        return np.full(blob.shape, 1 if name == "scales" else 0, np.float32)

    return read
