"""The control: input sizes around a number of operations, and the value between them."""

from __future__ import annotations

import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.evaluation.control import control_at, control_networks
from darkprune.graph.graph import Graph, build_graph

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride=2\npad=1\nactivation=leaky\n\n"
TEXT = "[net]\nwidth={}\nheight={}\nchannels=3\n\n" + "".join(CONV.format(filters) for filters in (8, 16, 16, 16, 16))


def network(width: int, height: int) -> Graph:
    return build_graph(parse_cfg(TEXT.format(width, height)))


def sizes(graph: Graph, *parts: float) -> list[tuple[int, int]]:
    found = control_networks(graph, [round(part * graph.macs) for part in parts])
    return [(each.net.input.w, each.net.input.h) for each in found]


def test_sizes_lie_around_the_operations() -> None:
    graph = network(320, 320)
    assert sizes(graph, 0.9) == [(320, 320), (288, 288)]  # 0.81 of the operations: its own size is the upper one
    assert sizes(graph, 0.5) == [(320, 320), (256, 256), (224, 224)]
    assert sizes(graph, 0.9, 0.5) == [(320, 320), (288, 288), (256, 256), (224, 224)]
    assert sizes(graph, 1.0) == sizes(graph, 1.5) == sizes(graph) == [(320, 320)]
    exact = control_networks(graph, [network(160, 160).macs])
    assert [each.net.input.w for each in exact] == [320, 160]
    assert sizes(graph, 1e-9) == [(320, 320), (32, 32)]  # nothing is below the smallest


@pytest.mark.parametrize(
    ("own", "part", "expected"),
    [
        ((640, 384), 0.5, [(640, 384), (480, 288), (448, 256)]),
        ((384, 640), 0.5, [(384, 640), (288, 480), (256, 448)]),
        ((416, 234), 0.9, [(416, 234), (384, 224)]),  # its own size need be no multiple of 32
        ((96, 64), 0.6, [(96, 64), (64, 32)]),
    ],
)
def test_the_aspect_stays(own: tuple[int, int], part: float, expected: list[tuple[int, int]]) -> None:
    assert sizes(network(*own), part) == expected


def test_an_unpruned_network_equals_its_control() -> None:
    """Whatever the budget, the control lies on the line between the two sizes that cost more and less."""
    graph = network(640, 384)
    for part in (0.95, 0.9, 0.8, 0.65, 0.5, 0.3):
        macs = round(part * graph.macs)
        found = control_networks(graph, [macs])
        assert found[-1].macs <= macs <= found[-2].macs
        value = control_at([(each.macs, each.macs / graph.macs) for each in found], macs)
        assert value == pytest.approx(part, abs=1e-6)


def test_sizes_that_the_network_cannot_take_are_left_out() -> None:
    up = TEXT.format(256, 256) + "[convolutional]\nfilters=16\nsize=3\nstride=2\npad=1\nactivation=linear\n\n"
    up += "[upsample]\nstride=2\n\n[route]\nlayers=-1,-3\n"  # the two meet only at multiples of 64
    assert sizes(build_graph(parse_cfg(up)), 0.3, 0.7) == [(256, 256), (192, 192), (128, 128)]


def test_between_sizes_the_value_is_interpolated() -> None:
    points = [(600.0, 0.30), (1000.0, 0.40), (800.0, 0.36)]
    assert control_at(points, 900) == pytest.approx(0.38)
    assert control_at(points, 950) == pytest.approx(0.39)  # a budget of 0.95 is not compared with 0.80
    assert control_at(points, 800) == 0.36
    assert control_at(points, 1000) == control_at(points, 1200) == 0.40
    assert control_at(points, 599) is None
