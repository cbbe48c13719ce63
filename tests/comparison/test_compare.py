"""`darkprune compare` from end to end."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from darkprune.cli.main import main
from darkprune.comparison import steps, train
from darkprune.runs.lock import locked
from tests.assets import open_pair
from tests.training.tiny import write_images


def compare(pair: list[str], data: Path, output: Path, *more: object) -> int:
    given = ["--data", str(data), "-o", str(output), "--min-channels", "2", "--no-times", *map(str, more)]
    return main(["compare", *pair, *given])


def records(output: Path) -> dict[str, int]:
    return {path.as_posix(): path.stat().st_mtime_ns for path in sorted(output.rglob("*.json"))
            if path.parent.name != output.name}  # fmt: skip


TWO = ("--methods", "group,layer+group", "--budgets", "0.7")


def test_two_methods(pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert compare(pair, data, output, *TWO, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    rows = printed["rows"]
    assert [(row["kind"], row["method"]) for row in rows] == [
        ("unpruned", ""), ("control", ""), ("pruned", "group"), ("pruned", "layer+group"),
    ]  # fmt: skip
    whole = rows[0]
    for row in rows[2:]:
        assert row["map50"] is not None
        assert abs(row["macs"] / whole["macs"] - 0.7) < 0.01
        assert (row["seeds"], row["map50_std"]) == (1, 0)
    for name in ("group_0.7_none_s0", "layer+group_0.7_none_s0"):
        with open_pair(output / "pairs" / name / "net.cfg", output / "pairs" / name / "net.weights") as slim:
            assert slim.graph.macs < whole["macs"]
    names = {Path(name).name for name in printed["outputs"]}
    assert names == {"compare.json", "compare.csv", "curves.png", "curves.svg", "ratio.png", "ratio.svg"}
    with (output / "compare.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == [row["method"] for row in rows]
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    before = records(output)
    assert compare(pair, data, output, *TWO) == 0  # nothing is done twice
    assert records(output) == before
    assert "group" in capsys.readouterr().out


@pytest.mark.slow
def test_candidates_in_processes_are_those_of_one(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = str(tmp_path / "data" / "train.txt")
    alone = tmp_path / "data" / "valid.txt"  # no labels besides those that are measured: the output distance decides
    plans = []
    for jobs in (1, 2):
        output = tmp_path / f"jobs{jobs}"
        given = ["--methods", "eagleeye", "--candidates", "3", "--budgets", "0.7", "--images", images, "--jobs", jobs]
        assert compare(pair, alone, output, *given, "--json") == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert rows[-1]["method"] == "eagleeye"
        assert rows[-1]["map50"] is not None
        plans.append(json.loads((output / "cuts" / "eagleeye_0.7_s0" / "plan.json").read_text())["layers"])
    assert plans[0] == plans[1]


def test_a_killed_run_goes_on(
    pair: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    whole, calls = steps._figures, []

    def killed(*args: Any) -> dict[str, Any]:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(steps, "_figures", killed)
    assert compare(pair, data, output, *TWO) == 130
    assert "1 of 2 cells are done" in capsys.readouterr().err
    before = records(output)
    (output / "cuts" / ".group.partial-deadbeef").mkdir()  # as a process leaves it that is killed outright
    (output / "cuts" / ".group.partial-notes").write_text("mine")
    assert compare(pair, data, output, *TWO) == 0
    assert [path.name for path in output.glob("cuts/.*")] == [".group.partial-notes"]
    assert len(calls) == 2 + 3  # the other cell, the unpruned network at two sizes
    after = records(output)
    assert {name: after[name] for name in before} == before


def test_shares_of_several_jobs(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert compare(pair, data, output, *TWO, "--cell", "1/2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["missing"] == 1
    assert not (output / "compare.csv").exists()
    assert [path.name for path in (output / "cells").iterdir()] == ["group_0.7_none_s0.json"]
    assert compare(pair, data, output, *TWO, "--cell", "2/2", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 4
    told = json.loads((output / "run.json").read_text())["commands"]
    assert [line.partition("--cell ")[2] for line in told] == ["1/2 --json", "2/2 --json"]


@pytest.mark.slow
def test_a_cell_that_fails_is_a_row(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--methods", "group,layer", "--budgets", "0.7,0.001", "--json")
    assert compare(pair, data, tmp_path / "out", *more) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    failed = {(row["method"], row["budget"]): row["failed"] for row in rows if row["failed"]}
    assert "cannot be met" in failed["group", "0.001"]
    assert "has no residual unit" in failed["layer", "0.001"]
    assert ("group", "0.7") not in failed
    assert compare(pair, data, tmp_path / "out", *more[:-1], "--recoveries", "none,finetune", "--iterations", 1) == 0
    printed = capsys.readouterr().out
    assert printed.count("has no residual unit") == 1  # told once for all cells that it meets
    assert "layer at 0.7, none; layer at 0.7, finetune; layer at 0.001, none" in printed
    assert "failed" in printed


def test_a_comparison_of_failures_fails(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(pair, data, tmp_path / "out", "--methods", "group,slimming", "--budgets", "0.001", "--json") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "all 2 cells failed; the first one: " in shown.err
    assert "cannot be met" in shown.err
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]  # the table has every reason
    assert [bool(row["failed"]) for row in rows] == [False, True, True]


def test_two_comparisons_in_one_folder(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert compare(pair, data, output, *TWO) == 0
    at_work = output / "cuts" / ".group.partial-deadbeef"
    at_work.mkdir()
    with locked(output):
        assert compare(pair, data, output, *TWO) == 1
        assert "another darkprune is at work in it" in capsys.readouterr().err
        assert at_work.is_dir()  # what the first one is doing is left alone
        assert compare(pair, data, output, *TWO, "--cell", "1/2") == 1
    with locked(output, shared=True):  # shares of one comparison let each other in, and nobody else
        assert compare(pair, data, output, *TWO, "--cell", "1/2") == 0
        assert at_work.is_dir()
        assert compare(pair, data, output, *TWO) == 1


def test_other_labels_are_measured_anew(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert compare(pair, data, output, *TWO) == 0
    before = records(output)
    label = Path((tmp_path / "data" / "valid.txt").read_text().split()[0]).with_suffix(".txt")
    label.write_text(label.read_text().replace("0 ", "1 ", 1) + "0 0.5 0.5 0.9 0.9\n")
    assert compare(pair, data, output, *TWO) == 0
    after = records(output)
    changed = {Path(name).relative_to(output).parts[0] for name in before if before[name] != after[name]}
    assert changed == {"cells"}  # the cuts look at no labels
    assert all(before[name] != after[name] for name in before if Path(name).parent.name == "cells")


@pytest.mark.slow
def test_recoveries_that_look_and_train(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--methods", "thinet", "--budgets", "0.8", "--recoveries", "none,lsq+finetune,distill,distill-unlabelled",
            "--images", data.parent / "images", "--iterations", 2, "--batch", 4]  # fmt: skip
    assert compare(pair, data, tmp_path / "out", *more, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"][2:]
    assert [row["recovery"] for row in rows] == ["none", "lsq+finetune", "distill", "distill-unlabelled"]
    assert [row["failed"] for row in rows] == [""] * 4
    weights = {path.parent.name: path.read_bytes() for path in (tmp_path / "out" / "pairs").glob("*/net.weights")}
    assert len(weights) == 5  # and what lsq left
    assert len(set(weights.values())) == 5
    assert not list((tmp_path / "out" / "runs").iterdir())


def test_what_the_user_puts_into_a_training_s_folder_stays(
    pair: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, trained = tmp_path / "out", list[Path]()
    whole = train.train_network

    def with_notes(*args: Any) -> Any:
        folder = args[3]
        (folder / "mine").mkdir(parents=True)
        (folder / "mine" / "notes.txt").write_text("mine")
        trained.append(folder)
        return whole(*args)

    monkeypatch.setattr(train, "train_network", with_notes)
    more = ("--methods", "group", "--budgets", "0.7", "--recoveries", "finetune", "--iterations", 1, "--batch", 4)
    assert compare(pair, data, output, *more) == 0
    (folder,) = trained
    left = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]
    assert left == ["mine", "mine/notes.txt"]


@pytest.mark.slow
def test_processes_agree_with_one(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for jobs in (1, 2):
        assert compare(pair, data, tmp_path / str(jobs), *TWO, "--jobs", jobs, "--json") == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        found.append([{**row, "seconds": None} for row in rows])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--methods", "slimmin"], 2, "did you mean slimming"),
        (["--methods", "group", "--budgets", "much"], 2, "write a fraction"),
        (["--methods", "group", "--seeds", "a"], 2, "--seeds a"),
        (["--methods", "group", "--cell", "3/2"], 2, "--cell 3/2"),
        (["--methods", "group", "--jobs", "0"], 2, "--jobs"),
        (["--methods", ","], 2, "--methods"),
        (["--methods", "group", "--images", "/nowhere"], 1, "no such file or folder"),
        (["--methods", "group", "--data", "/nowhere.data"], 1, "nowhere"),
    ],
)
def test_wrong_use(
    pair: list[str], data: Path, tmp_path: Path, more: list[str], status: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert compare(pair, data, tmp_path / "out", *more) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_training_images_stand_in_for_images(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert compare(pair, data, output, "--methods", "group", "--budgets", "0.8", "--recoveries", "bn", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"][-1]["failed"] == ""
    train = (tmp_path / "data" / "train.txt").read_text().split()
    assert (output / "train.txt").read_text().split() == train
    before = records(output)
    assert compare(pair, data, output, "--methods", "group", "--budgets", "0.8", "--recoveries", "bn") == 0
    assert records(output) == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--methods", "thinet"], "thinet looks at images: give some with --images DIR"),
        (["--methods", "group", "--recoveries", "lsq"], "group with recovery lsq looks at images"),
    ],
)
def test_images_that_are_measured_are_not_looked_at(
    pair: list[str], tmp_path: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "both", 6)
    assert compare(pair, data, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "its training images are measured on too" in error


def test_what_is_measured_is_not_trained_on(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "both", 6)
    assert compare(pair, data, tmp_path / "out", "--methods", "group", "--recoveries", "finetune") == 2
    assert "measured on too" in capsys.readouterr().err


def test_folders_of_others_are_left_alone(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert compare(pair, data, tmp_path / "out", *TWO) == 1
    assert "no earlier comparison" in capsys.readouterr().err
    (tmp_path / "out" / "precious").unlink()
    (tmp_path / "out" / "network.txt").write_text("cfg another\n")
    assert compare(pair, data, tmp_path / "out", *TWO) == 1
    assert "another network" in capsys.readouterr().err
