"""A graph as ONNX nodes: the layers that the wanted outputs need, each written by the one function of its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.layers import INPUT
from darkprune.layers.base import BlobReader
from darkprune.layers.heads import Head
from darkprune.onnx.emit import (  # noqa: F401  (imported to register)
    activations,
    convolution,
    dense,
    merge,
    pooling,
    resample,
)
from darkprune.onnx.emit.base import INPUT_NAME, Emitter, Signal, settle
from darkprune.onnx.emit.scope import EMITTERS, UNSUPPORTED, Scope, layer_error, layer_name


def emit_layers(net: Emitter, weights: NetworkWeights, wanted: Iterable[int]) -> dict[int, Signal]:
    """Writes the layers that the wanted ones need.

    Args:
        net: gets the nodes and constants.
        weights: the open pair; has to stay open until the file is written.
        wanted: layer numbers.

    Returns:
        What each layer gives, by number; `INPUT` is the network's input.

    Raises:
        ExportError: a layer that ONNX cannot say, with its number, kind and line.
        WeightsError: the file ends while it is read.
    """
    graph = weights.graph
    needed = needed_layers(graph, wanted)
    signals = {INPUT: _input(graph)}
    for layer in graph:
        if layer.index in needed:
            signals[layer.index] = _emit_layer(net, weights, layer, signals)
    return signals


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


def seen_from(signals: Mapping[int, Signal], source: int, reader: int) -> Signal:
    """Returns what a layer sees of a source: directly behind an antialiased one the blurred map."""
    signal = signals[source]
    if signal.blurred is not None and source == reader - 1:
        return signal.blurred
    return signal


def _input(graph: Graph) -> Signal:
    feature = graph.net.input
    if feature.is_map:
        return Signal(feature, as_map=INPUT_NAME)
    return Signal(feature, as_flat=INPUT_NAME)


def _emit_layer(net: Emitter, weights: NetworkWeights, layer: Layer, signals: Mapping[int, Signal]) -> Signal:
    kind = type(layer.kind)
    if isinstance(layer.kind, Head):
        raise layer_error(layer, "a detection head that another layer reads from cannot be exported")
    if kind not in EMITTERS:
        raise layer_error(layer, UNSUPPORTED.get(kind, f"[{layer.name}] cannot be written as ONNX"))
    owner = layer
    while not owner.blobs and owner.references:
        owner = weights.graph[owner.references[0]]
    inputs = [seen_from(signals, source, layer.index) for source in layer.sources]
    options = weights.graph.options(layer)
    first = len(net.nodes)
    scope = Scope(net, layer, layer.kind, inputs, owner, _reader(weights, owner), options)
    return settle(net, first, EMITTERS[kind](scope), layer_name(layer))


def _reader(weights: NetworkWeights, owner: Layer) -> BlobReader:
    """Returns a function that reads a layer's tensors, with darknet's initial ones where `dontloadscales` says so."""
    stored = {blob.name for blob in owner.stored}

    def read(name: str) -> NDArray[np.float32]:
        if name in stored:
            return weights.read(owner, name)
        if not stored:
            raise layer_error(owner, "dontload=1: its weights are in no file, so it cannot be exported")
        blob = weights.blob(owner, name)
        return np.full(blob.shape, 1 if name == "scales" else 0, np.float32)

    return read
