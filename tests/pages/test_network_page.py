"""`info --html`: the drawing of a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from darkprune.cli.main import main
from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import build_graph, read_graph
from darkprune.graph.groups import divide
from darkprune.pages.network_page import network_page
from darkprune.pages.structure import Structure, read_slim
from darkprune.pages.wiring import lay_lanes
from darkprune.zoo import folder
from tests.conftest import SMALL_CFG, SmallPair
from tests.pages.page import Page


@pytest.mark.parametrize("name", ["yolov4-tiny", "yolov2-tiny", "mobilenet-yolov3-voc", "yolov4"])
def test_draws_every_layer_once(name: str) -> None:
    graph = read_graph(folder("cfg") / f"{name}.cfg")
    page = Page(network_page(Structure(graph, divide(graph, "auto"))))
    assert page.tags["tr"] > len(graph)
    for group in divide(graph, "auto"):
        assert f"{group.first}–{group.last}" in page.text
    assert page.tags["svg"] >= 2 * len(graph) - 40


def test_coupled_sets_and_pins_are_marked() -> None:
    graph = build_graph(parse_cfg(SMALL_CFG, "small.cfg"))
    structure = Structure(graph, divide(graph, "auto"))
    assert structure.channels.coupled_sets == ((0, 2),)
    assert [structure.sets_of(layer) for layer in range(3)] == [["A"], [], ["A"]]
    text = Page(network_page(structure)).text
    assert "0, 2" in text
    assert "pinned" in text


def test_a_lane_joins_a_layer_with_its_distant_readers_and_lanes_never_meet() -> None:
    graph = read_graph(folder("cfg") / "yolov4.cfg")
    lanes = lay_lanes(graph)
    wanted = {(s, layer.index) for layer in graph for s in layer.sources if s >= 0 and s != layer.index - 1}
    assert {(lane.source, reader) for lane in lanes for reader in lane.readers} == wanted
    for lane in lanes:
        beside = [other for other in lanes if other.place == lane.place and other is not lane]
        assert all(other.end <= lane.source or other.source >= lane.end for other in beside)


def test_before_and_after_from_slim_cfg_and_from_plan(small_pair: SmallPair, tmp_path: Path) -> None:
    slim = tmp_path / "slim"
    assert (
        main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "--min-channels", "2", "-o", str(slim)])
        == 0
    )
    pages = []
    for number, against in enumerate((slim / "small.cfg", slim / "plan.json")):
        target = tmp_path / f"{number}.html"
        assert main(["info", small_pair.cfg, "--html", str(target), "--against", str(against)]) == 0
        pages.append(Page.of(target).text)
    narrower = read_graph(slim / "small.cfg")[0].output.c
    assert narrower < 16
    assert all(f"16 → {narrower}" in page for page in pages)


def test_units_that_were_cut_out_are_crossed_out(tmp_path: Path) -> None:
    cfg, weights, slim = str(folder("cfg") / "scenes.cfg"), tmp_path / "s.weights", tmp_path / "slim"
    assert main(["init", cfg, "-o", str(weights), "--vary"]) == 0
    assert main(["prune", cfg, str(weights), "--units", "1", "-o", str(slim)]) == 0
    graph = read_graph(Path(cfg))
    read = read_slim(graph, slim / "scenes.cfg")  # finds the plan beside it
    gone = [layer.index for layer in graph if layer.index not in read.number]
    unit = json.loads((slim / "plan.json").read_text())["units"][0]["layers"]
    assert gone == list(range(unit[0], unit[1] + 1))
    data = network_page(Structure(graph, divide(graph, "auto"), read))
    assert data.count(b"gone") >= len(gone)
    Page(data)


def test_text_of_strangers_is_escaped(tmp_path: Path) -> None:
    cfg = tmp_path / "<img src=x onerror=alert(1)>.cfg"
    cfg.write_text(SMALL_CFG)
    target = tmp_path / "n.html"
    assert main(["info", str(cfg), "--html", str(target)]) == 0
    page = Page.of(target)  # would see the element and its attribute
    assert "img" not in page.tags
    assert "onerror=alert(1)" in page.text


def test_refuses_what_does_not_belong_together(
    small_pair: SmallPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "n.html"
    assert main(["info", small_pair.cfg, "--html", str(target), "--against", "builtin:yolov4-tiny"]) == 1
    assert "layers" in capsys.readouterr().err
    assert main(["info", small_pair.cfg, "--against", "builtin:yolov4-tiny"]) == 1
    assert not target.exists()
    target.write_text("mine")
    assert main(["info", small_pair.cfg, "--html", str(target)]) == 1
    assert target.read_text() == "mine"
    assert main(["info", small_pair.cfg, "--html", str(target), "--overwrite"]) == 1  # no page of ours
    assert target.read_text() == "mine"
    assert main(["info", small_pair.cfg, "--html", small_pair.cfg, "--overwrite"]) == 1


def test_json_stays_one_object(small_pair: SmallPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", small_pair.cfg, small_pair.weights, "--html", str(tmp_path / "n.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["html"].endswith("n.html")


def test_needs_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from darkprune.cli.main import main; "
        f"main(['info', 'builtin:yolov4-tiny', '--html', {str(tmp_path / 'n.html')!r}]); "
        "print([name for name in ('torch', 'cv2', 'onnx', 'matplotlib') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
