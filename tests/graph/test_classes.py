"""Networks rewritten for another number of classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darkprune.cli.main import main
from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import UsageError
from darkprune.graph.classes import names_file, with_classes
from darkprune.graph.graph import build_graph, read_graph
from darkprune.layers.heads import Head
from darkprune.zoo import resolve
from tests.assets import open_pair

#: filters before a head for 3 classes: 3 anchors of 3 + 5 values, 5 anchors in YOLOv2
NETWORKS = {"yolov4": 24, "yolov4-tiny": 24, "yolov4-csp": 24, "yolov3-spp": 24, "yolov2-tiny": 40, "scenes": 24}


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_and_the_filters_before_them_change_and_nothing_else(name: str) -> None:
    graph = read_graph(resolve(f"builtin:{name}"))
    rewritten = with_classes(graph, 3)
    assert {getattr(head.kind, "classes", 0) for head in rewritten.heads} == {3}
    assert {rewritten[head.sources[0]].output.c for head in rewritten.heads} == {NETWORKS[name]}
    pairs = list(zip(str(graph.cfg).splitlines(), str(rewritten.cfg).splitlines(), strict=True))
    changed = [new for old, new in pairs if old != new]
    assert all(line.startswith(("classes", "filters")) for line in changed)
    assert len(changed) == 2 * len(graph.heads)
    back = with_classes(rewritten, graph.heads[0].kind.classes)  # type: ignore[attr-defined]
    assert str(back.cfg) == str(graph.cfg)
    assert with_classes(graph, None) is graph


def test_own_networks_have_names() -> None:
    for cfg in sorted((Path(__file__).parents[2] / "cfg").glob("*.cfg")):
        graph = read_graph(cfg)
        counts = {head.kind.classes for head in graph.heads if isinstance(head.kind, Head)}
        found = names_file(graph)
        expected = {(80,): "coco.names", (20,): "voc.names"}.get(tuple(counts))
        if not cfg.with_suffix(".names").exists():
            assert (found.name if found else None) == expected


def test_networks_without_a_head_of_their_own_convolution_are_refused() -> None:
    plain = "[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters=14\n"
    with pytest.raises(UsageError, match="no detection head"):
        with_classes(build_graph(parse_cfg(plain, "x.cfg")), 3)
    route = plain + "[route]\nlayers=-1\n[yolo]\nclasses=2\nnum=2\nanchors=1,1,2,2\n"
    with pytest.raises(UsageError, match="by hand"):
        with_classes(build_graph(parse_cfg(route, "x.cfg")), 3)


def test_init_writes_the_cfg_beside_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.weights"
    assert main(["init", "builtin:scenes", "--classes", "7", "-o", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cfg"] == str(tmp_path / "mine.cfg")
    with open_pair(tmp_path / "mine.cfg", target) as weights:
        assert weights.graph.heads[0].output.c == 36
    assert main(["init", "builtin:scenes", "--classes", "0", "-o", str(tmp_path / "x.weights")]) == 2
