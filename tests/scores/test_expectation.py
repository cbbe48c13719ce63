"""What `prune` says before a cut that nothing repairs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import darkprune as dp
from darkprune.cli.main import main
from darkprune.darknet.weights import Header
from darkprune.data.scenes import write_scenes
from darkprune.graph.weights import NetworkWriter
from darkprune.search.expectation import signal_left
from tests.assets import CHECKPOINTS, needs_assets

SCENES = ("builtin:scenes", "builtin:scenes")


def rewrite(folder: Path, seen: int = 1000, sparse: bool = False) -> tuple[str, str]:
    """Writes the checkpoint that comes along with another header, or with γ near 0 for half of the channels."""
    pair = dp.load(*SCENES)
    path = folder / "net.weights"
    with pair.open() as weights, path.open("wb") as file:
        writer = NetworkWriter(pair.graph, file, Header(seen=seen))
        for layer in pair.graph:
            for blob in layer.stored:
                values = np.array(weights.read(layer, blob.name))
                if sparse and blob.name == "scales":
                    values[: len(values) // 2] *= 1e-4
                writer.write(layer, blob.name, values)
        writer.finish()
    return str(pair.cfg), str(path)


def prune(pair: tuple[str, str], output: Path, *more: object) -> int:
    return main(["prune", *pair, "-o", str(output), "--min-channels", "2", *map(str, more)])


def test_a_hopeless_cut_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = rewrite(tmp_path)
    assert prune(pair, tmp_path / "slim", "--ratio", "0.4") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "net.weights was not trained for pruning" in line
    assert "it will detect nothing" in line
    assert "use darkprune compress CFG WEIGHTS --target-macs 0.3" in line
    assert line.endswith(" --images DIR -o RUN, or --force")
    assert len(line) < 220
    assert not (tmp_path / "slim").exists()
    assert prune(pair, tmp_path / "plan.json", "--ratio", "0.4", "--plan-only") == 0
    assert prune(pair, tmp_path / "slim", "--ratio", "0.4", "--force") == 0
    assert "it will detect nothing" in capsys.readouterr().err.splitlines()[0]
    assert main(["prune", *pair, "--plan", str(tmp_path / "plan.json"), "-o", str(tmp_path / "replayed")]) == 0
    for name in ("scenes.cfg", "scenes.weights", "plan.json"):
        assert (tmp_path / "slim" / name).read_bytes() == (tmp_path / "replayed" / name).read_bytes()


@pytest.mark.parametrize(("ratio", "outcome"), [(0.02, "less"), (0.1, "little")])
def test_a_smaller_cut_is_only_warned_of(
    ratio: float, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(SCENES, tmp_path / "slim", "--ratio", ratio) == 0
    assert f"it will detect {outcome}: use darkprune compress" in capsys.readouterr().err.splitlines()[0]


def test_sparse_and_fresh_networks_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(rewrite(tmp_path, sparse=True), tmp_path / "sparse", "--ratio", "0.4") == 0
    assert "not trained" not in capsys.readouterr().err
    assert prune(rewrite(tmp_path, seen=0), tmp_path / "fresh", "--ratio", "0.4") == 0
    assert "not trained" in capsys.readouterr().err


def test_the_signal_that_is_left(tmp_path: Path) -> None:
    pair = dp.load(*SCENES)

    def left(**settings: Any) -> float:
        surgery = dp.prune(pair, dp.PruneSettings(force=True, min_channels=2, **settings))
        found = signal_left(surgery)
        surgery.close()
        return found

    assert left(ratio=0.0) == 1
    falling = [left(ratio=ratio) for ratio in (0.02, 0.05, 0.1, 0.2, 0.4)]
    assert falling == sorted(falling, reverse=True)
    assert 0.7 < falling[0] < 1
    assert falling[-1] < 1e-4
    # a channel that others stand for is not lost
    replaced = left(similarity=0.95, ratio=0.02)
    assert replaced >= falling[0] - 1e-9


def test_auto_takes_gamma_only_where_it_is_sparse(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_scenes(tmp_path / "scenes", 6, 2)
    more = ("--ratio", "0.2", "--images", tmp_path / "scenes" / "train", "--plan-only")
    for sparse, criterion in ((True, "bn_gamma"), (False, "sensitivity")):
        output = tmp_path / f"{criterion}.json"
        assert prune(rewrite(tmp_path, sparse=sparse), output, *more) == 0
        assert json.loads(output.read_text())["settings"]["criterion"] == criterion


@needs_assets
@pytest.mark.parametrize("name", ["yolov3-tiny_coco", "yolo-fastest-1.1-xl_coco", "MobileNetV2-YOLOv3-Nano_voc"])
def test_published_checkpoints_are_not_cut_to_nothing(name: str, tmp_path: Path) -> None:
    pair = (str(CHECKPOINTS / name / f"{name}.cfg"), str(CHECKPOINTS / name / f"{name}.weights"))
    assert prune(pair, tmp_path / "slim", "--ratio", "0.4") == 1
    assert prune(pair, tmp_path / "slim", "--ratio", "0.01") == 0
