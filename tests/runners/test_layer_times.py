"""Times of single layers, with a program and a clock that tests know."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import Graph, build_graph
from darkprune.runners import layer_times
from darkprune.runners.base import LoadedNetwork
from darkprune.runners.layer_times import LayerTimes, WidthTable

TEXT = (
    "[net]\nwidth=32\nheight=16\nchannels=3\n\n"
    "[convolutional]\nbatch_normalize=1\nfilters={a}\nsize=3\nstride=2\npad=1\nactivation=leaky\n\n"
    "[convolutional]\nbatch_normalize=1\nfilters={a}\ngroups={a}\nsize=3\nstride=1\npad=1\nactivation=leaky\n\n"
    "[convolutional]\nbatch_normalize=1\nfilters={b}\nsize=1\nstride=1\npad=1\nactivation=mish\n\n"
    "[convolutional]\nfilters=18\nsize=1\nstride=1\npad=1\nactivation=linear\n\n"
    "[yolo]\nmask=0,1,2\nanchors=10,14, 30,30, 50,50\nclasses=1\nnum=3\n"
)


def network(a: int = 32, b: int = 64) -> Graph:
    return build_graph(parse_cfg(TEXT.format(a=a, b=b)))


class Program(LoadedNetwork):
    """Takes 1 ms, and 1 ns for every multiply-add; now and then it is interrupted."""

    now = 0.0
    runs = 0

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def head_maps(self, images: Any) -> Any:
        Program.runs += 1
        Program.now += (1e-3 + 1e-9 * self.graph.macs * len(images)) * (3 if Program.runs % 3 == 0 else 1)

    def outputs(self, image: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Replaces the program and the clock; returns what was loaded."""
    found: list[Graph] = []

    def load(graph: Graph, weights: Path, name: str, **_: object) -> tuple[str, LoadedNetwork]:
        assert weights.stat().st_size > 4 * graph.params - 100
        found.append(graph)
        return name, Program(graph)

    monkeypatch.setattr(layer_times, "load_with_any", load)
    monkeypatch.setattr(time, "perf_counter", lambda: Program.now)
    return found


def milliseconds(graph: Graph) -> float:
    return sum(1 + 1e-6 * layer.macs for layer in graph if layer.name == "convolutional")


def test_prices_of_narrower_networks(loaded: list[Graph], tmp_path: Path) -> None:
    prices = LayerTimes("opencv", path=tmp_path / "times.json").prices(network())
    for widths in ((32, 64), (16, 32), (16, 64), (8, 16), (24, 48)):  # the last ones lie between those measured
        graph = network(*widths)
        head = graph[3].macs * (24 / 18 - 1) * 1e-6  # its 18 channels cost what 24 do
        assert prices.of(graph) == pytest.approx(milliseconds(graph) + head, rel=1e-3)
    assert prices.of(network(9, 33)) == prices.of(network(16, 40))  # blocks of 8 channels
    assert prices.of(network(1, 1)) == prices.of(network(8, 8))


def test_each_layer_is_timed_as_it_is(loaded: list[Graph], tmp_path: Path) -> None:
    LayerTimes("opencv", path=tmp_path / "times.json").prices(network())
    first = [graph for graph in loaded if graph.net.input.c == 3]
    assert {(graph.net.input.w, graph.net.input.h) for graph in first} == {(32, 16)}
    assert sorted(graph[0].output.c for graph in first) == [8, 16, 32]
    depthwise = [graph for graph in loaded if graph[0].is_depthwise]
    assert sorted(graph[0].output.c for graph in depthwise) == [8, 16, 32]
    assert {(graph[0].output.w, graph[0].output.h) for graph in depthwise} == {(16, 8)}


def test_shares_follow_what_channels_save(loaded: list[Graph], tmp_path: Path) -> None:
    graph = network()
    prices = LayerTimes("opencv", path=tmp_path / "times.json").prices(graph)
    read, made = prices.shares(graph[2])
    assert read == pytest.approx(1e-6 * graph[2].macs, rel=1e-3)  # the millisecond that every layer takes stays
    assert made == pytest.approx(1e-6 * graph[2].macs, rel=1e-3)
    assert prices.shares(graph[4]) == (0, 0)
    flat = WidthTable([8, 16], [8, 16], np.ones((2, 2)))
    assert layer_times.LayerPrices({2: flat}).shares(graph[2]) == (0.01, 0.01)


def test_layers_are_timed_once(loaded: list[Graph], tmp_path: Path) -> None:
    path = tmp_path / "cache" / "times.json"
    first = LayerTimes("opencv", path=path).prices(network())
    times = len(loaded)
    again = LayerTimes("opencv", path=path).prices(network())
    assert len(loaded) == times
    assert again.of(network(16, 16)) == first.of(network(16, 16))
    LayerTimes("opencv", path=path).prices(network(32, 128))
    assert times < len(loaded) < 2 * times  # only what is new
    before = len(loaded)
    LayerTimes("opencv", batch=2, path=path).prices(network())
    assert len(loaded) == before + times
    path.write_text(path.read_text()[:-20])
    LayerTimes("opencv", path=path).prices(network())
    assert len(loaded) == before + 2 * times
    assert json.loads(path.read_text())["format"] == layer_times.FORMAT


def test_a_folder_that_cannot_be_written(loaded: list[Graph], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    times = LayerTimes("opencv", path=tmp_path / "file" / "times.json")
    prices = times.prices(network())
    assert prices.of(network()) > 1
    measured = len(loaded)
    assert times.prices(network()).of(network()) == prices.of(network())
    assert len(loaded) == measured


@pytest.mark.parametrize("runner", ["opencv", "onnxruntime", "torch"])
def test_in_a_program(runner: str, tmp_path: Path) -> None:
    pytest.importorskip(layer_times.TIMED[runner])
    prices = LayerTimes(runner, path=tmp_path / "times.json").prices(network(8, 8))
    assert 0 < prices.of(network(8, 8)) < 1000


def test_scores_are_divided_by_time(loaded: list[Graph], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from darkprune.search.choice import _price
    from darkprune.search.goal import Goal

    channels = map_channels(network())
    times = LayerTimes("opencv", path=tmp_path / "times.json")
    by_time = _price(Goal(layer_times=times))(channels)
    by_macs = _price(Goal())(channels)
    free = channels.free
    # as this program's time goes with the multiply-adds, so do the prices; the head's 18 channels are timed as 24
    ratio = by_time[free] / by_macs[free]
    assert ratio.min() > 0.9
    assert ratio.max() < 1.4
