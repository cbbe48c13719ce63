"""The .weights file: a header, then float32 tensors in layer order, without names, sizes or checksum.

    major, minor, revision   3 x int32
    seen                     uint64 if 10·major + minor >= 2, else uint32: images trained on so far
    tensors                  float32, little endian

darknet reads a short file as far as it goes and ignores what is left of a long one, so a wrong pair loads without a
word; here the size must match the cfg exactly. Tensors are read one at a time: no more than one is in memory.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.cfg import excerpt
from darkprune.darknet.recognise import LOOKED_AT, other_file
from darkprune.errors import WeightsError

MAX_VERSION = 1_000_000
#: what is odd about a file whose `WeightsFile.exported` is true
EXPORTED = (
    "the header says 0.0.0 but has a 64-bit count of images, as PyTorch exports have: darknet would read every weight "
    "one place too early; what darkprune writes has a right header"
)


@dataclass(frozen=True)
class Header:
    """The first 16 or 20 bytes.

    Attributes:
        major, minor, revision: format version; AlexeyAB's program writes 0, 2, 5.
        seen: images that the network was trained on.
    """

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def wide(self) -> bool:
        """Whether `seen` takes 64 bits."""
        return self.major >= 1 or self.minor >= 2  # darknet: major * 10 + minor >= 2

    @property
    def transposed(self) -> bool:
        """Whether connected layers are stored input-major (ancient files)."""
        return self.major > 1000 or self.minor > 1000

    @property
    def size(self) -> int:
        """Bytes that the header takes."""
        return 20 if self.wide else 16

    def encode(self) -> bytes:
        """Returns the header's bytes."""
        return struct.pack("<iiiQ" if self.wide else "<iiiI", self.major, self.minor, self.revision, self.seen)


class StoredBlob(NamedTuple):
    """Where a tensor lies in a file.

    Attributes:
        layer: layer index.
        name: tensor name within the layer.
        shape: sizes of its axes in memory order.
        offset: bytes from the start of the file.
    """

    layer: int
    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def floats(self) -> int:
        """Number of floats."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def read_header(file: BinaryIO, path: Path) -> Header:
    """Reads a header.

    Raises:
        WeightsError: the file is shorter than a header, or its version makes no sense.
    """
    data = file.read(LOOKED_AT)
    other = other_file(data)
    if other is not None:
        raise WeightsError(f"{path}: is {other}; expected a Darknet .weights file")
    if data.lstrip()[:1] in (b"[", b"#") and b"[net" in data:
        raise WeightsError(f"{path}: is a .cfg file; give the cfg first, and then its .weights file")
    if len(data) < 16:
        raise WeightsError(f"{path}: only {len(data)} bytes long, shorter than a header; this is no .weights file")
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:64]):
        raise WeightsError(f"{path}: is text ({excerpt(data[:64].decode())}), no Darknet .weights file")
    major, minor, revision = struct.unpack_from("<iii", data)
    if not (0 <= major <= MAX_VERSION and 0 <= minor <= MAX_VERSION and 0 <= revision <= MAX_VERSION):
        raise WeightsError(
            f"{path}: the header says version {major}.{minor}.{revision}; this is no Darknet .weights file"
        )
    header = Header(major, minor, revision)
    if len(data) < header.size:
        raise WeightsError(f"{path}: only {len(data)} bytes long, shorter than its header of {header.size}")
    (seen,) = struct.unpack_from("<Q" if header.wide else "<I", data, 12)
    return Header(major, minor, revision, seen)


class WeightsFile:
    """An open .weights file whose size fits a list of tensors.

    Use as a context manager. Reads with positioned reads, so that tensors can be asked for in any order.

    Attributes:
        path: the file.
        header: its header; one of version 0.2.5 where the file's own misleads (`exported`).
        exported: whether the header says 0.0.0 but `seen` takes 64 bits, as in files written by PyTorch programs; that
            shows in the size of the file, which is one float more than the cfg needs.
        blobs: (layer, name) -> place in the file.
        size: bytes of the file.
    """

    def __init__(self, path: Path, tensors: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        """Opens the file and checks its size.

        Args:
            path: the file.
            tensors: (layer, name, shape) in file order.

        Raises:
            WeightsError: the file cannot be opened, is not a weights file, or has another size than the tensors.
        """
        self.path = path
        self._file = open_weights(path)
        self._buffer: NDArray[np.float32] = np.empty(0, "<f4")
        try:
            self.header = read_header(self._file, path)
            self.size = os.fstat(self._file.fileno()).st_size
            needed = 4 * sum(math.prod(shape) for _, _, shape in tensors)
            version = (self.header.major, self.header.minor, self.header.revision)
            self.exported = version == (0, 0, 0) and self.size == Header().size + needed
            if self.exported:
                (seen,) = struct.unpack("<Q", os.pread(self._file.fileno(), 8, 12))
                self.header = Header(seen=seen)
            self.blobs: dict[tuple[int, str], StoredBlob] = {}
            offset = self.header.size
            for layer, name, shape in tensors:
                blob = StoredBlob(layer, name, shape, offset)
                self.blobs[layer, name] = blob
                offset += 4 * blob.floats
            self.expected_size = offset
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self, layer: int, name: str) -> NDArray[np.float32]:
        """Reads one tensor."""
        blob = self.blobs[layer, name]
        return self._fill(np.empty(blob.floats, "<f4"), blob.offset).reshape(blob.shape)

    def chunks(self, layer: int, name: str, limit: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Reads one tensor in parts along its first axis.

        Args:
            layer: layer index.
            name: tensor name.
            limit: bytes that a part may take (at least one row is read).

        Yields:
            (first row, rows of the tensor); the rows are overwritten by the next part, since fresh memory for each
            would cost more than reading it.
        """
        blob = self.blobs[layer, name]
        rows, row = blob.shape[0], blob.floats // blob.shape[0]
        step = min(rows, max(1, limit // (4 * row)))
        if len(self._buffer) < step * row:
            self._buffer = np.empty(max(step * row, limit // 4), "<f4")
        for first in range(0, rows, step):
            count = min(step, rows - first)
            part = self._fill(self._buffer[: count * row], blob.offset + 4 * first * row)
            yield first, part.reshape(count, *blob.shape[1:])

    def _fill(self, data: NDArray[np.float32], offset: int) -> NDArray[np.float32]:
        view = memoryview(data.view(np.uint8))  # type: ignore[arg-type]  # numpy arrays are buffers
        done = 0
        while done < len(view):
            got = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            if got == 0:
                raise WeightsError(f"{self.path}: ended while it was read; was it changed meanwhile?")
            done += got
        return data


def open_weights(path: Path) -> BinaryIO:
    """Opens a file for reading, with errors in one line.

    Raises:
        WeightsError: no such file, a directory, or not readable.
    """
    try:
        if path.is_dir():
            raise WeightsError(f"{path}: is a directory; give the path of a Darknet .weights file")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; give the path of a Darknet .weights file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


class WeightsWriter:
    """Writes tensors of known shapes to an open file, in any order.

    The caller provides a file that is not yet in its final place; see `darkprune.darknet.output`.
    """

    def __init__(self, file: BinaryIO, header: Header, tensors: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        """Writes the header and reserves the file's length.

        Args:
            file: opened for writing, empty.
            header: written as it is.
            tensors: (layer, name, shape) in file order.
        """
        self._file = file
        self._blobs: dict[tuple[int, str], StoredBlob] = {}
        offset = header.size
        for layer, name, shape in tensors:
            blob = StoredBlob(layer, name, shape, offset)
            self._blobs[layer, name] = blob
            offset += 4 * blob.floats
        self.size = offset
        self._missing = {key: blob.floats for key, blob in self._blobs.items()}
        file.write(header.encode())

    def write(self, layer: int, name: str, values: NDArray[np.float32], first: int = 0) -> None:
        """Writes a tensor, or some of its rows.

        Args:
            layer: layer index.
            name: tensor name.
            values: the tensor, or rows of it.
            first: number of the first row given.
        """
        blob = self._blobs[layer, name]
        row = blob.floats // blob.shape[0]
        data = np.ascontiguousarray(values, "<f4")
        if data.shape[1:] != blob.shape[1:] or first + data.shape[0] > blob.shape[0]:
            raise ValueError(f"layer {layer} {name}: rows of shape {data.shape} do not fit {blob.shape}")
        self._file.seek(blob.offset + 4 * first * row)
        view = memoryview(data.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        while len(view):  # an unbuffered file may take less than it is given
            view = view[self._file.write(view) :]
        self._missing[layer, name] -= data.size

    def finish(self) -> None:
        """Checks that every tensor was written whole."""
        left = [key for key, count in self._missing.items() if count]
        if left:
            raise ValueError(f"not written: {left[:3]}")
