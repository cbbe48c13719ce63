"""`darkprune report` of a folder with many results: all are told of, the newest is shown, drawings have a limit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.pages import contents, plots
from darkprune.pages.contents import find_original, read_contents
from darkprune.pages.context import MOST_DRAWN
from tests.conftest import SmallPair
from tests.pages.page import Page

drawn = pytest.mark.skipif(not plots.available(), reason="matplotlib is not installed")


@pytest.fixture
def cuts(small_pair: SmallPair) -> Path:
    folder = small_pair.folder / "cuts"
    for number, ratio in enumerate(("0.2", "0.6")):
        out = folder / f"cut{ratio}"
        assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", ratio, "-o", str(out)]) == 0
        for file in out.iterdir():
            os.utime(file, (number, number))
    return folder


def page_of(folder: Path, *more: str) -> Page:
    assert main(["report", str(folder), "--runs", "0", *more]) == 0
    return Page.of(folder / "report.html")


def test_all_cuts_are_beside_each_other_and_the_newest_is_told_of(cuts: Path) -> None:
    text = page_of(cuts).text
    assert "All cuts" in text
    assert "bn_gamma, uniform, ratio 0.2" in text
    assert "The page shows cut0.6" in text
    own = json.loads((cuts / "cut0.6" / "report.json").read_text())["warnings"]
    other = json.loads((cuts / "cut0.2" / "report.json").read_text())["warnings"]
    assert own
    assert other
    assert f"darkprune report {cuts} --images DIR --overwrite" in text  # the original is known
    assert f"warnings of earlier cuts: {len(set(other) - set(own))}" in text


def test_a_cut_alone_has_no_such_section(cuts: Path) -> None:
    assert "All cuts" not in page_of(cuts / "cut0.2").text


def test_of_too_many_the_newest_stay_and_the_page_says_so(
    cuts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contents, "MOST_FOLDERS", 1)
    found = read_contents(cuts)
    assert [cut.name for cut in found.cuts] == ["cut0.6"]
    text = page_of(cuts).text
    assert "1 older results in" in text
    assert "newest 1" in capsys.readouterr().err


@drawn
def test_of_many_trainings_the_newest_are_drawn(tmp_path: Path) -> None:
    for number in range(MOST_DRAWN + 2):
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / "log.csv").write_text("step,loss,map50\n1,2,\n2,1,0.5\n")
        counts = np.ones((2, 1, 4), np.int64)
        np.savez(run / "gamma.npz", epochs=np.arange(2), edges=np.linspace(0, 1, 5), groups=["g1"], counts=counts)
        os.utime(run / "log.csv", (number, number))
    page = page_of(tmp_path)
    assert page.tags["img"] == 2 * MOST_DRAWN
    assert page.text.count("best 50.00 % at step 2") == MOST_DRAWN + 2  # the others are told of in figures
    assert f"The newest {MOST_DRAWN} of {MOST_DRAWN + 2} trainings are drawn" in page.text
    assert f"The newest {MOST_DRAWN} of {MOST_DRAWN + 2} records of γ are drawn" in page.text


def test_sweep_and_comparison_say_which_commands_made_them(tmp_path: Path) -> None:
    row = {"ratio": 0.1, "params": 10, "macs": 1000, "macs_removed": 0.2, "value": 0.5}
    sweep = {"metric": "mAP@0.5", "unpruned": 0.6, "pruned": [row], "recovered": [{**row, "value": 0.5678}]}
    for name, content in (("cliff", sweep), ("compare", {"rows": []})):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text(json.dumps(content))
        made = {"commands": [f"darkprune {name} y.cfg"], "darkprune": "9.9", "versions": {"torch": "7"}}
        (tmp_path / name / "run.json").write_text(json.dumps(made))
    text = page_of(tmp_path).text
    assert "darkprune cliff y.cfg" in text
    assert "darkprune compare y.cfg" in text
    assert "cliff, compare" in text  # one line per version, with all that it made
    assert "56.78" in text  # with recovery


def test_cells_that_fail_for_one_reason_are_one_line(tmp_path: Path) -> None:
    lines = [{"method": "layer", "budget": budget, "failed": "too small"} for budget in ("0.8", "0.6")]
    (tmp_path / "compare.json").write_text(json.dumps({"rows": lines}))
    assert "layer at 0.8, layer at 0.6: too small" in page_of(tmp_path).text


def test_the_original_is_that_of_the_last_cut(cuts: Path, small_pair: SmallPair) -> None:
    slim = [str(cuts / "cut0.2" / Path(part).name) for part in (small_pair.cfg, small_pair.weights)]
    assert main(["prune", *slim, "--ratio", "0.2", "--min-channels", "1", "-o", str(cuts / "again")]) == 0
    found = find_original(read_contents(cuts))
    assert found is not None
    assert found.weights.samefile(small_pair.weights)  # through the cut between
    assert main(["prune", "builtin:scenes", "builtin:scenes", "--ratio", "0.2", "-o", str(cuts / "other")]) == 0
    found = find_original(read_contents(cuts))
    assert found is not None
    assert found.cfg.name == "scenes.cfg"


def test_a_broken_result_alone_is_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compare.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"darkprune: error: {tmp_path / 'compare.json'}: is not JSON")
    assert "nothing else in" in error


def test_what_only_earlier_cuts_measured_has_no_columns(cuts: Path) -> None:
    for name, distance in (("cut0.2", 0.9), ("cut0.6", 0.125)):
        report = json.loads((cuts / name / "report.json").read_text())
        report["comparison"] = [{"name": "pruned", "width": 8, "height": 8, "macs": 9, "distance": distance}]
        (cuts / name / "report.json").write_text(json.dumps(report))
        os.utime(cuts / name / "report.json", (float(name[3:]),) * 2)
    text = page_of(cuts).text
    assert "measured by cut0.6" in text
    assert "measured by cut0.2" not in text
    assert "0.9000" in text  # among all cuts
    assert "mAP@0.5" not in text  # nothing measured it


def test_without_hashes_no_file_is_read_to_find_the_original(
    cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.csv").write_text("step,loss\n1,2\n")
    shutil.copy(cuts / "cut0.2" / "report.json", run / "run.json")  # a training has no hashes of its input
    monkeypatch.setattr(contents, "digest_of_file", pytest.fail)
    assert find_original(read_contents(run)) is None
