"""The tensors of a network: what they are read from, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.weights import EXPORTED, Header, WeightsFile, WeightsWriter
from darkprune.errors import WeightsError
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.mismatch import explain
from darkprune.layers import Blob
from darkprune.layers.base import BlobReader
from darkprune.layers.convolution import BN_EPSILON


def stored_tensors(graph: Graph, transposed: bool = False) -> list[tuple[int, str, tuple[int, ...]]]:
    """Lists (layer, name, shape) of what the graph's weights file holds, in file order.

    Args:
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


class TensorSource(Protocol):
    """The stored tensors of a network, read one at a time.

    A weights file is one (`NetworkWeights`); others show it changed without copying it: without some residual units
    (`darkprune.surgery.removed_units`), or with the weights of channels that replace others
    (`darkprune.surgery.replaced_channels`).
    """

    @property
    def graph(self) -> Graph:
        """The network whose tensors these are."""
        ...

    @property
    def header(self) -> Header:
        """The header of the weights file."""
        ...

    @property
    def path(self) -> Path:
        """The weights file that the tensors come from."""
        ...

    def read(self, layer: Layer, name: str) -> NDArray[np.float32]:
        """Reads a tensor in the axis order that the kind declares."""
        ...

    def chunks(self, layer: Layer, name: str, limit: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Reads a tensor in parts along its first axis.

        Args:
            limit: bytes of a part; at least one row is read, and transposed tensors come whole.

        Yields:
            (first row, rows), which the next part overwrites.
        """
        ...

    def reader(self, layer: Layer) -> BlobReader:
        """Returns a function that reads the layer's tensors, those of the sharing layer where it has none."""
        owner = layer
        while not owner.stored and owner.references:
            owner = self.graph[owner.references[0]]
        return lambda name: self.read(owner, name)


class DerivedSource(TensorSource):
    """Tensors that are made of those of another source, which must stay open: its header and file are theirs too."""

    def __init__(self, source: TensorSource, graph: Graph) -> None:
        """Takes the source, and the network that the tensors belong to."""
        self._source, self._graph = source, graph

    @property
    def graph(self) -> Graph:
        """The network."""
        return self._graph

    @property
    def header(self) -> Header:
        """The header of the weights file."""
        return self._source.header

    @property
    def path(self) -> Path:
        """The weights file that the tensors come from."""
        return self._source.path


class NetworkWeights(TensorSource):
    """The weights file of a graph, open for reading.

    Attributes:
        file: the file, in its own axis order.
    """

    def __init__(self, graph: Graph, path: Path) -> None:
        """Opens the file.

        Raises:
            WeightsError: see `WeightsFile`; a size that does not fit names the first layer that does not.
        """
        self._graph = graph
        file = WeightsFile(path, stored_tensors(graph))
        if file.header.transposed:
            file.close()
            file = WeightsFile(path, stored_tensors(graph, transposed=True))
        self.file = file
        if file.size != file.expected_size:
            message = explain(graph, file)
            file.close()
            raise WeightsError(message)

    def __enter__(self) -> NetworkWeights:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    @property
    def graph(self) -> Graph:
        """The network."""
        return self._graph

    @property
    def header(self) -> Header:
        """The file's header."""
        return self.file.header

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.file.path

    def read(self, layer: Layer, name: str) -> NDArray[np.float32]:
        """Reads a tensor; see `TensorSource`."""
        values = self.file.read(layer.index, name)
        return values.T if _is_transposed(self.header, layer.blob(name)) else values

    def chunks(self, layer: Layer, name: str, limit: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Reads a tensor in parts; see `TensorSource`."""
        if _is_transposed(self.header, layer.blob(name)):
            yield 0, self.read(layer, name)
        else:
            yield from self.file.chunks(layer.index, name, limit)


class NetworkWriter:
    """Writes the weights file of a network, tensor by tensor in any order."""

    def __init__(self, graph: Graph, file: BinaryIO, header: Header) -> None:
        """Writes the header.

        Args:
            file: empty, open for writing in binary; see `darkprune.darknet.output`.
            header: written as it is; its version decides how connected layers are laid out.
        """
        self._header = header
        self._writer = WeightsWriter(file, header, stored_tensors(graph, header.transposed))

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._writer.size

    def write(self, layer: Layer, name: str, values: NDArray[np.float32], first: int = 0) -> None:
        """Writes a tensor, or some of its rows, in the axis order that the kind declares.

        Args:
            layer: a layer of that index; its widths may be those before a cut.
            values: the tensor, or rows of it; a transposed tensor is written whole.
            first: number of the first row given.
        """
        self._writer.write(
            layer.index, name, values.T if _is_transposed(self._header, layer.blob(name)) else values, first
        )

    def finish(self) -> None:
        """Checks that every tensor was written whole."""
        self._writer.finish()


def broken_tensors(weights: TensorSource) -> list[str]:
    """Lists tensors that make the network compute NaN, with layer and first channel."""
    found = []
    for layer in weights.graph:
        for blob in layer.stored:
            is_variance = blob.name.endswith("rolling_variance")
            for first, rows in weights.chunks(layer, blob.name, 1 << 22):
                flat = rows.reshape(len(rows), -1)
                bad, what = ~np.isfinite(flat).all(axis=1), "holds NaN or infinite values"
                if is_variance and not bad.any():
                    bad, what = (flat <= -BN_EPSILON).any(axis=1), "holds negative values"
                if bad.any():
                    channel = first + int(bad.argmax())
                    found.append(f"layer {layer.index} ({layer.name}): {blob.name} {what}, first at channel {channel}")
                    break
    return found


def odd_weights(weights: NetworkWeights) -> list[str]:
    """Lists what is wrong with weights that fit their cfg: a header that misleads darknet, values that give NaN."""
    exported = [f"{weights.path}: {EXPORTED}"] if weights.file.exported else []
    return [*exported, *broken_tensors(weights)]


def _is_transposed(header: Header, blob: Blob) -> bool:
    return header.transposed and blob.transposable
