"""Reads ONNX files without the values of their large tensors, so that a file of any size takes little memory.

An ONNX file is a protobuf message; the numbers of its fields are those of `onnx.proto`. Everything is read but the
bytes of tensors above 4 KiB.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from darkprune.errors import ExportError
from darkprune.onnx.facts import read_facts

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9  # onnx.proto
_LARGE = 4096  #: bytes of values from which a tensor is read without them
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


class _Field(NamedTuple):
    """A field of a message: its number and wire type, where it begins, where its content begins, where it ends."""

    number: int
    wire: int
    start: int
    content: int
    end: int


def read_model(path: Path, mapped: bool = False) -> onnx.ModelProto:
    """Reads an ONNX file; large tensors have name, type and sizes, but no values.

    Args:
        path: the file.
        mapped: whether such tensors name their place in the file, as external data do: a program that reads the model
            from a file beside this one maps their values into memory.

    Raises:
        ExportError: it cannot be read, or is not an ONNX file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            reader = _Reader(content, path.name if mapped else "")
            model: onnx.ModelProto = onnx.ModelProto.FromString(reader.without_values())
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # protobuf's exceptions have no base that onnx promises
        raise ExportError(f"{path}: is not an ONNX file ({' '.join(str(error).split())[:80]})") from None
    if not model.graph.node:
        raise ExportError(f"{path}: is not an ONNX file, or one without a network")
    return model


def facts_of_file(path: Path) -> dict[str, Any]:
    """Reads the metadata of a file.

    Raises:
        ExportError: it cannot be read, is not ONNX, or another program made it.
    """
    return read_facts(read_model(path), str(path))


def sizes_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Returns the sizes of an input or output; an open one is a text, empty where it has no name."""
    return tuple(
        size.dim_value if size.HasField("dim_value") else size.dim_param for size in value.type.tensor_type.shape.dim
    )


class _Reader:
    """Copies a file but for the values of large tensors.

    Attributes:
        content: of the file.
        name: of the file, for tensors that say where their values are; empty where they do not.
    """

    def __init__(self, content: mmap.mmap, name: str) -> None:
        self.content = content
        self.name = name

    def without_values(self) -> bytes:
        """Returns the rest of the file as a message."""
        return self._message(0, len(self.content), (MODEL_GRAPH, GRAPH_INITIALIZER))

    def _message(self, start: int, end: int, inside: tuple[int, ...]) -> bytes:
        """Copies a message; `inside` are the numbers of the fields that lead from it to the tensors."""
        parts, places = [], []
        for field in _fields(self.content, start, end):
            if inside and field.number == inside[0] and field.wire == _BYTES:
                inner = self._message(field.content, field.end, inside[1:])
                parts += [length_delimited(field.number, len(inner)), inner]
            elif inside or field.number != TENSOR_RAW_DATA or field.end - field.content <= _LARGE:
                parts.append(self.content[field.start : field.end])
            elif self.name:
                tensor = onnx.TensorProto()
                set_place(tensor, self.name, field.content, field.end - field.content)
                places.append(tensor.SerializeToString())
        return b"".join([*parts, *places])  # last, because a tensor may say that its values are inside


def set_place(tensor: onnx.TensorProto, name: str, offset: int, length: int) -> None:
    """Makes a tensor say in which file its values are, and where."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Lists the fields of a message.

    Raises:
        ValueError: it is not a message.
    """
    at = start
    while at < end:
        begin = at
        key, at = _read_varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            length, at = _read_varint(content, at)
        elif wire == _VARINT:
            length = _read_varint(content, at)[1] - at
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {begin}")
        if number == 0 or at + length > end:
            raise ValueError(f"a field of {length} bytes at byte {begin}")
        yield _Field(number, wire, begin, at, at + length)
        at += length


def _read_varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """Reads an integer, in groups of seven bits from the lowest, and returns it with the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an integer that does not end")


def length_delimited(number: int, length: int) -> bytes:
    """Encodes the start of a field that holds a message or bytes."""
    return varint(number << 3 | _BYTES) + varint(length)


def varint(value: int) -> bytes:
    """Encodes an integer in groups of seven bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
