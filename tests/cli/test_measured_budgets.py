"""`darkprune prune --allocation sensitivity` and `--target-latency`, in a real program, without torch."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import darkprune as dp
from darkprune.cli.main import main
from darkprune.darknet.cfg import parse_cfg
from darkprune.data.reading import read_dataset
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import build_graph
from darkprune.kit.board.runtime.command import MODULES
from darkprune.runners import layer_times
from darkprune.runners.base import LoadedNetwork
from darkprune.search import group_curves, latency
from darkprune.search.group_curves import CurveImages
from darkprune.selection.budget import parse_latency
from darkprune.selection.curves import Curves
from darkprune.selection.decide import Ranking, rank
from darkprune.selection.settings import Selection
from tests.assets import open_pair

cv2 = pytest.importorskip("cv2")

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n\n"
TEXT = (
    "[net]\nwidth=64\nheight=64\nchannels=3\n\n"
    + CONV.format(24, 2)
    + CONV.format(32, 2)
    + CONV.format(48, 2)
    + CONV.format(48, 1)
    + "[convolutional]\nfilters=14\nsize=1\nstride=1\npad=1\nactivation=linear\n\n"
    + "[yolo]\nmask=0,1\nanchors=10,14, 30,30\nclasses=2\nnum=2\n"
)
GROUPS = ["--groups", "0-1,2-3"]


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    (tmp_path / "net.cfg").write_text(TEXT)
    with (tmp_path / "net.weights").open("wb") as file:
        write_fresh(build_graph(parse_cfg(TEXT)), file, 0, vary=True)
    return [str(tmp_path / "net.cfg"), str(tmp_path / "net.weights")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), random.integers(0, 255, (60, 80, 3), np.uint8))
    return tmp_path / "images"


def prune(capsys: pytest.CaptureFixture[str], *flags: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["prune", *map(str, flags), "--runner", "opencv", "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_curves_are_measured_once(
    pair: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkprune.api.prune.find_spec", lambda name: None)  # as if torch were not installed
    measured: list[int] = []
    whole = group_curves._measure

    def counting(*args: Any) -> Any:
        measured.append(args[2])
        return whole(*args)

    monkeypatch.setattr(group_curves, "_measure", counting)
    flags = [*pair, *GROUPS, "--allocation", "sensitivity", "--images", images]
    found = prune(capsys, *flags, "--target-macs", "0.7", "-o", tmp_path / "a")
    assert measured == [0, 1]
    assert abs(found["after"]["macs"] / found["before"]["macs"] - 0.7) < 0.01
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    curves = report["curves"]
    assert found["curves"] == curves
    assert (curves["metric"], [group["group"] for group in curves["groups"]]) == ("distance", ["g1", "g2"])
    assert all(0 <= value <= 1 for group in curves["groups"] for value in group["retained"])
    cache = Path(curves["kept_in"])
    assert cache == tmp_path / "net.weights.sensitivity.json"

    # other budgets, and a ratio, take the same curves; another merge, other images or other weights do not
    again = prune(capsys, *flags, "--ratio", "0.3", "-o", tmp_path / "b")
    assert measured == [0, 1]
    groups = again["groups"]
    marked, channels = (sum(group[key] for group in groups) for key in ("marked", "channels"))
    assert abs(marked / channels - 0.3) < 0.02
    assert again["curves"] == curves
    prune(capsys, *flags, "--ratio", "0.3", "--merge", "any", "-o", tmp_path / "c")
    assert measured == [0, 1] * 2
    cv2.imwrite(str(images / "9.png"), np.zeros((9, 9, 3), np.uint8))
    prune(capsys, *flags, "--ratio", "0.3", "-o", tmp_path / "d")
    assert measured == [0, 1] * 3
    cache.write_text(cache.read_text()[:-100])
    last = prune(capsys, *flags, "--ratio", "0.3", "-o", tmp_path / "e")
    assert measured == [0, 1] * 4
    prune(capsys, *flags, "--ratio", "0.3", "--criterion", "l1", "-o", tmp_path / "f")
    assert measured == [0, 1] * 5
    assert any("is damaged; the curves are measured anew" in message for message in last["warnings"])


def test_curves_depend_on_everything_that_decides_them(pair: list[str], images: Path, tmp_path: Path) -> None:
    for path in images.glob("*.png"):
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.9 0.9\n")
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(path) for path in sorted(images.glob("*.png"))))
    selection = Selection(groups="0-1,2-3", allocation="sensitivity")
    with open_pair(*map(Path, pair)) as weights:
        ranking = rank(weights, selection)

        def key(ranking: Ranking = ranking, selection: Selection = selection, **chosen: Any) -> str:
            shown = {"dataset": read_dataset(listed), "images": None, "runner": "opencv", **chosen}
            return group_curves._origin(ranking, selection, CurveImages.of(**shown)).key

        first = key()
        assert key() == key(selection=replace(selection, ratio=0.5)) == first
        others = [
            key(replace(ranking, members=replace(ranking.members, score=ranking.members.score * 2))),
            key(replace(ranking, measured={1: np.ones(32)})),  # other images were scored
            key(replace(ranking, measured={1: np.zeros(32)})),
            key(selection=replace(selection, merge="any")),
            key(selection=replace(selection, compensate="carrier")),
            key(selection=replace(selection, min_channels=4)),
            key(runner="torch"),
            key(dataset=None, images=images),
        ]
        (images / "0.txt").write_text("1 0.5 0.5 0.9 0.9\n")
        others.append(key())
        assert len({first, *others}) == 1 + len(others)


def test_curves_on_labels(pair: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in images.iterdir():
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.9 0.9\n")
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(path) for path in sorted(images.glob("*.png"))))
    command = ["prune", *pair, *GROUPS, "--allocation", "sensitivity", "--data", str(listed), "--ratio", "0.3"]
    # a fresh network finds nothing: then no curve can be measured, and it says so
    assert main([*command, "--runner", "opencv", "-o", str(tmp_path / "out")]) == 1
    assert "the unpruned network finds nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_result_is_compared_at_equal_operations(
    pair: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.cfg").write_text(TEXT.replace("width=64", "width=160").replace("height=64", "height=96"))
    for path in images.iterdir():
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.9 0.9\n")
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(path) for path in sorted(images.glob("*.png"))))
    monkeypatch.setattr(
        "darkprune.search.figures.map_of", lambda data, task: lambda network, *_: network.graph.net.input.w / 200
    )
    data = ["--data", listed, "--recover", "none"]
    found = prune(capsys, *pair, *data, "--target-macs", "0.85", "-o", tmp_path / "a")
    original, pruned, control = found["comparison"]
    assert [(each["name"], each["width"], each["height"]) for each in (original, pruned, control)] == [
        ("original", 160, 96), ("pruned", 160, 96), ("control", 128, 64),
    ]  # fmt: skip
    share = (pruned["macs"] - control["macs"]) / (original["macs"] - control["macs"])
    assert pruned["control"] == pytest.approx((128 + share * 32) / 200)  # between the two, not the nearer one's
    assert not any("smaller input" in message for message in found["warnings"])
    monkeypatch.setattr(
        "darkprune.search.figures.map_of", lambda data, task: lambda network, *_: (network.graph.params - 1e4) / 1e5
    )
    found = prune(capsys, *pair, *data, "--target-macs", "0.85", "-o", tmp_path / "b")
    assert any("take the smaller input" in message for message in found["warnings"])


class _Clock(LoadedNetwork):
    """A network that takes as long as its operations say, so that a busy machine cannot fail the test."""

    now = 0.0

    def __init__(self, macs: int, noise: float) -> None:
        self.macs, self.noise, self.random = macs, noise, np.random.default_rng(macs)

    def head_maps(self, images: Any) -> Any:
        _Clock.now += (1e-3 + 1e-8 * self.macs) * (1 + self.noise * self.random.uniform(-1, 1))

    def outputs(self, image: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """Replaces the program and the clock; what is tested is the search."""
    chosen = {"noise": 0.02}

    def load(graph: Any, weights: Path, name: str, **_: object) -> tuple[str, LoadedNetwork]:
        network = _Clock(graph.macs, chosen["noise"])
        network.graph = graph
        return name, network

    monkeypatch.setattr(latency, "load_with_any", load)
    monkeypatch.setattr(layer_times, "load_with_any", load)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "perf_counter", lambda: _Clock.now)
    return chosen


@pytest.mark.parametrize(("target", "part"), [("0.8", 0.8), ("24ms", None), ("24", None)])
def test_latency_is_met(
    pair: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clock: dict[str, float],
    target: str,
    part: float | None,
) -> None:
    whole = 1 + 1e-5 * build_graph(parse_cfg(TEXT)).macs
    if part is None:
        target = target.replace("24", f"{0.8 * whole:.3f}")
    found = prune(capsys, *pair, "--target-latency", target, "-o", tmp_path / "slim")
    assert (1 + 1e-5 * found["after"]["macs"]) / whole == pytest.approx(0.8, rel=0.05)
    timed = found["latency"]
    assert timed["reached_ms"] == pytest.approx(timed["target_ms"], rel=0.05)
    assert timed["original_ms"] == pytest.approx(whole, rel=0.05)
    assert 3 < len(timed["trials"]) <= latency.TRIALS + 1
    assert json.loads((tmp_path / "slim" / "report.json").read_text())["latency"] == timed
    assert not any("uncertain" in message for message in found["warnings"])


def test_latency_along_curves(
    pair: list[str],
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clock: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Curves save milliseconds, not multiply-adds, where a latency is the goal."""
    asked: list[str] = []
    path = Curves.path
    monkeypatch.setattr(Curves, "path", lambda self, by: (asked.append(by), path(self, by))[1])
    flags = [*pair, *GROUPS, "--allocation", "sensitivity", "--images", images]
    found = prune(capsys, *flags, "--target-latency", "0.8", "-o", tmp_path / "slim")
    assert asked == ["ms"]
    timed = found["latency"]
    assert timed["reached_ms"] == pytest.approx(timed["target_ms"], rel=0.06)
    assert 0 < timed["predicted_ms"] < 1.05 * timed["original_ms"]  # in blocks of 8 channels this network is coarse


def test_a_trial_is_a_step(pair: list[str], clock: dict[str, float]) -> None:
    events: list[dp.ProgressEvent] = []
    settings = dp.PruneSettings(runner="opencv", target_latency="0.8", force=True)
    surgery = dp.prune(dp.load(*pair), settings, progress=events.append)
    trials = surgery.findings["latency"]["trials"]
    measured = [event.done for event in events if event.task == "measuring latency"]
    assert measured == list(range(len(trials) + 1))
    assert "timing" not in {event.task for event in events}
    surgery.close()


def test_noise_is_told(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: dict[str, float]
) -> None:
    command = ["prune", *pair, "--runner", "opencv", "--target-latency", "0.8", "-o", str(tmp_path / "no")]
    clock["noise"] = 0.999
    whole = latency._summarised
    seen: set[float] = set()

    def far_at_last(ratio: float, before: Any, after: Any) -> Any:
        """The last trial is the second one of its ratio."""
        again = ratio in seen
        seen.add(ratio)
        return whole(ratio, before, after * (1.4 if again else 1))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(latency, "_summarised", far_at_last)
        assert main(command) == 1
    assert "timing on this machine is uncertain by" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    clock["noise"] = 0.9
    found = prune(capsys, *pair, "--target-latency", "0.8", "-o", tmp_path / "slim")
    assert found["latency"]["noise"] > 0.05
    assert any("uncertain" in message for message in found["warnings"])


def test_latency_that_cannot_be(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: dict[str, float]
) -> None:
    command = ["prune", *pair, "--runner", "opencv", "-o", str(tmp_path / "slim"), "--target-latency"]
    assert main([*command, "0.1"]) == 1
    assert "cannot be met on opencv: with every layer at its floor" in capsys.readouterr().err
    assert main([*command, "99ms"]) == 2
    assert "ask for less" in capsys.readouterr().err
    assert main([*command, "0.93", "--round-to", "24", "--groups", "2-3"]) == 1
    assert "cannot be met within 5 % on opencv: nearest is" in capsys.readouterr().err


def test_latency_in_a_program(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the real clock: whatever this machine's noise is, the figures belong together."""
    command = ["prune", *pair, "--runner", "opencv", "--target-latency", "0.7", "-o", str(tmp_path / "slim"), "--json"]
    status = main(command)
    shown = capsys.readouterr()
    if status:  # a busy machine
        assert "cannot be met" in shown.err or "timing on this machine is uncertain" in shown.err
        return
    found = json.loads(shown.out)["latency"]
    assert found["trials"][0]["ratio"] == 0
    last = found["trials"][-1]["part"]
    assert last == pytest.approx(found["reached_ms"] / found["original_ms"], rel=1e-2)
    assert abs(last / 0.7 - 1) <= 0.05 + found["noise"]


@pytest.mark.parametrize("text", ["0", "-3", "12Q", "", "nan", "1e3", "0.5 s", "9" * 40])
def test_bad_latencies(text: str) -> None:
    with pytest.raises(Exception, match=r"--target-latency .*write milliseconds"):
        parse_latency(text)


@pytest.mark.parametrize(
    ("flags", "message", "status"),
    [
        (["--target-latency", "0.5"], "say where with --runner", 2),
        (["--target-latency", "0.5", "--runner", "opencv", "--ratio", "0.5"], "with one of", 2),
        (["--target-latency", "0.5", "--runner", "opencv", "--batch", "0"], "--batch 0", 2),
        (["--allocation", "sensitivity", "--ratio", "0.3"], "give --images DIR", 2),
        (["--criterion", "sensitivity", "--ratio", "0.3"], "give some with --images", 2),
        (["--recover", "lsq", "--ratio", "0.3"], "give some with --images", 2),
        (["--target-macs", "1.5"], "is above 1, so no fraction", 2),
        (["--target-macs", "0"], "more than 0", 2),
        (["--target-macs", "12Q"], "'Q' is no unit here", 2),
        (["--target-macs", "12G"], "ask for less", 2),
        (["--target-macs", "0.001"], "with every layer at its floor", 1),
    ],
)
def test_wrong_use(
    pair: list[str], tmp_path: Path, flags: list[str], message: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", *pair, "-o", str(tmp_path / "out"), *flags]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_program_that_is_not_here(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    command = ["prune", *pair, "-o", str(tmp_path / "out"), "--target-latency", "0.5", "--runner", "tensorrt"]
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(command) == 1
    assert "TensorRT is not installed here" in capsys.readouterr().err
