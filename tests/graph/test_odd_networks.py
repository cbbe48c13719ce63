"""What is said of networks on whose maps darknet stops, and how fresh weights are drawn."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.input import read_file
from darkprune.errors import CfgError, DataError, GraphError, UsageError
from darkprune.graph.as_meant import with_activation
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, build_graph, resized
from darkprune.graph.weights import NetworkWeights

STOPS = "darknet stops with a division by zero"


def one_convolution(width: int, height: int, filters: int = 2) -> Graph:
    text = f"[net]\nwidth={width}\nheight={height}\nchannels=3\n[convolutional]\nfilters={filters}\nbatch_normalize=1\n"
    return build_graph(parse_cfg(text))


@pytest.mark.parametrize(("width", "height", "stops"), [(1, 1, True), (2, 1, True), (1, 2, True), (2, 2, False)])
def test_a_network_without_a_map_of_some_size_is_warned_of(width: int, height: int, stops: bool) -> None:
    assert any(STOPS in warning for warning in one_convolution(width, height).warnings) == stops


def test_the_first_layer_has_no_weights_to_share() -> None:
    text = "[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters=3\nshare_index=-1\n"
    with pytest.raises(GraphError, match=r"layer 0 \(convolutional\) refers to layer -1; there is no layer before it"):
        build_graph(parse_cfg(text))


def test_warnings_show_no_control_characters() -> None:
    text = "[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters=3\nactivation=lea\x1bky\n"
    (warning,) = build_graph(parse_cfg(text)).warnings
    assert "activation=lea?ky" in warning


@pytest.mark.parametrize("vary", [False, True])
def test_statistics_of_fresh_weights(vary: bool, tmp_path: Path) -> None:
    graph = one_convolution(8, 8, 4000)
    drawn = io.BytesIO()
    write_fresh(graph, drawn, 0, vary)
    path = tmp_path / "fresh.weights"
    path.write_bytes(drawn.getvalue())
    with NetworkWeights(graph, path) as weights:
        read = {name: weights.read(graph[0], name).ravel() for name in
                ("biases", "scales", "rolling_mean", "rolling_variance", "weights")}  # fmt: skip
    for name in ("scales", "rolling_variance"):
        low, high = (0.5, 1.5) if vary else (1, 1)
        assert (read[name].min(), read[name].max()) == pytest.approx((low, high), abs=2e-3)
    for name in ("biases", "rolling_mean"):
        assert read[name].mean() == pytest.approx(0, abs=0.01)
        assert read[name].std() == pytest.approx(0.2 if vary else 0, abs=0.005)
    assert read["weights"].std() == pytest.approx(0.6 * np.sqrt(2 / 3), rel=0.015)  # 0.6 of He's; three inputs


def test_fresh_weights_are_drawn_in_parts(tmp_path: Path) -> None:
    text = "[net]\nwidth=64\nheight=64\nchannels=1\n[connected]\noutput=4096\n"
    tracemalloc.start()
    try:
        with (tmp_path / "fresh.weights").open("wb") as file:
            assert write_fresh(build_graph(parse_cfg(text)), file, 0) > 64 << 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_file_of_exactly_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    assert read_file(path, 100, "a test file") == bytes(100)
    with pytest.raises(DataError, match="larger than"):
        read_file(path, 99, "a test file")


def test_a_network_of_numbers_has_one_at_least() -> None:
    text = "[net]\ninputs={}\n[connected]\noutput=2\n"
    assert build_graph(parse_cfg(text.format(1))).params == 4
    with pytest.raises(CfgError, match="nor inputs"):
        build_graph(parse_cfg(text.format(0)))


@pytest.mark.parametrize(("size", "width", "height"), [("64x32", 64, 32), ("96", 96, 96), (None, 8, 4)])
def test_another_input_size(size: str | None, width: int, height: int) -> None:
    found = resized(one_convolution(8, 4), size).net.input
    assert (found.w, found.h) == (width, height)


def test_activations_that_darknet_does_not_know_are_replaced_by_what_was_meant() -> None:
    parts = ("activation=silu", "activation=leaky", "", "activation=silu # as there")
    text = "[net]\nwidth=4\nheight=4\nchannels=3\n" + "".join(f"[conv]\nfilters=2\n{part}\n" for part in parts)
    graph = build_graph(parse_cfg(text, "net.cfg"))
    assert [layer.kind.activation for layer in graph] == ["relu", "leaky", "logistic", "relu"]
    meant = with_activation(graph, "swish")
    assert [layer.kind.activation for layer in meant] == ["swish", "leaky", "logistic", "swish"]
    assert with_activation(graph, None) is graph
    with pytest.raises(UsageError, match="darknet knows every activation of net"):
        with_activation(meant, "swish")
