"""`darkprune cliff`: sweep, control, resuming, tables, drawing, bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from darkprune.api import cliff
from darkprune.cli.main import main
from darkprune.darknet.cfg import parse_cfg
from darkprune.data.scenes import write_scenes
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import build_graph
from darkprune.runners.base import LoadedNetwork
from darkprune.runners.measure import Measure, distance_to
from darkprune.runs.lock import locked
from darkprune.sweep.points import Point, summarise
from darkprune.training.records import curves

cv2 = pytest.importorskip("cv2")

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n\n"
TEXT = (
    "[net]\nwidth=96\nheight=64\nchannels=3\n\n"
    + CONV.format(16, 2)
    + CONV.format(24, 2)
    + CONV.format(32, 2)
    + "[convolutional]\nfilters=14\nsize=1\nstride=1\npad=1\nactivation=linear\n\n"
    + "[yolo]\nmask=0,1\nanchors=10,14, 30,30\nclasses=2\nnum=2\n"
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "net.cfg").write_text(TEXT)
    with (tmp_path / "net.weights").open("wb") as file:
        write_fresh(build_graph(parse_cfg(TEXT)), file, 0, vary=True)
    return str(tmp_path / "net.cfg"), str(tmp_path / "net.weights")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five images with a label each, as darknet has them."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(5):
        image = random.integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{number}.png"), image)
        (tmp_path / "data" / "labels" / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
    return tmp_path / "data"


def test_sweep_resumes(
    pair: tuple[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    out = tmp_path / "out"
    command = ["cliff", *pair, "--images", str(data), "-o", str(out), "--ratios", "0.5,0.25"]
    measured: list[tuple[int, int]] = []

    def counting(original: LoadedNetwork, paths: tuple[Path, ...], batch: int, *_: object) -> tuple[str, Measure, str]:
        measure = distance_to(original, paths, batch)

        def count(network) -> float:
            if len(measured) == 2 and not (tmp_path / "go on").exists():
                raise KeyboardInterrupt
            measured.append((network.graph.net.input.w, network.graph.params))
            return measure(network)

        return "distance", count, ""

    monkeypatch.setattr(cliff, "without_labels", counting)
    assert main(command) == 130
    assert "2 networks are measured, and the same command goes on" in capsys.readouterr().err
    assert len(json.loads((out / "cliff.json").read_text())["points"]) == 2
    assert main(["report", str(out)]) == 0
    assert "is not finished (2 networks measured)" in (out / "report.html").read_text()
    (tmp_path / "go on").touch()
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(measured) == len(set(measured))
    assert main(command) == 0
    assert len(measured) == len(set(measured))
    assert main([*command[:-1], "0.25,0.5,0.7"]) == 0  # another ratio is added to what is there
    assert len(measured) == len(set(measured))

    assert found["metric"] == "distance"
    assert found["unpruned"] < 1e-3
    assert [row["ratio"] for row in found["pruned"]] == [0.25, 0.5]
    assert found["pruned"][0]["macs"] > found["pruned"][1]["macs"]
    sizes = [(row["width"], row["height"]) for row in found["control"]]
    assert sizes[0] == (96, 64)
    assert all(width % 32 == 0 and height % 32 == 0 for width, height in sizes)
    assert (out / "cliff.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "cliff.svg").read_bytes()
    rows = list(csv.DictReader((out / "cliff.csv").open()))
    assert {row["kind"] for row in rows} == {"pruned", "control"}
    told = json.loads((out / "run.json").read_text())["commands"]
    assert [line.split()[-1] for line in told] == ["0.5,0.25", "--json", "0.25,0.5,0.7"]  # each once


@pytest.mark.parametrize("name", ["cliff.csv", "cliff.png", "run.json", "notes"])
def test_a_folder_with_files_of_others_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    command = ["cliff", "builtin:scenes", "builtin:scenes", "--images", str(tmp_path), "-o", str(out)]
    assert main(command) == 1
    assert "exists and is not empty; give --overwrite" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


def test_agreement_compares_input_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "scenes", train=8, valid=2)
    command = ["cliff", "builtin:scenes", "builtin:scenes", "--images", str(tmp_path / "scenes" / "train")]
    command += ["-o", str(tmp_path / "out"), "--ratios", "0.05,0.6"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "agreement"
    assert 0.5 < found["unpruned"] < 0.99  # what it finds at smaller inputs counts too
    slight, half = found["pruned"]
    assert 0 <= half["value"] < slight["value"] < 1
    assert 0.3 < slight["control"] < 1  # the unpruned network still finds most of it at a smaller input
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "agreement: mAP@0.5 against what the unpruned network detects" in printed
    assert "its own input size and smaller ones" in printed
    assert main(["report", str(tmp_path / "out"), "--overwrite"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "agreement over multiply-adds" in page
    assert "on average over its own input size and smaller ones" in page


def test_without_detections_the_outputs_are_compared(
    pair: tuple[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cliff", *pair, "--images", str(data), "-o", str(tmp_path / "out"), "--ratios", "0.3", "--json"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("darkprune.evaluation.agreement.CONFIDENT", 1.0)
        assert main(command) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["metric"] == "distance"
    assert "finds nothing in 5 images" in shown.err
    assert "compared by the distance of the outputs instead" in shown.err


def test_other_settings_are_another_sweep(
    pair: tuple[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cliff", *pair, "--images", str(data), "-o", str(tmp_path / "out"), "--ratios", "0.5"]
    assert main(command) == 0
    assert main([*command, "--merge", "any"]) == 1
    assert "other settings" in capsys.readouterr().err
    assert main([*command, "--limit", "3"]) == 1
    assert "other images measured on" in capsys.readouterr().err
    assert main([*command, "--limit", "3", "--overwrite"]) == 0
    told = json.loads((tmp_path / "out" / "run.json").read_text())["commands"]
    assert [line.split()[-1] for line in told] == ["--overwrite"]  # the earlier ones have no part in it
    (tmp_path / "out" / "cliff.json").write_text("{")
    assert main(command) == 1
    assert "is not an earlier sweep, or broken; choose another -o" in capsys.readouterr().err


def test_sweeps_share_nothing_that_differs(
    pair: tuple[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever decides a point (labels, scores, recovery, the images of both) is noticed when it changes."""
    pytest.importorskip("torch")
    scored = tmp_path / "scored"
    shutil.copytree(data / "images", scored)
    command = ["cliff", *pair, "--data", str(data), "-o", str(tmp_path / "out"), "--ratios", "0.3"]
    command += ["--images", str(scored), "--criterion"]

    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main([*command, *more]) == 1
        return capsys.readouterr().err

    assert main([*command, "sensitivity"]) == 0
    assert main([*command, "sensitivity"]) == 0
    assert "other settings" in refused("bn_gamma")
    assert "other settings" in refused("first-order")
    assert "other settings" in refused("sensitivity", "--recover", "bn")
    cv2.imwrite(str(scored / "more.png"), np.zeros((50, 50, 3), np.uint8))
    assert "other images" in refused("sensitivity")
    (scored / "more.png").unlink()
    assert main([*command, "sensitivity"]) == 0
    (data / "labels" / "0.txt").write_text("1 0.5 0.5 0.4 0.4\n")
    assert "other data" in refused("sensitivity")


def test_one_sweep_at_a_time(
    pair: tuple[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cliff", *pair, "--images", str(data), "-o", str(tmp_path / "out"), "--ratios", "0.3"]
    with locked(tmp_path / "out"):
        assert main(command) == 1
    assert "another darkprune is at work in it" in capsys.readouterr().err


def test_labels_and_no_matplotlib(
    pair: tuple[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    out = tmp_path / "out"
    assert main(["cliff", *pair, "--data", str(data), "-o", str(out), "--ratios", "0.3", "--units", "0"]) == 0
    shown = capsys.readouterr()
    assert "darkprune[report]" in shown.err
    assert "mAP@0.5" in shown.out
    assert "control: the unpruned network at a smaller input" in shown.out
    assert not (out / "cliff.png").exists()
    assert json.loads((out / "cliff.json").read_text())["metric"] == "mAP@0.5"


@pytest.mark.parametrize(
    ("flags", "message", "status"),
    [
        (["--ratios", "0.1,x"], "numbers separated by commas", 2),
        (["--ratios", "0,0.5"], "above 0 and below 1", 2),
        (["--limit", "0"], "--limit 0", 2),
        (["--runner", "torch", "--ratios", "1.5"], "above 0", 2),
        (["-o", __file__], "exists and is not a folder", 1),
    ],
)
def test_wrong_use(
    pair: tuple[str, str], data: Path, flags: list[str], message: str, status: int, tmp_path: Path, capsys
) -> None:
    assert main(["cliff", *pair, "--images", str(data), "-o", str(tmp_path / "out"), *flags]) == status
    assert message in capsys.readouterr().err


def test_recovered_beside_pruned(
    pair: tuple[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(
        cliff, "without_labels", lambda original, paths, *_: ("distance", distance_to(original, paths), "")
    )
    images, out = str(data / "images"), tmp_path / "out"
    command = ["cliff", *pair, "--images", images, "-o", str(out), "--ratios", "0.2,0.4", "--recover", "lsq"]
    assert main([*command, "--criterion", "sensitivity", "--allocation", "global", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in found["recovered"]] == ["recovered"] * 2
    for before, after in zip(found["pruned"], found["recovered"], strict=True):
        assert (after["ratio"], after["macs"], after["control"]) == (before["ratio"], before["macs"], before["control"])
        assert after["value"] != before["value"]
    assert found["recovery_beats_control_at"] == [row["ratio"] for row in found["recovered"] if row["beats_control"]]
    assert {row["kind"] for row in csv.DictReader((out / "cliff.csv").open())} == {"pruned", "recovered", "control"}
    assert (out / "cliff.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [([], "give --data F"), (["--data", "x", "--recover", "lsq"], "--recover lsq looks at images"),
     (["--data", "x", "--criterion", "thinet"], "--criterion thinet looks at images")],
)  # fmt: skip
def test_images_that_are_not_given(
    pair: tuple[str, str], flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cliff", *pair, "-o", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_no_images(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path / "none", "no such file or folder"), (tmp_path, "holds no images")):
        assert main(["cliff", *pair, "--images", str(folder), "-o", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err


def point(kind: str, ratio: float, macs: int, value: float, width: int = 320) -> Point:
    return Point(kind, ratio, width, width, 100, macs, value)


def test_summary() -> None:
    base = point("control", 0, 1000, 0.40)
    controls = [base, point("control", 0, 800, 0.36, 288), point("control", 0, 600, 0.30, 256)]
    pruned = [point("pruned", 0.1, 900, 0.39), point("pruned", 0.2, 700, 0.32), point("pruned", 0.3, 500, 0.1)]
    found = summarise([*controls, *pruned], "mAP@0.5").pruned
    assert [each.control for each in found.points] == [pytest.approx(0.38), pytest.approx(0.33), None]
    assert [each.beats_control for each in found.points] == [True, False, None]
    assert found.beats_control_at == [0.1]
    assert found.fall is not None
    assert (found.fall.from_ratio, found.fall.to_ratio) == (0.2, 0.3)
    assert found.fall.fall == pytest.approx(0.22)
    away = summarise([*controls, *pruned], "distance").pruned
    assert [each.beats_control for each in away.points] == [False, True, None]
    assert summarise([*controls, point("pruned", 0.1, 900, 0.5)], "mAP@0.5").pruned.fall is None
