"""Reading ONNX files without their weights: the same as onnx reads, in little memory; nonsense is one line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from darkprune.errors import ExportError
from darkprune.onnx.read import read_model, sizes_of, varint
from tests.engines.models import network


def test_everything_but_large_values(tmp_path: Path) -> None:
    model = network(batch="n")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1024, np.float32), "4 KiB"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1025, np.float32), "more"))
    onnx.save(model, str(tmp_path / "x.onnx"))
    read = read_model(tmp_path / "x.onnx")
    values = {tensor.name: len(tensor.raw_data) for tensor in read.graph.initializer}
    assert (values["4 KiB"], values["more"]) == (4096, 0)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 4096:
            tensor.ClearField("raw_data")
    assert read == model
    assert sizes_of(read.graph.input[0]) == ("n", 3, 64, 64)


def test_values_can_be_found_in_the_file(tmp_path: Path) -> None:
    model = network()
    large = np.arange(2000, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(large, "large"))
    onnx.save(model, str(tmp_path / "x.onnx"))
    read = read_model(tmp_path / "x.onnx", mapped=True)
    place = {item.key: item.value for item in read.graph.initializer[-1].external_data}
    start, length = int(place["offset"]), int(place["length"])
    content = (tmp_path / "x.onnx").read_bytes()[start : start + length]
    assert place["location"] == "x.onnx"
    np.testing.assert_array_equal(np.frombuffer(content, np.float32), large)
    (tmp_path / "y.onnx").write_bytes(read.SerializeToString())
    for before, after in zip(
        model.graph.initializer, onnx.load(str(tmp_path / "y.onnx")).graph.initializer, strict=True
    ):
        np.testing.assert_array_equal(numpy_helper.to_array(after), numpy_helper.to_array(before))


def test_sizes() -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 0, None, 7])
    assert sizes_of(value) == ("n", 0, "", 7)


@given(st.integers(0, 2**63 - 1))
def test_varint_is_protobufs(value: int) -> None:
    encoded = onnx.ModelProto(ir_version=value).SerializeToString()
    assert (encoded[1:] or b"\0") == varint(value)


@given(st.binary(max_size=200))
def test_nonsense_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("nonsense") / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"x\.onnx: is not an ONNX file") as error:
        read_model(path)
    assert "\n" not in str(error.value)


@given(st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(network().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x.onnx"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with suppress(ExportError):
        read_model(path)
