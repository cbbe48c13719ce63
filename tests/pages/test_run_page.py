"""`darkprune report`: every section comes from its data, and the page stands by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.pages import plots
from darkprune.pages.contents import PairFiles, find_original, read_contents
from darkprune.pages.measure import attention
from darkprune.runs.digests import digest_of_file
from tests.conftest import SmallPair
from tests.pages.page import Page

EVIL = "<script>alert(1)</script>"
drawn = pytest.mark.skipif(not plots.available(), reason="matplotlib is not installed")


@pytest.fixture
def slim(small_pair: SmallPair) -> Path:
    folder = small_pair.folder / "slim"
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two labelled images, a class and a file with names that would be markup."""
    folder = tmp_path / "set"
    folder.mkdir()
    random = np.random.default_rng(0)
    listed = []
    for name in ("a.png", "b&lt;.png"):
        cv2.imwrite(str(folder / name), random.integers(0, 255, (40, 60, 3), np.uint8))
        (folder / name).with_suffix(".txt").write_text("0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.2\n")
        listed.append(str(folder / name))
    (folder / "list.txt").write_text("\n".join(listed))
    (folder / "obj.names").write_text(f"{EVIL}\ndog\n")
    (folder / "obj.data").write_text(f"classes=2\nvalid={folder}/list.txt\nnames={folder}/obj.names\n")
    return folder / "obj.data"


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["report", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@drawn
def test_a_pruned_pair_in_full(slim: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    out = report(capsys, slim, "--data", data, "--runs", 2)
    assert out["warnings"] == []
    assert out["report"] == str(slim / "report.html")
    assert out["sections"] == [
        "Before and after", "mAP per class", "Precision, recall and confusion", "Sample images", "Latency", "Groups",
        "Coupled sets", "Batch-normalisation scales γ", "Spatial attention", "Commands and versions",
    ]  # fmt: skip
    assert [entry["what"] for entry in out["lacking"]] == ["loss and mAP curves"]
    raw = Path(out["report"]).read_bytes()
    page = Page(raw)
    assert EVIL in page.text  # as text
    assert EVIL.encode() not in raw  # never as markup
    assert "b&lt;.png" in page.text
    names = {path.name for path in Path(out["plots"]).iterdir()}
    assert {"classes.svg", "classes.png", "channels.svg", "gamma.png", "latency.svg", "confusion.svg"} <= names
    assert page.tags["table"] == len(set(page.tables)), "a table twice"
    assert page.text.count("labels: 2 objects") == 2
    assert (Path(out["plots"]) / "channels.png").read_bytes().startswith(b"\x89PNG")
    assert page.tags["img"] >= 4 + 2 * 3  # diagrams, and two images with labels and by two networks
    at_a_glance, figures = raw.index(b'class="overview"'), raw.index(b'id="classes"')
    assert at_a_glance < figures, "the channels before and after stand first"


def test_figures_are_those_of_the_result_and_commands_are_told(
    slim: Path, small_pair: SmallPair, capsys: pytest.CaptureFixture[str]
) -> None:
    out = report(capsys, slim, "--runs", 0)
    told = json.loads((slim / "report.json").read_text())
    share = 100 * (told["after"]["params"] / told["before"]["params"] - 1)
    page = Page.of(Path(out["report"]))
    assert f"{share:+.1f} %" in page.text
    assert f"darkprune prune {small_pair.cfg} {small_pair.weights} --ratio 0.5" in page.text
    assert {entry["what"] for entry in out["lacking"]} >= {"mAP per class", "latency", "sample images"}
    assert all(entry["how"].startswith("darkprune ") for entry in out["lacking"])
    assert out["bytes"] < 1_000_000
    assert "default-src 'none'" in (slim / "report.html").read_text()


def test_the_original_is_found_by_its_hash_only(slim: Path, small_pair: SmallPair) -> None:
    found = find_original(read_contents(slim))
    assert found is not None
    assert found.weights.samefile(small_pair.weights)
    weights = Path(small_pair.weights)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert find_original(read_contents(slim)) is None


def test_a_network_trained_after_a_cut_is_shown_beside_the_original(slim: Path, small_pair: SmallPair) -> None:
    """The cut lies in another folder; it is known by the digest of the cfg that the training began with."""
    tuned = slim.parent / "tuned"
    tuned.mkdir()
    (tuned / "log.csv").write_text("step,loss\n1,2.0\n2,1.0\n")
    shutil.copy(slim / "small.cfg", tuned)
    shutil.copy(slim / "small.weights", tuned / "small_final.weights")
    given = {"path": "../slim/small.cfg", "sha256": digest_of_file(slim / "small.cfg")}
    (tuned / "run.json").write_text(json.dumps({"inputs": {"cfg": given}}))
    contents = read_contents(tuned)
    assert contents.slim == PairFiles(tuned / "small.cfg", tuned / "small_final.weights")
    assert [cut.name for cut in contents.cuts] == ["slim"]
    found = find_original(contents)
    assert found is not None
    assert found.weights.samefile(small_pair.weights)
    (tuned / "run.json").write_text(json.dumps({"inputs": {"cfg": {**given, "sha256": "0" * 64}}}))
    assert read_contents(tuned).cuts == ()


def test_an_original_that_no_file_can_be_called_is_missing(slim: Path) -> None:
    recorded = json.loads((slim / "report.json").read_text())
    for kind in ("cfg", "weights"):
        recorded["inputs"][kind].update(name="moved", path="9" * 5000)
    (slim / "report.json").write_text(json.dumps(recorded))
    assert find_original(read_contents(slim)) is None


@drawn
def test_training_runs_and_gammas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "sparse"
    run.mkdir(parents=True)
    lines = ["step,loss,map50,rate", *(f"{n},{10 / n:.4f},{n / 50 if n % 10 == 0 else ''},0.001" for n in range(1, 41))]
    (run / "log.csv").write_text("\n".join(lines) + "\n")
    counts = np.random.default_rng(0).integers(0, 9, (4, 2, 100))
    np.savez(run / "gamma.npz", epochs=np.arange(4), edges=np.linspace(0, 2, 101), groups=["g1", "g2"], counts=counts)
    out = report(capsys, run.parent)
    assert {"Training", "Batch-normalisation scales γ"} <= set(out["sections"])
    text = Page.of(Path(out["report"])).text
    assert "40 steps" in text
    assert "best 80.00 % at step 40" in text


def test_sweeps_and_comparisons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = {"ratio": 0.1, "params": 10, "macs": 1000, "macs_removed": 0.2, "value": 0.5, "control": 0.4}
    sweep = {"metric": "mAP@0.5", "unpruned": 0.6, "pruned": [point], "control": [{**point, "macs": 2000}]}
    (tmp_path / "cliff.json").write_text(json.dumps(sweep))
    rows = [{"kind": "unpruned", "macs": 2000, "map50": 0.6}, {"method": EVIL, "macs": 1000, "map50": 0.5, "seeds": 1}]
    (tmp_path / "compare.json").write_text(json.dumps({"about": {"cfg": "y.cfg"}, "rows": rows}))
    out = report(capsys, tmp_path)
    assert out["sections"][:2] == ["Methods compared", "How far it can go"]
    assert EVIL in Page.of(Path(out["report"])).text


@pytest.mark.parametrize("name", ["cliff.json", "compare.json", "report.json", "manifest.json"])
@pytest.mark.parametrize("content", ["[1,2", "[]", '{"rows": 3, "stages": [1], "outputs": "x"}', '{"a": 1e999}', "\0"])
def test_whatever_lies_there_is_told_or_refused(
    name: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n1,2\n")
    (tmp_path / name).write_text(content)
    status = main(["report", str(tmp_path)])
    error = capsys.readouterr().err
    assert status in (0, 1)
    assert "Traceback" not in error
    if status == 0:
        Page.of(tmp_path / "report.html")


def test_names_in_a_report_do_not_lead_out_of_the_folder(slim: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads((slim / "report.json").read_text())
    told["outputs"]["plan"]["name"] = "../plan.json"
    (slim / "report.json").write_text(json.dumps(told))
    assert main(["report", str(slim)]) == 1
    assert "not a report of darkprune" in capsys.readouterr().err


def test_refuses_in_one_line(tmp_path: Path, slim: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, says in (
        ([tmp_path / "none"], 1, "no such folder"),
        ([tmp_path], 1, "holds no report.json"),
        ([slim, "--runs", "-1"], 2, "--runs"),
        ([slim, "--images", tmp_path / "none"], 1, "no such file or folder"),
        ([slim, "-o", slim / "plan.json"], 2, "exists"),
        ([slim, "-o", slim / "plan.json", "--overwrite"], 2, "is not an earlier report"),
        ([slim, "-o", slim, "--overwrite"], 2, "is not an earlier report"),
        ([slim, "--original", "builtin:scenes", "builtin:scenes"], 2, "the result of cutting another network"),
    ):
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        given = [empty if part == tmp_path and says.startswith("holds") else part for part in arguments]
        capsys.readouterr()
        assert main(["report", *map(str, given)]) == status
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert not (slim / "report.html").exists()


def test_without_matplotlib_the_tables_stay(
    slim: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    out = report(capsys, slim, "--runs", 0)
    text = Page.of(Path(out["report"])).text
    assert "matplotlib is not installed" in text
    assert "Before and after" in out["sections"]
    assert out["plots"] is None


def test_attention_is_where_the_squares_are() -> None:
    features = np.zeros((3, 2, 2), np.float32)
    features[:, 0, 1] = (1, -2, 2)
    features[0, 1, 0] = 3
    expected = np.array([[0, 9], [9, 0]]) / np.sqrt(162)
    np.testing.assert_allclose(attention(features), expected)
