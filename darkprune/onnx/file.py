"""Writes an ONNX file one tensor at a time.

An ONNX file is a protobuf message. Its bytes are put together here instead of by the library, so that a network of
hundreds of megabytes needs no more memory than its largest tensor: the message without tensors, then each tensor with
its values straight from the weights file. The numbers of the fields are those of `onnx.proto`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from darkprune.darknet.output import atomic_file
from darkprune.errors import ExportError
from darkprune.onnx.network import MAX_PROTO, OnnxNetwork, tensor_of, values_of
from darkprune.onnx.nodes.builder import Array
from darkprune.onnx.read import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, length_delimited, set_place
from darkprune.onnx.session import is_text

_ROOM = 1 << 20  #: bytes that everything but the tensors' values may take beside them
_ALIGNMENT = 4096  #: of tensors in a separate file, so that they can be mapped


def write_onnx(network: OnnxNetwork, path: Path) -> None:
    """Writes the file as a whole or not at all.

    Args:
        network: what to write; its weights file has to be open.
        path: the file to be. Weights that do not fit into the 2 GiB of a protobuf file go to `<path>.data` beside it.

    Raises:
        OutputError: it exists or cannot be written.
        ExportError: a tensor that is not finite (in the file's precision).
        WeightsError: the weights file ends while it is read.
    """
    with ExitStack() as stack:
        file = stack.enter_context(atomic_file(path))
        if network.model.ByteSize() + network.nbytes + _ROOM <= MAX_PROTO:
            _write_inside(network, file)
            return
        # entered last, so in its place before the file that names it
        data_path = path.with_name(f"{path.name}.data")
        if not is_text(Path(data_path.name)):
            raise ExportError(f"{path}: needs a second file, which ONNX can only name in UTF-8; choose another name")
        data = stack.enter_context(atomic_file(data_path))
        file.write(_write_beside(network, data, data_path.name).SerializeToString())


def _write_inside(network: OnnxNetwork, file: BinaryIO) -> None:
    model, graph = onnx.ModelProto(), onnx.GraphProto()
    model.CopyFrom(network.model)
    graph.CopyFrom(model.graph)
    model.ClearField("graph")
    del graph.initializer[:]
    heads = []
    for tensor in network.model.graph.initializer:
        constant = network.constants[tensor.name]
        empty = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        message = empty.SerializeToString() + length_delimited(TENSOR_RAW_DATA, constant.nbytes)
        heads.append(length_delimited(GRAPH_INITIALIZER, len(message) + constant.nbytes) + message)
    nodes = graph.SerializeToString()
    values = sum(network.constants[tensor.name].nbytes for tensor in network.model.graph.initializer)
    file.write(model.SerializeToString())
    file.write(length_delimited(MODEL_GRAPH, len(nodes) + sum(map(len, heads)) + values))
    file.write(nodes)
    for tensor, head in zip(network.model.graph.initializer, heads, strict=True):
        file.write(head)
        file.write(_bytes(values_of(tensor.name, network.constants[tensor.name])))


def _write_beside(network: OnnxNetwork, data: BinaryIO, name: str) -> onnx.ModelProto:
    """Writes large tensors to a file of their own and returns the model that names their places."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    offset = 0
    for tensor in model.graph.initializer:
        constant = network.constants[tensor.name]
        small = tensor_of(tensor.name, constant)
        if small.raw_data or not constant.nbytes:
            tensor.CopyFrom(small)
            continue
        gap = -offset % _ALIGNMENT
        data.write(bytes(gap))
        offset += gap
        data.write(_bytes(values_of(tensor.name, constant)))
        set_place(tensor, name, offset, constant.nbytes)
        offset += constant.nbytes
    return model


def _bytes(values: Array) -> memoryview:
    """Views an array's memory as bytes."""
    return values.reshape(-1).view(np.uint8).data
