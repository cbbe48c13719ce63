"""`builtin:NAME` stands for a network or a checkpoint that comes with darkprune, in every command that takes a pair."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.cli.main import main

SCENES = ("builtin:scenes", "builtin:scenes")
NOTHING = ("builtin:scenes", "builtin:nothing")
CALLS = {
    "info": (*NOTHING,),
    "prune": (*NOTHING, "--ratio", "0.3", "-o", "out"),
    "verify": (*SCENES, *NOTHING),
    "detect": (*NOTHING, "pictures"),
    "eval": (*NOTHING, "--data", "set.data"),
    "bench": (*SCENES, "--against", *NOTHING),
    "cliff": (*NOTHING, "--images", "pictures", "-o", "out"),
    "train": (*NOTHING, "--data", "set.data", "--iterations", "1", "-o", "out"),
    "distill": (*SCENES, *NOTHING, "--data", "set.data", "--iterations", "1", "-o", "out"),
    "export": (*NOTHING, "-o", "out.onnx"),
    "kit": (*NOTHING, "--target", "orin", "-o", "out"),
}


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    cv2.imwrite("pictures/a.png", np.zeros((32, 32, 3), np.uint8))
    Path("pictures/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    Path("list.txt").write_text("pictures/a.png\n")
    Path("set.data").write_text("classes=1\ntrain=list.txt\nvalid=list.txt\n")


@pytest.mark.parametrize("command", CALLS)
def test_every_command_looks_for_checkpoints_among_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *CALLS[command]]) == 1
    assert "builtin:nothing: darkprune brings no such .weights; it brings scenes" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_pair_of_its_own_is_pruned_and_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *SCENES, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["weights"]["bytes"] == data["weights_bytes"]
    assert main(["prune", *SCENES, "--ratio", "0.05", "-o", "slim"]) == 0
    assert main(["verify", *SCENES, "slim/scenes.cfg", "slim/scenes.weights", "--runner", "opencv"]) == 0
    assert main(["detect", *SCENES, "pictures", "-o", "found"]) == 0
    assert main(["export", *SCENES, "-o", "scenes.onnx"]) == 0


def test_waiting_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would spin, and on a busy machine an image took fifty times as long."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert main(["info", "builtin:scenes"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
