"""A graph's weights file: opening it with the size checked, and the tensors that a kind asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.weights import WeightsFile
from darkprune.errors import WeightsError
from darkprune.graph.graph import Graph, Layer, read_graph
from darkprune.layers import Blob
from darkprune.layers.base import BlobReader
from darkprune.layers.heads import Head


def stored_tensors(graph: Graph, transposed: bool = False) -> list[tuple[int, str, tuple[int, ...]]]:
    """Lists (layer, name, shape) of what the graph's weights file holds, in file order.

    Args:
        graph: the network.
        transposed: whether the header says that connected layers are stored input-major.
    """
    return [
        (layer.index, blob.name, blob.shape[::-1] if transposed and blob.transposable else blob.shape)
        for layer in graph
        for blob in layer.stored
    ]


def weights_bytes(graph: Graph, header_size: int = 20) -> int:
    """Returns the size of the graph's weights file."""
    return header_size + 4 * sum(blob.count for layer in graph for blob in layer.stored)


class NetworkWeights:
    """The weights file of a graph, open for reading.

    Attributes:
        graph: the network.
        file: the file, in its own axis order.
    """

    def __init__(self, graph: Graph, path: Path) -> None:
        """Opens the file.

        Raises:
            WeightsError: see `WeightsFile`; a size that does not fit names the first layer that does not.
        """
        self.graph = graph
        file = WeightsFile(path, stored_tensors(graph))
        if file.header.transposed:
            file.close()
            file = WeightsFile(path, stored_tensors(graph, transposed=True))
        self.file = file
        if file.size != file.expected_size:
            message = _explain(graph, file)
            file.close()
            raise WeightsError(message)

    def __enter__(self) -> NetworkWeights:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def read(self, layer: Layer, name: str) -> NDArray[np.float32]:
        """Reads a tensor in the axis order that the kind declares."""
        blob = self.blob(layer, name)
        values = self.file.read(layer.index, name)
        return values.T if self.file.header.transposed and blob.transposable else values

    def blob(self, layer: Layer, name: str) -> Blob:
        """Returns a layer's declaration of a tensor."""
        return next(blob for blob in layer.blobs if blob.name == name)

    def reader(self, layer: Layer) -> BlobReader:
        """Returns a function that reads the layer's tensors, those of the sharing layer where it has none."""
        owner = layer
        while not owner.stored and owner.references:
            owner = self.graph[owner.references[0]]
        return lambda name: self.read(owner, name)

    def non_finite(self) -> list[str]:
        """Lists tensors that hold NaN or infinity, with layer and first channel."""
        found = []
        for layer in self.graph:
            for blob in layer.stored:
                for first, rows in self.file.chunks(layer.index, blob.name, 1 << 24):
                    bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
                    if bad.any():
                        channel = first + int(bad.argmax())
                        found.append(
                            f"layer {layer.index} ({layer.name}): {blob.name} holds NaN or infinite values, "
                            f"first at channel {channel}"
                        )
                        break
        return found


def _explain(graph: Graph, file: WeightsFile) -> str:
    """Says which layer does not fit, and what may have happened."""
    place = f"{file.path}: {file.size} bytes, but {graph.cfg.source} needs {file.expected_size}"
    hint = _hint(graph, file)
    if file.size > file.expected_size:
        extra = file.size - file.expected_size
        return f"{place}: {extra} bytes are left after the last layer ({len(graph) - 1}); {hint}"
    for blob in file.blobs.values():
        end = blob.offset + 4 * blob.floats
        if end > file.size:
            layer = graph[blob.layer]
            found = max(0, file.size - blob.offset)
            return (
                f"{place}: layer {layer.index} ({layer.name}, line {layer.line}) needs {4 * blob.floats} bytes of "
                f"{blob.name}, {found} are left; {hint}"
            )
    raise AssertionError("the sizes differ")


def _hint(graph: Graph, file: WeightsFile) -> str:
    classes = _fitting_classes(graph, file.size - file.expected_size)
    if classes is not None:
        return f"it would fit classes={classes}: take the cfg that it was trained with"
    if file.size == file.header.size:
        return "it holds a header and no weights"
    held = [blob.layer for blob in file.blobs.values() if blob.offset + 4 * blob.floats <= file.size]
    starts = {blob.layer: blob.offset for blob in reversed(file.blobs.values())}
    if file.size in starts.values():
        return (
            f"it ends exactly behind layer {held[-1]}: a cut-off file for pre-training "
            f"({Path(graph.cfg.source).stem}.conv.{held[-1] + 1}), which has no weights for the rest"
        )
    return "take the cfg and the weights of one and the same network"


def _fitting_classes(graph: Graph, excess: int) -> int | None:
    """Returns the number of classes with which the network would fill a file, if there is one.

    Args:
        graph: the network.
        excess: bytes that the file has beyond what the network needs; negative where it is too short.
    """
    heads = [layer for layer in graph.heads if layer.sources[0] >= 0]
    feeders = [graph[head.sources[0]] for head in heads]
    if not heads or any(feeder.name != "convolutional" for feeder in feeders):
        return None
    kinds = [head.kind for head in heads if isinstance(head.kind, Head)]
    per_class = 4 * sum(
        len(kind.anchors) * feeder.params // feeder.output.c for kind, feeder in zip(kinds, feeders, strict=True)
    )
    classes = kinds[0].classes + excess // per_class
    return classes if excess % per_class == 0 and classes >= 1 else None


def open_pair(cfg: Path, weights: Path) -> NetworkWeights:
    """Reads a cfg and opens its weights.

    Raises:
        CfgError, GraphError, WeightsError: either file is not what it should be, or they do not belong together.
    """
    return NetworkWeights(read_graph(cfg), weights)
