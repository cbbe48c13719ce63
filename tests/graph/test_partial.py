"""Files of a network's first layers are darknet's, and a file's size says what it holds."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.weights import Header
from darkprune.errors import UsageError, WeightsError
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.partial import classes_of_weights, layers_held, write_partial
from darkprune.graph.weights import NetworkWeights, odd_weights
from tests.assets import CASES, needs_cases
from tests.conftest import SMALL_CFG

CONNECTED = "[net]\nwidth=4\nheight=4\nchannels=2\n[conv]\nfilters=3\n[connected]\noutput=5\n[connected]\noutput=2\n"


def written(folder: Path, text: str, header: Header | None = None) -> tuple[Graph, Path]:
    graph, path = build_graph(parse_cfg(text)), folder / "x.weights"
    with path.open("wb") as file:
        write_fresh(graph, file, 0, vary=True)
    if header is not None:
        path.write_bytes(header.encode() + path.read_bytes()[20:])
    return graph, path


def partial(graph: Graph, path: Path, layers: int) -> bytes:
    file = io.BytesIO()
    with NetworkWeights(graph, path) as weights:
        assert write_partial(weights, file, layers) == len(file.getvalue())
    return file.getvalue()


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7, 13, 14])
def test_the_first_layers_as_they_are(layers: int, tmp_path: Path) -> None:
    graph, path = written(tmp_path, SMALL_CFG, Header(0, 2, 5, 640))
    found = partial(graph, path, layers)
    assert found[:20] == Header(0, 2, 5, 0).encode()
    floats = sum(layer.params for layer in graph.layers[:layers])
    assert found[20:] == path.read_bytes()[20 : 20 + 4 * floats]
    (tmp_path / "x.conv").write_bytes(found)
    following = next((i for i in range(layers, len(graph)) if graph[i].params), len(graph))
    assert layers_held(graph, tmp_path / "x.conv") == following


def test_transposed_layers_are_turned_as_darknet_does_when_it_saves(tmp_path: Path) -> None:
    graph, path = written(tmp_path, CONNECTED, Header(1001, 2, 5, 0))
    found = partial(graph, path, 2)
    (tmp_path / "plain.weights").write_bytes(found + path.read_bytes()[len(found) :])
    with NetworkWeights(graph, path) as before, NetworkWeights(graph, tmp_path / "plain.weights") as after:
        assert (before.read(graph[1], "weights") == after.read(graph[1], "weights")).all()


def test_layers_that_there_are_not(tmp_path: Path) -> None:
    graph, path = written(tmp_path, CONNECTED)
    for layers in (0, -1, 4):
        with pytest.raises(UsageError, match=f"--layers {layers}: cfg has 3 layers; give 1 to 3"):
            partial(graph, path, layers)
    graph, path = written(tmp_path, CONNECTED.replace("filters=3", "filters=3\ndontload=1"))
    with pytest.raises(UsageError, match=r"dontload keeps layer 0 \(line 5\)"):
        partial(graph, path, 2)


def test_what_ends_inside_a_layer_is_no_partial_file(tmp_path: Path) -> None:
    graph, path = written(tmp_path, SMALL_CFG)
    data = path.read_bytes()
    for size in (20, 24, 20 + 4 * graph[0].params - 4, 20 + 4 * graph[0].params + 64):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError, match=r"end inside layer [01]"):
            layers_held(graph, path)


def test_the_size_says_how_many_classes_a_file_is_for(tmp_path: Path) -> None:
    _, path = written(tmp_path, SMALL_CFG)
    for classes, filters in ((1, 12), (5, 20), (80, 170)):
        other = build_graph(
            parse_cfg(SMALL_CFG.replace("classes=2", f"classes={classes}").replace("=14", f"={filters}"))
        )
        assert classes_of_weights(other, path) == 2
        with pytest.raises(WeightsError, match=r"it would fit classes=2: .*`darkprune train` take over"):
            NetworkWeights(other, path)
    assert classes_of_weights(build_graph(parse_cfg(CONNECTED)), path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL_CFG.replace("batch_normalize", "batch_normalise"),
         r"darknet ignores 'batch_normalise' \(did you mean batch_normalize\?\) in lines 10, 18, 26 and 2 more$"),
        (SMALL_CFG.replace("stride=2", "stride=2\ndontload=1", 1), "keeps tensors of layers 0 out of the file, but it "
         "holds them: delete that key"),
    ],
)  # fmt: skip
def test_a_size_that_does_not_fit_names_the_keys_at_fault(text: str, message: str, tmp_path: Path) -> None:
    _, path = written(tmp_path, SMALL_CFG)
    with pytest.raises(WeightsError, match=message):
        NetworkWeights(build_graph(parse_cfg(text)), path)


def test_folded_weights_are_recognised(tmp_path: Path) -> None:
    _, path = written(tmp_path, SMALL_CFG.replace("batch_normalize=1\n", ""))
    with pytest.raises(WeightsError, match="saved after batch normalisation was folded"):
        NetworkWeights(build_graph(parse_cfg(SMALL_CFG)), path)


def test_a_header_that_misleads_darknet_is_read_and_said(tmp_path: Path) -> None:
    graph, path = written(tmp_path, SMALL_CFG)
    data = path.read_bytes()
    path.write_bytes(struct.pack("<iiiQ", 0, 0, 0, 12) + data[20:])
    with NetworkWeights(graph, path) as weights:
        assert weights.header == Header(0, 2, 5, 12)
        assert weights.read(graph[0], "biases").tobytes() == data[20 : 20 + 64]
        (line,) = odd_weights(weights)
    assert "the header says 0.0.0 but has a 64-bit count" in line


def test_variances_below_zero_are_said(tmp_path: Path) -> None:
    graph, path = written(tmp_path, SMALL_CFG)
    data = bytearray(path.read_bytes())
    at = 20 + 4 * (3 * 16 + 2)  # of channel 2 of layer 0
    data[at : at + 4] = struct.pack("<f", -1e-6)  # darknet adds 1e-5
    path.write_bytes(data)
    with NetworkWeights(graph, path) as weights:
        assert odd_weights(weights) == []
    data[at : at + 4] = struct.pack("<f", -1e-4)
    path.write_bytes(data)
    with NetworkWeights(graph, path) as weights:
        expected = "layer 0 (convolutional): rolling_variance holds negative values, first at channel 2"
        assert odd_weights(weights) == [expected]


@needs_cases
def test_darknet_wrote_the_same_file() -> None:
    graph = build_graph(parse_cfg((CASES / "_base" / "mini.cfg").read_text()))
    found = partial(graph, CASES / "_base" / "mini.weights", 6)
    assert found == (CASES / "train-other-classes" / "mini.conv.6").read_bytes()
