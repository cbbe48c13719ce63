"""The weights file: headers, positioned reading and writing, and what is no weights file."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkprune.darknet.weights import Header, WeightsFile, WeightsWriter, read_header
from darkprune.errors import WeightsError

Tensors = list[tuple[int, str, tuple[int, ...]]]
TENSORS: Tensors = [(0, "biases", (4,)), (0, "weights", (4, 3, 2, 2)), (2, "biases", (5,)), (2, "weights", (5, 7))]
COUNT = 4 + 48 + 5 + 35


def file_bytes(header: bytes, floats: int = COUNT) -> bytes:
    return header + np.arange(floats, dtype="<f4").tobytes()


def written(data: bytes, folder: Path) -> Path:
    path = folder / "x.weights"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("raw", "header", "size"),
    [
        (struct.pack("<iiiI", 0, 1, 0, 4_000_000_000), Header(0, 1, 0, 4_000_000_000), 16),
        (struct.pack("<iiiQ", 0, 2, 0, 2**40), Header(0, 2, 0, 2**40), 20),
        (struct.pack("<iiiQ", 0, 2, 5, 2**63 + 1), Header(0, 2, 5, 2**63 + 1), 20),
        (struct.pack("<iiiQ", 1, 0, 0, 7), Header(1, 0, 0, 7), 20),
        (struct.pack("<iiiI", 0, 0, 9, 7), Header(0, 0, 9, 7), 16),
    ],
)
def test_headers_are_read_and_written_back(raw: bytes, header: Header, size: int, tmp_path: Path) -> None:
    with WeightsFile(written(file_bytes(raw), tmp_path), TENSORS) as file:
        assert file.header == header
        assert (file.header.size, file.header.encode()) == (size, raw)
        assert not file.header.transposed
        assert file.size == file.expected_size == size + 4 * COUNT
        assert file.read(0, "biases").tolist() == [0, 1, 2, 3]
        assert file.read(2, "weights")[4, 6] == COUNT - 1


def test_ancient_files_say_that_they_are_transposed() -> None:
    assert Header(0, 1001, 0, 0).transposed
    assert Header(1001, 0, 0, 0).transposed
    assert not Header(0, 1000, 0, 0).transposed


@pytest.mark.parametrize("header", [Header(0, 1, 0, 5), Header(0, 2, 5, 6)])
@pytest.mark.parametrize("order", [1, -1])
def test_what_is_read_and_written_is_byte_identical(header: Header, order: int, tmp_path: Path) -> None:
    data = file_bytes(header.encode())
    out = io.BytesIO()
    with WeightsFile(written(data, tmp_path), TENSORS) as file:
        writer = WeightsWriter(out, file.header, TENSORS)
        assert writer.size == len(data)
        for layer, name, _ in TENSORS[::order]:
            writer.write(layer, name, file.read(layer, name))
    writer.finish()
    assert out.getvalue() == data


def test_infinities_and_nan_payloads_survive(tmp_path: Path) -> None:
    floats = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-45], "<f4")
    floats.view("<u4")[0] |= 0x1234
    tensors: Tensors = [(0, "weights", (6,))]
    out = io.BytesIO()
    with WeightsFile(written(Header().encode() + floats.tobytes(), tmp_path), tensors) as file:
        WeightsWriter(out, file.header, tensors).write(0, "weights", file.read(0, "weights"))
    assert out.getvalue()[20:] == floats.tobytes()


@given(limit=st.integers(1, 400))
def test_chunks_cover_a_tensor_in_rows(limit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(file_bytes(Header().encode()), tmp_path_factory.mktemp("chunks"))
    with WeightsFile(path, TENSORS) as file:
        for layer, name, shape in TENSORS:
            whole, first = file.read(layer, name), 0
            for start, rows in file.chunks(layer, name, limit):
                assert start == first
                row = 4 * whole[0].size
                assert rows.nbytes <= max(limit, row)
                assert rows.nbytes + row > limit or start + len(rows) == shape[0]  # as many rows as fit
                assert rows.shape[1:] == shape[1:]
                np.testing.assert_array_equal(rows, whole[start : start + len(rows)])
                first += len(rows)
            assert first == shape[0]


def test_writing_rows_and_columns_out_of_order() -> None:
    out = io.BytesIO()
    writer = WeightsWriter(out, Header(), TENSORS)
    values = np.arange(35, dtype=np.float32).reshape(7, 5).T  # not contiguous
    writer.write(2, "weights", values[3:], first=3)
    with pytest.raises(ValueError, match="not written"):
        writer.finish()
    writer.write(2, "weights", values[:3])
    writer.write(2, "biases", np.ones(5, np.float32))
    for name, shape in (("biases", (4,)), ("weights", (4, 3, 2, 2))):
        writer.write(0, name, np.zeros(shape, np.float32))
    writer.finish()
    assert np.frombuffer(out.getvalue()[20:], "<f4")[-35:].tolist() == values.ravel().tolist()


@pytest.mark.parametrize(("shape", "first"), [((4, 3, 2), 0), ((5, 3, 2, 2), 0), ((2, 3, 2, 2), 3)])
def test_rows_of_another_shape_are_a_bug(shape: tuple[int, ...], first: int) -> None:
    writer = WeightsWriter(io.BytesIO(), Header(), TENSORS)
    with pytest.raises(ValueError, match="do not fit"):
        writer.write(0, "weights", np.zeros(shape, np.float32), first)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "only 0 bytes long"),
        (b"\0" * 15, "only 15 bytes long"),
        (struct.pack("<iiiI", 0, 2, 5, 0), "shorter than its header of 20"),
        (b"[net]\nwidth=416\nheight=416\n", "is a .cfg file; give the cfg first"),
        (b"PK\3\4" + b"\0" * 40, "is a zip archive; unpack it first"),
        (b"PK\3\4" + b"\0" * 22 + b"\x10\0\0\0archive/data.pkl", "is a PyTorch file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a Git LFS pointer.* `git lfs pull`",
        ),
        (gzip.compress(b"\0" * 99, mtime=0), "is compressed with gzip; unpack it"),
        (b"\n<!DOCTYPE html><html><body>Not found</body></html>", r"is a web page \(HTML\)"),
        (b'{"message": "Not Found", "status": 404}', 'is text .\'{"message": "Not Found"'),
        (struct.pack("<iiiQ", -1, 2, 5, 0), "version -1.2.5"),
    ],
)
def test_files_that_are_no_weights(data: bytes, message: str, tmp_path: Path) -> None:
    path = written(data, tmp_path)
    with pytest.raises(WeightsError, match=message) as raised:
        WeightsFile(path, TENSORS)
    assert str(raised.value).startswith(str(path))


def test_missing_file_directory_and_unreadable_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        WeightsFile(tmp_path / "absent", TENSORS)
    with pytest.raises(WeightsError, match="is a directory"):
        WeightsFile(tmp_path, TENSORS)
    with pytest.raises(WeightsError, match="cannot be read"):
        WeightsFile(tmp_path / ("y" * 300), TENSORS)


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    path = written(file_bytes(Header().encode()), tmp_path)
    with WeightsFile(path, TENSORS) as file:
        path.write_bytes(b"")
        with pytest.raises(WeightsError, match="was it changed meanwhile"):
            file.read(2, "weights")


@given(st.binary(max_size=24) | st.builds(struct.Struct("<iiiQ").pack, *[st.integers(-2, 1_000_002)] * 3,
                                          st.integers(0, 2**64 - 1)))  # fmt: skip
def test_any_header_is_read_or_refused(data: bytes) -> None:
    try:
        header = read_header(io.BytesIO(data), Path("x.weights"))
    except WeightsError:
        return
    assert header.encode() == data[: header.size]


def test_a_64_bit_count_under_version_0_is_recognised_by_the_size(tmp_path: Path) -> None:
    floats = np.arange(sum(int(np.prod(shape)) for _, _, shape in TENSORS), dtype="<f4")
    path = written(struct.pack("<iiiQ", 0, 0, 0, 6400) + floats.tobytes(), tmp_path)
    with WeightsFile(path, TENSORS) as file:
        assert file.exported
        assert file.header == Header(0, 2, 5, 6400)
        assert file.size == file.expected_size
        assert file.read(*TENSORS[0][:2]).ravel()[0] == 0
    with WeightsFile(written(struct.pack("<iiiI", 0, 0, 0, 6400) + floats.tobytes(), tmp_path), TENSORS) as file:
        assert not file.exported
        assert file.header == Header(0, 0, 0, 6400)
