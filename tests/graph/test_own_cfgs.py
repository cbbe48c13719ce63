"""cfg/: the committed files are the generator's, load in both darknets, and are the networks that they are called."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_zoo import TRUTH, difference

from darkprune.darknet.cfg import read_cfg
from darkprune.darknet.strict import strict_problems
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.weights import weights_bytes

ROOT = Path(__file__).parents[2]
#: stored floats, trainable floats, multiply-adds, BFLOPs, layers; those of published networks are the real program's
FIGURES = {
    "darknet53-yolov3-voc": (61_678_657, 61_626_049, 32_713_987_072, 65.442490, 107),
    "mobilenet-yolov3-voc": (24_286_881, 24_248_097, 10_156_224_000, 20.312449, 59),
    "yolov2-tiny": (11_237_145, 11_232_057, 2_703_221_248, 5.412153, 16),
    "yolov3": (62_001_757, 61_949_149, 32_932_037_632, 65.878586, 107),
    "yolov3-spp": (63_052_381, 62_998_749, 70_724_486_144, 141.530823, 114),
    "yolov3-tiny": (8_858_734, 8_852_366, 2_782_480_896, 5.570673, 24),
    "yolov4": (64_429_405, 64_363_101, 64_194_741_248, 128.458710, 162),
    "yolov4-csp": (52_986_205, 52_921_437, 38_476_709_888, 77.002518, 175),
    "yolov4-tiny": (6_062_814, 6_056_606, 3_453_938_176, 6.910299, 38),
    "yolov4-voc": (64_106_305, 64_040_001, 29_834_335_232, 59.701073, 162),
}
NAMES = sorted(FIGURES)


def graph_of(name: str) -> Graph:
    return read_graph(ROOT / "cfg" / f"{name}.cfg")


def test_the_committed_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "write_cfgs.py", tmp_path], check=True)
    assert {path.stem for path in tmp_path.iterdir()} == {path.stem for path in (ROOT / "cfg").glob("*.cfg")}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (ROOT / "cfg" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", NAMES)
def test_figures(name: str) -> None:
    graph = graph_of(name)
    params, trainable, macs, bflops, layers = FIGURES[name]
    assert (graph.params, graph.trainable_params, graph.macs, len(graph)) == (params, trainable, macs, layers)
    assert graph.bflops == pytest.approx(bflops, abs=2e-6)
    assert weights_bytes(graph) == 20 + 4 * params
    assert graph.warnings == ()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "cfg").glob("*.cfg")))
def test_the_strict_reader_takes_it(name: str) -> None:
    assert strict_problems(read_cfg(ROOT / "cfg" / f"{name}.cfg")) == []


@pytest.mark.skipif(not TRUTH.is_file(), reason=f"{TRUTH} is absent")
@pytest.mark.parametrize("name", NAMES)
def test_published_networks_layer_by_layer(name: str) -> None:
    published = {"darknet53-yolov3-voc": "yolov3-voc"}.get(name, name)
    truth = {network["cfg"]: network for network in json.loads(TRUTH.read_text("utf-8"))["networks"]}
    if f"{published}.cfg" not in truth:
        pytest.skip("not among the cfgs of the zoo")
    graph = graph_of(name)
    assert difference(graph, truth[f"{published}.cfg"]) == []
    ours, theirs = (
        [[layer.sources, layer.kind] for layer in network]
        for network in (graph, read_graph(TRUTH.parent / f"{published}.cfg"))
    )
    if name == "yolov3-tiny":  # the published weights were trained with another mask than the published cfg has
        theirs[23][1] = replace(theirs[23][1], mask=(1, 2, 3))
    assert ours == theirs  # wiring, activations, anchors, masks: everything that matters at inference


def test_yolov4_for_voc_is_yolov4_but_for_its_heads() -> None:
    coco, voc = graph_of("yolov4"), graph_of("yolov4-voc")
    differing = [a.index for a, b in zip(coco, voc, strict=True) if a.kind != b.kind]
    assert differing == [138, 139, 149, 150, 160, 161]
    assert [voc[i].output[:3] for i in (139, 150, 161)] == [(75, 52, 52), (75, 26, 26), (75, 13, 13)]


def test_mobilenet_has_its_scales_and_depthwise_convolutions() -> None:
    graph = graph_of("mobilenet-yolov3-voc")
    depthwise = [layer for layer in graph if layer.is_depthwise]
    assert len(depthwise) == 13
    assert sorted({layer.output.h for layer in graph}, reverse=True) == [208, 104, 52, 26, 13]
    assert [head.output.h for head in graph.heads] == [13, 26, 52]


@pytest.mark.parametrize(
    ("data", "count", "first", "last"),
    [("coco", 80, "person", "toothbrush"), ("voc", 20, "aeroplane", "tvmonitor"), ("scenes", 6, "disc", "star")],
)
def test_names(data: str, count: int, first: str, last: str) -> None:
    text = (ROOT / "cfg" / f"{data}.names").read_text("ascii")
    names = text.split("\n")[:-1]
    assert text.endswith("\n")
    assert (len(names), len(set(names)), names[0], names[-1]) == (count, count, first, last)
