"""`darkprune prune` with images, from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import write_images

from darkprune.cli.main import main
from darkprune.data.scenes import write_scenes
from darkprune.graph.weights import NetworkWeights, broken_tensors
from darkprune.runs.digests import digest_of_file
from tests.assets import open_pair


def prune(weights: NetworkWeights, output: Path, *more: object) -> int:
    pair = [weights.graph.cfg.source, str(weights.file.path)]
    return main(["prune", *pair, "-o", str(output), "--min-channels", "2", *map(str, more)])


def label(images: Path) -> Path:
    """Labels images with one box each."""
    for path in images.iterdir():
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    listed = images.parent / "labelled.txt"
    listed.write_text("\n".join(map(str, sorted(images.glob("*.png")))))
    return listed


def test_prune_refit_and_compare(
    weights: NetworkWeights, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = label(write_images(tmp_path / "labelled", 6, seed=5))
    output = tmp_path / "slim"
    more = ["--criterion", "sensitivity", "--images", images, "--target-macs", "0.9", "--recover", "lsq"]
    assert prune(weights, output, *more, "--data", data, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    report = json.loads((output / "report.json").read_text())
    recovery = report["recovery"]
    assert printed["recovery"] == recovery
    assert recovery["how"] == "lsq"
    assert (recovery["images"], recovery["held_out"], recovery["layers"]) == (24, 8, 6)
    assert recovery["distance_after"] < recovery["distance_before"]
    assert [row["name"] for row in report["comparison"]] == ["original", "pruned", "recovered"]  # 32 is the smallest
    assert all(row["map50"] is not None for row in report["comparison"] if row["name"] != "pruned")
    assert report["compensation"]["constant"] == "measured"
    assert report["outputs"]["weights"]["sha256"] == digest_of_file(output / "net.weights")
    with open_pair(output / "net.cfg", output / "net.weights") as slim:
        assert not broken_tensors(slim)
        assert abs(slim.graph.macs / weights.graph.macs - 0.9) < 0.01


def test_agreement_is_a_mean_over_the_inputs_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "scenes", train=48, valid=2)
    more = ["--images", str(tmp_path / "scenes" / "train"), "--target-macs", "0.8", "-o", str(tmp_path / "slim")]
    assert main(["prune", "builtin:scenes", "builtin:scenes", *more]) == 0
    rows = json.loads((tmp_path / "slim" / "report.json").read_text())["comparison"]
    original, pruned, control = (row["agreement"] for row in rows)
    assert 0.5 < original < 0.99  # at the control's size it finds other objects
    assert pruned < original
    assert control > 0.5
    assert "on average over its own input" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["bn", "none"])
def test_other_recoveries_of_a_replayed_plan(
    weights: NetworkWeights, images: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    assert prune(weights, plan, "--plan-only", "--ratio", "0.3", "--criterion", "sensitivity", "--images", images) == 0
    pair = [weights.graph.cfg.source, str(weights.file.path)]
    for output, more in (("plain", []), (how, ["--images", str(images), "--recover", how])):
        assert main(["prune", *pair, "-o", str(tmp_path / output), "--plan", str(plan), *more]) == 0
    text = capsys.readouterr().out
    assert "output distance" in text
    same = (tmp_path / "plain" / "net.weights").read_bytes() == (tmp_path / how / "net.weights").read_bytes()
    assert same == (how == "none")


@pytest.mark.parametrize("compensate", ["fold", "carrier"])
def test_a_cut_with_measured_constants_is_what_verify_expects(
    weights: NetworkWeights, images: Path, tmp_path: Path, compensate: str
) -> None:
    more = ["--ratio", "0.4", "--criterion", "sensitivity", "--images", images, "--compensate", compensate]
    assert prune(weights, tmp_path / "slim", *more) == 0
    slim = [str(tmp_path / "slim" / name) for name in ("net.cfg", "net.weights")]
    assert main(["verify", weights.graph.cfg.source, str(weights.file.path), *slim]) == 0


def test_units_and_carriers_are_recovered_too(weights: NetworkWeights, images: Path, tmp_path: Path) -> None:
    more = ["--units", 1, "--ratio", 0.2, "--compensate", "carrier", "--images", images, "--recover", "lsq"]
    assert prune(weights, tmp_path / "slim", *more) == 0
    recovery = json.loads((tmp_path / "slim" / "report.json").read_text())["recovery"]
    assert recovery["distance_after"] < recovery["distance_before"]


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--criterion", "sensitivity", "--ratio", "0.1"], 2, "--images DIR"),
        (["--recover", "lsq", "--ratio", "0.1"], 2, "--images DIR"),
        (["--recover", "bn", "--ratio", "0.1"], 2, "--images DIR"),
        (["--images", "/nowhere", "--ratio", "0.1"], 1, "no such file or folder"),
    ],
)
def test_wrong_use(
    weights: NetworkWeights,
    tmp_path: Path,
    more: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert prune(weights, tmp_path / "slim", *more) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "slim").exists()


def test_few_images_are_said_to_be_few(
    weights: NetworkWeights, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "000.png").write_bytes(b"x")
    assert prune(weights, tmp_path / "slim", "--ratio", "0.2", "--images", images) == 0
    said = capsys.readouterr().err
    assert "are few" in said
    assert "000.png" in said


def test_what_a_dense_checkpoint_needs_is_said(
    weights: NetworkWeights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(weights, tmp_path / "slim", "--ratio", "0.3") == 0
    assert "use darkprune compress CFG WEIGHTS --target-macs " in capsys.readouterr().err


def test_torch_is_not_imported_without_need(weights: NetworkWeights, tmp_path: Path) -> None:
    command = [
        "prune",
        weights.graph.cfg.source,
        str(weights.file.path),
        "-o",
        str(tmp_path / "slim"),
        "--ratio",
        "0.2",
    ]
    code = f"import sys; from darkprune.cli.main import main; main({command!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pair_that_nothing_was_removed_from_stays_as_it_is(
    weights: NetworkWeights, images: Path, tmp_path: Path
) -> None:
    assert prune(weights, tmp_path / "slim", "--ratio", "0", "--images", images, "--recover", "lsq") == 0
    with open_pair(tmp_path / "slim" / "net.cfg", tmp_path / "slim" / "net.weights") as slim:
        for layer in slim.graph:
            for blob in layer.stored:
                np.testing.assert_array_equal(slim.read(layer, blob.name), weights.read(layer, blob.name))
