"""A weights file against its cfg: what fits, which layer does not, and what may have happened."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.weights import Header
from darkprune.errors import WeightsError
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.weights import NetworkWeights, NetworkWriter, broken_tensors, stored_tensors, weights_bytes
from tests.assets import CHECKPOINTS, needs_assets, open_pair

ROOT = Path(__file__).parents[2]
HEADER = struct.pack("<iiiQ", 0, 2, 5, 64)
TEXT = """[net]
width=32
height=32
channels=3
[convolutional]
filters=4
batch_normalize=1
size=3
[maxpool]
[convolutional]
filters=5
[connected]
output=6
batch_normalize=1
"""
DETECTOR = """[net]
width=32
height=32
channels=3
[convolutional]
filters=4
[convolutional]
filters={filters}
[yolo]
classes={classes}
num=4
mask=0,1
[route]
layers=0
[convolutional]
filters={filters}
[yolo]
classes={classes}
num=4
mask=2,3
"""


def graph_of(text: str) -> Graph:
    return build_graph(parse_cfg(text, "dir/net.cfg"))


def detector(classes: int) -> Graph:
    return graph_of(DETECTOR.format(classes=classes, filters=2 * (classes + 5)))


def write(folder: Path, floats: int, header: bytes = HEADER, tail: bytes = b"") -> Path:
    path = folder / "net.weights"
    path.write_bytes(header + np.arange(floats, dtype="<f4").tobytes() + tail)
    return path


def test_tensors_are_found_where_the_file_has_them(tmp_path: Path) -> None:
    graph = graph_of(TEXT)
    with NetworkWeights(graph, write(tmp_path, graph.params)) as weights:
        assert [weights.read(graph[0], name)[0] for name in ("biases", "scales", "rolling_mean")] == [0, 4, 8]
        kernel = weights.read(graph[0], "weights")
        assert (kernel.shape, kernel.flat[0], kernel.flat[-1]) == ((4, 3, 3, 3), 16, 123)
        assert weights.read(graph[3], "biases")[0] == 124 + 5 + 20
        dense = weights.read(graph[3], "weights")
        assert dense.shape == (6, 5 * 30 * 30)
        assert dense[1, 0] - dense[0, 0] == 4500
        assert weights.read(graph[3], "rolling_variance")[-1] == graph.params - 1
        assert graph[3].blob("weights").transposable


def test_connected_layers_of_ancient_files_are_stored_transposed(tmp_path: Path) -> None:
    graph = graph_of(TEXT)
    path = write(tmp_path, graph.params, struct.pack("<iiiQ", 0, 1001, 0, 0))
    with NetworkWeights(graph, path) as weights:
        dense = weights.read(graph[3], "weights")
        assert dense.shape == (6, 4500)
        assert dense[1, 0] - dense[0, 0] == 1  # input-major in the file
        assert weights.read(graph[0], "weights").shape == (4, 3, 3, 3)
    shapes = {(layer, name): shape for layer, name, shape in stored_tensors(graph, transposed=True)}
    assert shapes[3, "weights"] == (4500, 6)


def test_layers_that_are_not_loaded_take_no_bytes() -> None:
    graph = graph_of(
        TEXT.replace("filters=5", "filters=5\ndontload=1").replace("filters=4", "filters=4\ndontloadscales=1")
    )
    names = [(layer, name) for layer, name, _ in stored_tensors(graph)]
    assert (2, "weights") not in names
    assert [name for layer, name in names if layer == 0] == ["biases", "weights"]
    assert weights_bytes(graph) == weights_bytes(graph_of(TEXT)) - 4 * (25 + 12)


def test_sharing_layers_read_the_tensors_of_the_first(tmp_path: Path) -> None:
    text = TEXT.split("[maxpool]")[0].replace("channels=3", "channels=4")
    share = "[convolutional]\nfilters=4\nsize=3\nbatch_normalize=1\nshare_index={}\n"
    graph = graph_of(text + share.format(-1) + share.format(1))
    with NetworkWeights(graph, write(tmp_path, 4 * 4 + 144)) as weights:
        for layer in graph:
            assert weights.reader(layer)("weights").flat[0] == 16


@pytest.mark.parametrize(
    ("floats", "tail", "message"),
    [
        (0, b"", r"needs 108712: layer 0 \(convolutional, line 5\) needs 16 bytes of biases, 0 are left; "
                 "it holds a header and no weights"),
        (2, b"", "needs 16 bytes of biases, 8 are left; take the cfg and the weights"),
        (17, b"\0\0", r"layer 0 \(convolutional, line 5\) needs 432 bytes of weights, 6 are left"),
        (124, b"", r"layer 2 \(convolutional, line 10\) needs 20 bytes of biases, 0 are left; it ends exactly after "
                   r"layer 0: a cut-off file for pre-training \(net\.conv\.1\)"),
        (149, b"", r"layer 3 \(connected, line 12\) .* after layer 2: .*\(net\.conv\.3\)"),
        (27_172, b"", r"layer 3 .* needs 24 bytes of rolling_variance, 20 are left"),
        (27_173, b"\0", r"net\.weights: 108713 bytes, but dir/net\.cfg needs 108712: 1 bytes are left after"),
        (27_300, b"", r"508 bytes are left after the last layer \(3\)"),
    ],
)  # fmt: skip
def test_files_of_another_size(floats: int, tail: bytes, message: str, tmp_path: Path) -> None:
    graph = graph_of(TEXT)
    assert weights_bytes(graph) == 20 + 4 * 27_173
    with pytest.raises(WeightsError, match=message) as raised:
        NetworkWeights(graph, write(tmp_path, floats, tail=tail))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("cfg", "file"), [(2, 3), (80, 20), (20, 80), (5, 1)])
def test_another_number_of_classes_is_named(cfg: int, file: int, tmp_path: Path) -> None:
    path = write(tmp_path, detector(file).params)
    with pytest.raises(WeightsError, match=f"it would fit classes={file}: take the cfg that it was trained with"):
        NetworkWeights(detector(cfg), path)
    with NetworkWeights(detector(file), path):
        pass


def test_a_head_may_read_the_first_layer(tmp_path: Path) -> None:
    few, many = (
        graph_of(f"[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters={classes + 5}\n"
                 f"[yolo]\nclasses={classes}\nnum=1\nanchors=9,9\n")
        for classes in (2, 3)
    )  # fmt: skip
    with pytest.raises(WeightsError, match="it would fit classes=3"):
        NetworkWeights(few, write(tmp_path, many.params))


@pytest.mark.parametrize(("layers", "named"), [(3, "layers 0, 1, 2 out of"), (4, "layers 0, 1, 2, … out of")])
def test_layers_that_are_not_loaded_are_named(layers: int, named: str, tmp_path: Path) -> None:
    kept_out = "[convolutional]\nfilters=3\ndontload=1\n"
    graph = graph_of("[net]\nwidth=8\nheight=8\nchannels=3\n" + kept_out * layers + "[convolutional]\nfilters=2\n")
    with pytest.raises(WeightsError, match=named) as raised:
        NetworkWeights(graph, write(tmp_path, 8 + 12 * layers))  # 3 biases and 3 x 3 weights each
    assert "but it holds them: delete that key" in str(raised.value)
    with pytest.raises(WeightsError, match=named) as raised:
        NetworkWeights(graph, write(tmp_path, 8 + 12 * layers + 1))
    assert "delete that key" not in str(raised.value)


def test_the_16_byte_header_counts_in_the_size(tmp_path: Path) -> None:
    graph = detector(2)
    old = struct.pack("<iiiI", 0, 1, 0, 7)
    with NetworkWeights(graph, write(tmp_path, graph.params, old)) as weights:
        assert weights.file.header.seen == 7
    with pytest.raises(WeightsError, match="classes=4"):
        NetworkWeights(graph, write(tmp_path, detector(4).params, old))


@pytest.mark.parametrize(("name", "cut"), [("yolov4", 137), ("yolov3", 74), ("yolov4-tiny", 29)])
def test_published_cut_off_files_are_known_by_their_names(name: str, cut: int, tmp_path: Path) -> None:
    graph = read_graph(ROOT / "cfg" / f"{name}.cfg")
    path = tmp_path / f"{name}.conv.{cut}"
    with path.open("wb") as file:
        file.write(HEADER)
        file.truncate(20 + 4 * sum(layer.params for layer in graph.layers[:cut]))
    with pytest.raises(WeightsError, match=rf"cut-off file for pre-training \({name}\.conv\.{cut}\)"):
        NetworkWeights(graph, path)


def test_nan_and_infinity_are_reported_with_layer_and_channel(tmp_path: Path) -> None:
    graph = graph_of(TEXT)
    path = write(tmp_path, graph.params)
    with NetworkWeights(graph, path) as weights:
        assert broken_tensors(weights) == []
    values = np.arange(graph.params, dtype="<f4")
    values[[6, 7, 16 + 27 * 2 + 5, 124 + 25 + 6 + 4500 * 3]] = [np.nan, np.inf, -np.inf, np.nan]
    path.write_bytes(HEADER + values.tobytes())
    with NetworkWeights(graph, path) as weights:
        assert broken_tensors(weights) == [
            "layer 0 (convolutional): scales holds NaN or infinite values, first at channel 2",
            "layer 0 (convolutional): weights holds NaN or infinite values, first at channel 2",
            "layer 3 (connected): weights holds NaN or infinite values, first at channel 3",
        ]


@needs_assets
def test_real_checkpoints_open_and_are_finite() -> None:
    pairs = [
        (next(folder.glob("*.cfg")), path) for folder in CHECKPOINTS.iterdir() for path in folder.glob("*.weights")
    ]
    assert len(pairs) == len(list(CHECKPOINTS.iterdir()))
    for cfg, path in pairs:
        with open_pair(cfg, path) as weights:
            assert weights.file.size == weights.file.expected_size == path.stat().st_size
            assert broken_tensors(weights) == [], path


def test_a_file_is_only_finished_with_every_tensor() -> None:
    graph = build_graph(parse_cfg(TEXT, "net.cfg"))
    out = io.BytesIO()
    writer = NetworkWriter(graph, out, Header())
    tensors = [(layer, blob.name, blob.shape) for layer in graph for blob in layer.stored]
    for layer, name, shape in tensors[:-1]:
        writer.write(layer, name, np.ones(shape, np.float32))
    with pytest.raises(ValueError, match="not written"):
        writer.finish()
    writer.write(tensors[-1][0], tensors[-1][1], np.ones(tensors[-1][2], np.float32))
    writer.finish()
    assert len(out.getvalue()) == writer.size


@pytest.mark.parametrize("version", [(-1, 2, 5), (0, -1, 5), (0, 2, -1), (10**6 + 1, 2, 5), (0, 10**6 + 1, 5)])
def test_versions_that_no_program_writes(version: tuple[int, int, int], tmp_path: Path) -> None:
    (tmp_path / "net.weights").write_bytes(struct.pack("<iiiQ", *version, 64) + bytes(400))
    with pytest.raises(WeightsError, match="header says version"):
        NetworkWeights(build_graph(parse_cfg(TEXT, "net.cfg")), tmp_path / "net.weights")
