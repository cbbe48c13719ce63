"""`darkprune compress` from end to end on a network of eight layers: done, repeated, changed, killed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import darkprune as dp
from darkprune.cli.main import main
from darkprune.compression.available import find_available
from darkprune.compression.settings import CompressSettings
from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import build_graph, read_graph
from darkprune.graph.weights import NetworkWeights, broken_tensors
from darkprune.runs.digests import digest_of_file
from darkprune.training.loop.step import Stepper
from tests.training.tiny import CFG, write_images

SETTINGS = """
[compress]
data = "x.data"
ratio = 0.2
workers = 0

[sparse]
iterations = 4
batch = 4
save-every = 1
no-tensorboard = true

[prune]
rounds = 1
min_channels = 2

[distill]
iterations = 4
batch = 4
save-every = 1
no-tensorboard = true
"""
STAGES = ["sparse", "prune", "recover", "distill", *(f"evaluate: {name}" for name in (
    "original", "sparse", "pruned", "recovered", "distilled", "control"))]  # fmt: skip
STAGES += ["result", "time", "verify", "export"]


def write_place(folder: Path) -> None:
    write_images(folder, 8)
    (folder / "tiny.cfg").write_text(CFG)
    (folder / "run.toml").write_text(SETTINGS)
    with (folder / "tiny.weights").open("wb") as file:
        write_fresh(build_graph(parse_cfg(CFG)), file, 0, vary=True)


@pytest.fixture(autouse=True)
def no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("darkprune.training.loop.loop.draw_curves", lambda *args: True)
        patch.setattr("darkprune.training.sparsity.gammas.new_figure", lambda width, height: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that came to its end."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("darkprune.training.loop.loop.draw_curves", lambda *args: True)
        patch.setattr("darkprune.training.sparsity.gammas.new_figure", lambda width, height: None)
        write_place(folder)
        assert main(["compress", "tiny.cfg", "tiny.weights", "--config", "run.toml", "-o", "run"]) == 0
    return folder


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a run needs, and no run yet."""
    monkeypatch.chdir(tmp_path)
    write_place(tmp_path)
    return tmp_path


@pytest.fixture
def place(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the finished run, which may be copied, not changed."""
    monkeypatch.chdir(finished)
    return finished


def compress(*words: str, run: str = "run") -> int:
    return main(["compress", "tiny.cfg", "tiny.weights", "--config", "run.toml", "-o", run, *words])


def done(heard: str) -> dict[str, bool]:
    """Returns which stages were done, of those that the run told of."""
    found = re.findall(
        r"^\[.*?stage \d+ of \d+.*?\] (.+): ((?:up to date|to be done|to go on).*)$", heard, re.MULTILINE
    )
    return {name: "up to date" not in why for name, why in found}


def manifest(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return data


@pytest.mark.slow
def test_a_run_makes_what_it_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = manifest(place / "run")
    assert list(data["stages"]) == STAGES
    assert all(entry["done"] for entry in data["stages"].values())
    before, after = read_graph(place / "tiny.cfg"), read_graph(place / "run" / "tiny.cfg")
    assert after.macs < 0.9 * before.macs
    with NetworkWeights(after, place / "run" / "tiny.weights") as weights:
        assert not broken_tensors(weights)
    assert (place / "run" / "tiny.names").read_text() == "disc\nsquare\n"
    assert (place / "run" / "tiny.onnx").is_file()
    assert compress("--json") == 0
    told = json.loads(capsys.readouterr().out)
    names = [row["network"] for row in told["networks"]]
    assert names[:5] == ["original", "sparse", "pruned", "recovered", "distilled"]
    assert told["networks"][4]["macs"] == after.macs
    assert told["networks"][4]["map50"] == data["stages"]["evaluate: distilled"]["result"]["map50"]
    assert told["networks"][4]["bytes"] == (place / "run" / "tiny.weights").stat().st_size
    (best,) = [row["network"] for row in told["networks"] if row["result"]]
    assert data["stages"]["result"]["result"] == {"network": best}
    made = next(path for path in (place / "run" / best).glob("*.weights") if path.stem in ("tiny", "tiny_final"))
    assert made.read_bytes() == (place / "run" / "tiny.weights").read_bytes()


@pytest.mark.slow
def test_a_repeated_run_does_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = manifest(place / "run")
    assert compress() == 0
    heard = capsys.readouterr()
    assert done(heard.err) == dict.fromkeys(STAGES, False)
    assert "mAP@0.5" in heard.out
    assert manifest(place / "run") == before


@pytest.mark.slow
def test_a_changed_setting_does_again_what_depends_on_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "run", place / "changed")
    assert compress("--set", "distill.iterations=3", "--dry-run", "--json", run="changed") == 0
    told = json.loads(capsys.readouterr().out)
    late = {"distill", "evaluate: distilled", "evaluate: control", "result", "time", "verify", "export"}
    assert {row["stage"] for row in told["stages"] if row["todo"]} == late
    assert compress("--set", "distill.iterations=3", run="changed") == 0
    heard = capsys.readouterr().err
    # the control depends on the widths alone, which are the same; the export on the result, which may be
    same = [manifest(place / run)["stages"]["result"]["outputs"]["tiny.weights"] for run in ("run", "changed")]
    spared = {"evaluate: control"} | ({"time", "verify", "export"} if same[0] == same[1] else set())
    assert {name for name, todo in done(heard).items() if todo} == late - spared
    assert "iterations 4 → 3" in heard
    assert len((place / "changed" / "distilled" / "log.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_how_a_run_is_carried_out_changes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress("--workers", "1", "--set", "sparse.save-every=7", "--dry-run", "--json") == 0
    assert not any(row["todo"] for row in json.loads(capsys.readouterr().out)["stages"])


@pytest.mark.slow
def test_files_that_are_gone_or_changed_are_made_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "run", place / "harmed")
    (place / "harmed" / "recovered" / "tiny.weights").write_bytes(b"x")
    (place / "harmed" / "tiny.onnx").unlink()
    assert compress(run="harmed") == 0
    heard = capsys.readouterr().err
    assert {name for name, todo in done(heard).items() if todo} == {"recover", "export"}
    assert "recovered/tiny.weights was changed" in heard
    assert "tiny.onnx is gone" in heard


@pytest.mark.slow
def test_other_labels_are_other_inputs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = place / "images" / "007.txt"  # of the training set, not of the other
    text = label.read_text()
    try:
        label.write_text("0 0.5 0.5 0.2 0.2\n")
        assert compress("--dry-run", "--json") == 0
    finally:
        label.write_text(text)
    told = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["stages"]}
    assert told["sparse"]["why"] == "to be done again: other data"
    assert told["prune"]["todo"]


@pytest.mark.slow
def test_an_upgrade_of_the_program_does_everything_again(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "old"
    shutil.copytree(place / "run", run)
    data = manifest(run)
    for entry in data["stages"].values():
        entry["darkprune"] = "0.0.1"
    (run / "manifest.json").write_text(json.dumps(data))
    assert compress("--dry-run", "--json", run=str(run)) == 0
    told = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["stages"]}
    assert all(row["todo"] for row in told.values())
    assert told["sparse"]["why"] == f"to be done again: darkprune 0.0.1 → {dp.__version__}"


@pytest.mark.slow
def test_records_name_their_inputs(place: Path) -> None:
    stages = manifest(place / "run")["stages"]
    for role, path in (("cfg", place / "tiny.cfg"), ("weights", place / "tiny.weights")):
        assert stages["sparse"]["inputs"][role] == {"path": str(path), "sha256": digest_of_file(path)}
        assert stages["distill"]["inputs"][f"teacher {role}"]["path"] == str(path)
    assert stages["recover"]["inputs"]["plan"]["path"] == "pruned/plan.json"
    assert stages["evaluate: pruned"]["inputs"]["weights"]["sha256"] == digest_of_file(
        place / "run" / "pruned" / "tiny.weights"
    )


class Killed(BaseException):
    """Ends everything at once, as a signal that cannot be caught would."""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "how"), [("sparse", KeyboardInterrupt), ("distill", Killed)])
def test_training_goes_on_where_it_was_killed(
    place: Path, stage: str, how: type[BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "killed"
    shutil.copytree(place / "run", run)
    folder = {"sparse": "sparse", "distill": "distilled"}[stage]
    wanted = (run / folder / "tiny_final.weights").read_bytes()
    step = Stepper.step

    def fatal(self: Stepper, batches: Any, number: int, asked: Any) -> Any:
        if number == 3:
            raise how
        return step(self, batches, number, asked)

    monkeypatch.setattr(Stepper, "step", fatal)
    if how is Killed:
        with pytest.raises(Killed):
            compress("--from", stage, run=str(run))
    else:
        assert compress("--from", stage, run=str(run)) == 130
    monkeypatch.undo()
    monkeypatch.chdir(place)
    capsys.readouterr()
    steps: list[int] = []

    def counted(self: Stepper, batches: Any, number: int, asked: Any) -> Any:
        steps.append(number)
        return step(self, batches, number, asked)

    monkeypatch.setattr(Stepper, "step", counted)
    assert compress(run=str(run)) == 0
    heard = capsys.readouterr().err
    assert f"] {stage}: to go on where it stopped" in heard
    assert steps == [3, 4, *([1, 2, 3, 4] if stage == "sparse" else [])]  # --from: distillation is done again too
    assert (run / folder / "tiny_final.weights").read_bytes() == wanted


@pytest.mark.slow
def test_from_does_a_stage_and_those_behind_it_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress("--from", "evaluate", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)["stages"]
    assert {row["stage"] for row in told if row["todo"]} == set(STAGES[4:])


def test_images_alone_and_the_pair_alone(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*words: str) -> dict[str, list[str]]:
        given = ["tiny.cfg", "tiny.weights", "--ratio", "0.2", "-o", "other", "--dry-run"]
        assert main(["compress", *given, *words]) == 0
        out = capsys.readouterr().out
        commands = [line.split()[2:] for line in out.splitlines() if line.startswith("$ ")]
        return {command[0] + ("-recover" if "--recover" in command else ""): command for command in commands}

    alone = planned()
    assert list(alone) == ["prune", "prune-recover", "export"]
    assert "other/inputs/drawn" in alone["prune"]
    images = planned("--images", "images", "--set", "distill.burn-in=5")
    assert list(images) == ["prune", "prune-recover", "distill", "export"]
    assert "--unlabelled" in images["distill"]
    assert "--data" not in images["distill"]
    assert not (start / "other").exists()


def test_few_images_are_not_learnt_from_unless_asked(
    start: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["compress", "tiny.cfg", "tiny.weights", "--ratio", "0.2", "-o", "other", "--dry-run", "--images", "images"]
    for fewest, words in ((6, "--unlabelled"), (7, "6 images are too few to learn from without labels (7 are asked")):
        for module in ("available", "summary"):
            monkeypatch.setattr(f"darkprune.compression.{module}.FEWEST_UNLABELLED", fewest)
        assert main(line) == 0
        heard = capsys.readouterr()
        assert words in heard.out + heard.err
        assert ("distill" in heard.out) == (fewest == 6)
    assert main([*line, "--skip", "distill"]) == 0
    assert "too few" not in capsys.readouterr().err  # who leaves it out needs no telling


def test_the_pair_alone_is_pruned_on_drawn_scenes(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkprune.compression.available.DRAWN", 12)
    words = ["--ratio", "0.2", "--set", "prune.min-channels=2", "-o", str(tmp_path / "run")]
    assert main(["compress", "tiny.cfg", "tiny.weights", *words]) == 0
    heard = capsys.readouterr()
    assert "drawn scenes" in heard.err
    assert len(list((tmp_path / "run" / "inputs" / "drawn").iterdir())) == 12
    assert read_graph(tmp_path / "run" / "tiny.cfg").macs < read_graph(start / "tiny.cfg").macs


def test_without_torch_only_the_weights_decide(
    start: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkprune.compression.available.find_spec", lambda name: None)
    assert main(["compress", "tiny.cfg", "tiny.weights", "--ratio", "0.2", "-o", "other", "--dry-run"]) == 0
    heard = capsys.readouterr()
    assert "torch is not installed" in heard.err
    assert "sensitivity" not in heard.out
    assert compress("--dry-run") == 1
    assert "pip install 'darkprune[train]'" in capsys.readouterr().err


def test_images_alone_are_divided_and_measured(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    quick = [
        "distill.iterations=2",
        "distill.batch=4",
        "prune.min-channels=2",
        "prune.round-to=1",
        "distill.no-tensorboard=true",
    ]
    sets = [word for text in quick for word in ("--set", text)]
    words = ["--images", "images", "--ratio", "0.2", "--workers", "0", "-o", str(run), *sets, "--skip", "export"]
    assert main(["compress", "tiny.cfg", "tiny.weights", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    learn, held = ((run / "inputs" / f"{name}.txt").read_text().split() for name in ("learn", "held-out"))
    assert (len(learn), len(held)) == (6, 2)
    assert not set(learn) & set(held)
    agreements = {row["network"]: row["agreement"] for row in told["networks"]}
    assert agreements["original"] == 1
    assert 0 < agreements["pruned"] < 1
    assert told["stages"]["recover"]["recovery"]["how"] == "lsq"
    for words in (
        ["run"],
        ["run/tiny.cfg", "run/tiny.weights"],
        ["tiny.cfg", "tiny.weights", "run/tiny.cfg", "run/tiny.weights"],
    ):
        capsys.readouterr()
        assert main(["verify", *words]) == 0
        assert "widths and wiring are right; the weights were" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "distil.epochs=3"], "no section [distil]; did you mean distill?"),
        (["--set", "distill.epoch=3"], "no key epoch in [distill]; did you mean epochs?"),
        (["--set", "prune.epochs=3"], "no key epochs in [prune]"),
        (["--set", "distill.lr=many"], "--lr many: give a number"),
        (["--set", "distill.adam=3"], "settings [distill]: adam = 3: give true or false"),
        (["--set", "prune.merge=true"], "settings [prune]: merge = True: give text"),
        (["--set", "prune.output=x"], "compress gives that itself"),
        (["--set", "distill.epochs"], "write STAGE.KEY=VALUE"),
        (["--set", "compress.skip=prun"], "--skip prun: did you mean prune?"),
        (["--skip", "prune"], "a run without pruning"),
        (["--images", "nowhere"], "nowhere: no such file or folder"),
        (["--config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["--target-params", "0.01"], "with every layer at its floor"),
    ],
)
def test_what_makes_no_sense_is_refused(
    start: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress(*words) in (1, 2)
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (start / "run").exists()


@pytest.mark.parametrize(("text", "message"), [("[[x", "is not TOML"), ("x = 1", "outside all sections")])
def test_settings_that_are_none(
    start: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert compress("--config", str(tmp_path / "bad.toml")) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_folders_of_others_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.cfg").write_text(CFG.replace("filters=16", "filters=20"))
    with (tmp_path / "other.weights").open("wb") as file:
        write_fresh(read_graph(tmp_path / "other.cfg"), file, 0)
    pair = [str(tmp_path / "other.cfg"), str(tmp_path / "other.weights")]
    assert main(["compress", *pair, "--config", "run.toml", "-o", "run"]) == 1
    assert "is a run of another network" in capsys.readouterr().err
    assert compress(run="images") == 1
    assert "holds no manifest.json" in capsys.readouterr().err
    assert main(["compress", "tiny.cfg", "tiny.weights", "--config", "run.toml", "-o", "."]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_the_command_line_wins_over_the_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress("--target-macs", "0.5", "--dry-run") == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("$ darkprune prune"))
    assert "--target-macs 0.5" in command
    assert "--ratio" not in command
    assert compress("--ratio", "0.3", "--dry-run") == 0
    assert "ratio 0.2 → 0.3" in capsys.readouterr().out


@pytest.mark.slow
def test_the_function_and_the_command_are_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[dp.ProgressEvent] = []
    short = {"iterations": 4, "batch": 4}
    stages = {"sparse": short, "prune": {"rounds": 1, "min_channels": 2}, "distill": short}
    settings = dp.CompressSettings(data="x.data", ratio=0.2, stages=stages)
    result = dp.compress("tiny.cfg", "tiny.weights", settings, "run", progress=events.append)
    assert capsys.readouterr() == ("", "")
    assert {event.message.rpartition(": ")[2] for event in events if event.message} == {"up to date"}
    assert result.cfg == Path("run/tiny.cfg")
    assert result.map50 == result.figures.map50
    assert compress("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert Path(printed.pop("report")).is_file()
    assert printed.pop("warnings") == list(result.warnings)
    assert printed == result.to_json()


@pytest.mark.slow
def test_files_of_the_user_stay_in_the_folders_of_stages(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    own = [run / folder / name for folder in ("sparse", "pruned", "distilled") for name in ("notes.txt", "mine/a.txt")]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert compress("--from", "sparse", run=str(run)) == 0
    assert all(path.read_text() == "mine" for path in own)


def test_names_in_labels_take_the_network_s_order_in_every_stage(tmp_path: Path) -> None:
    """Networks that a run writes for other input sizes have no names beside them."""
    (tmp_path / "tiny.cfg").write_text(CFG)
    (tmp_path / "tiny.names").write_text("square\ndisc\n")
    document = {
        "images": [{"id": 0, "file_name": "a.png", "width": 8, "height": 8}],
        "categories": [{"id": 0, "name": "disc"}, {"id": 1, "name": "square"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [2, 1, 4, 4]}],
    }
    (tmp_path / "all.json").write_text(json.dumps(document))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    settings = CompressSettings(data=str(tmp_path / "all.json"), target_macs=0.8)
    names = find_available(settings, read_graph(tmp_path / "tiny.cfg"), tmp_path / "run").names
    assert names is not None
    assert names.path == tmp_path / "tiny.names"
