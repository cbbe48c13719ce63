"""Weights files that training starts from: of a network's first layers alone (`yolov4.conv.137`), of other classes."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from darkprune.darknet.weights import Header, WeightsFile, WeightsWriter
from darkprune.errors import UsageError, WeightsError
from darkprune.graph.graph import Graph
from darkprune.graph.mismatch import fitting_classes
from darkprune.graph.misread import ignored_keys
from darkprune.graph.weights import NetworkWeights, stored_tensors

_CHUNK = 1 << 24  #: bytes that are copied at a time


def write_partial(weights: NetworkWeights, file: BinaryIO, layers: int) -> int:
    """Writes the first layers as darknet's `partial` does: version 0.2.5, 0 images seen.

    Args:
        file: empty, open for writing in binary.
        layers: how many of its layers, counted as darknet does (every section after [net]).

    Returns:
        Bytes written.

    Raises:
        UsageError: there are not as many layers, or one of them is not in the file (`dontload`).
    """
    graph = weights.graph
    if not 1 <= layers <= len(graph):
        raise UsageError(f"--layers {layers}: {graph.cfg.source} has {len(graph)} layers; give 1 to {len(graph)}")
    first = graph.layers[:layers]
    for layer in first:
        if layer.stored != layer.blobs:
            raise UsageError(
                f"--layers {layers}: dontload keeps layer {layer.index} (line {layer.line}) out of {weights.path}, and "
                "darknet would write random values for it: delete that key, or give fewer layers"
            )
    writer = WeightsWriter(file, Header(), [tensor for tensor in stored_tensors(graph) if tensor[0] < layers])
    for layer in first:
        for blob in layer.stored:
            for row, rows in weights.chunks(layer, blob.name, _CHUNK):
                writer.write(layer.index, blob.name, rows, row)
    writer.finish()
    return writer.size


def layers_held(graph: Graph, path: Path) -> int:
    """Returns how many layers of a network a file of its first layers holds.

    Raises:
        WeightsError: the file ends inside a layer, or holds none.
    """
    tensors = stored_tensors(graph)
    with WeightsFile(path, tensors) as file:
        ends = [blob.offset + 4 * blob.floats for blob in file.blobs.values()]
        held = sum(end <= file.size for end in ends)
        ended = held and ends[held - 1] == file.size
        following = tensors[held][0] if held < len(tensors) else len(graph)
        if not ended or following == tensors[held - 1][0]:
            raise WeightsError(
                f"{path}: {file.size} bytes end inside layer {tensors[min(held, len(tensors) - 1)][0]} of "
                f"{graph.cfg.source}; a partial file has to hold whole layers of the same network"
            )
        return following


def classes_of_weights(graph: Graph, path: Path) -> int | None:
    """Returns for how many classes a file of the network's weights is, by its size; None if it is of another network.

    Raises:
        WeightsError: it cannot be opened, or is no weights file.
    """
    if ignored_keys(graph.cfg) is not None:
        return None  # the cfg is wrong, and the size fits by chance
    with WeightsFile(path, stored_tensors(graph)) as file:
        return fitting_classes(graph, file.size - file.expected_size)
