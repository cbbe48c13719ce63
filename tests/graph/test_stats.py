"""What is said of layers and networks: details, formatted numbers, shapes by index."""

from __future__ import annotations

import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.stats import change, count, layer_detail, layer_json, megabytes, totals
from darkprune.layers import INPUT


def graph_of(*sections: str) -> Graph:
    lines = ["[net]", "width=12", "height=8", "channels=3"]
    for section in sections:
        name, *keys = section.split()
        lines += [f"[{name}]", *keys]
    return build_graph(parse_cfg("\n".join(lines)))


@pytest.mark.parametrize(
    ("section", "detail"),
    [
        ("convolutional filters=4 size=3 pad=1 stride=2 activation=leaky", "3x3/2 leaky"),
        ("convolutional filters=6 groups=3 size=3 pad=1 batch_normalize=1 activation=mish", "3x3/1 g3 mish bn"),
        ("convolutional filters=4 stride_x=2 stride_y=1 activation=linear", "1x1/2x1 linear"),
        ("maxpool size=2 stride=2", "2x2/2"),
        ("maxpool maxpool_depth=1 out_channels=3", "over channels"),
        ("local_avgpool size=3 stride=1", "3x3/1"),
        ("upsample stride=2", "x2"),
        ("upsample stride=-2", "/2"),
        ("dropout", ""),
    ],
)
def test_details(section: str, detail: str) -> None:
    assert layer_detail(graph_of(section)[0]) == detail


def test_two_blocks_are_shown() -> None:
    graph = graph_of("convolutional filters=4", "convolutional filters=4 groups=2 activation=linear")
    assert layer_detail(graph[1]) == "1x1/1 g2 linear"


def test_rows_and_totals() -> None:
    graph = graph_of("convolutional filters=4 size=3 pad=1 batch_normalize=1 activation=leaky", "connected output=5")
    params = 4 * 4 + 4 * 3 * 9  # biases, scales, mean and variance; filters
    assert layer_json(graph[0]) == {
        "index": 0, "kind": "convolutional", "out": [4, 8, 12], "outputs": 384, "params": params, "macs": 108 * 96,
        "bflops": 2.1e-5,
    }  # fmt: skip
    whole = totals(graph)
    stored = params + 5 + 5 * 384
    assert whole.to_json() == pytest.approx(
        {"params": stored, "trainable_params": stored - 8, "macs": 108 * 96 + 5 * 384, "bflops": 2.1e-5,
         "bytes": 20 + 4 * stored}
    )  # fmt: skip
    assert totals(graph, 16).bytes == 16 + 4 * stored


def test_shapes_by_index() -> None:
    graph = graph_of("convolutional filters=4 size=3 pad=1", "maxpool size=2 stride=2")
    assert tuple(graph.feature(INPUT)) == (3, 8, 12, 288)
    assert tuple(graph.feature(0)) == (4, 8, 12, 384)
    assert tuple(graph.feature(1)) == (4, 4, 6, 96)


def test_formatted_numbers() -> None:
    values = (0, 9999, 10_000, 64_106_000, 999_999, 1e9, -2e6)
    assert [count(value) for value in values] == ["0", "9999", "10.00 k", "64.11 M", "1000.00 k", "1.00 G", "-2.00 M"]
    assert megabytes(1_234_567) == "1.23 MB"
    assert [change(4, 3), change(4, 5), change(4, 4), change(0, 3)] == ["-25.0 %", "+25.0 %", "±0 %", "±0 %"]
