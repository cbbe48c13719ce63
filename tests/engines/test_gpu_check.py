"""tools/gpu_check.py against the fakes: what it builds, compares and times; and on a machine without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import Machine

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "tools").exists(), reason="the tools are not part of the source distribution"),
]


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import gpu_check

    return gpu_check


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str) -> tuple[int, dict[str, list]]:
    report = tmp_path / "report.json"
    arguments = ["gpu_check.py", "--networks", "scenes", "--size", "64", "--json", str(report), *more]
    monkeypatch.setattr(sys, "argv", arguments)
    return tool.main(), json.loads(report.read_text())


@pytest.mark.parametrize("generation", ["10.13", "11"])
def test_engines_side_by_side(
    generation: str, machine: Machine, gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install(generation)
    monkeypatch.setattr(gpu_check.Check, "training", lambda self, device: {"images_per_second": 10.0, "waiting": 0.1})
    status, report = run(gpu_check, monkeypatch, tmp_path)
    assert [row["failure"] for row in report["rows"]] == [""] * 9
    assert status == 0
    assert {(row["variant"], row["precision"]) for row in report["rows"]} == {
        (variant, precision) for variant in ("plain", "pruned", "rounded") for precision in ("fp32", "fp16", "int8")
    }
    for row in report["rows"]:
        assert row["milliseconds"] > 0
        assert row["deviation"] < 1e-5
        assert (row["share"] is None) == (row["variant"] == "plain")


def test_time_that_runs_out_is_said(
    machine: Machine, gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install("11")
    monkeypatch.setattr(gpu_check.Check, "training", lambda self, device: {"images_per_second": 10.0, "waiting": 0.1})
    status, report = run(gpu_check, monkeypatch, tmp_path, "--minutes", "0")
    assert status == 0
    assert report["rows"] == []
    assert len(report["left_out"]) == 9


def test_without_a_gpu(
    machine: Machine, gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    machine.remove()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, report = run(gpu_check, monkeypatch, tmp_path)
    assert status == 1
    assert len(report["rows"]) == 9
    training, engines = capsys.readouterr().err.splitlines()
    assert training.startswith("no training step: ")
    assert engines.startswith("no engine was run: tensorrt: Python cannot import it")


def test_training_on_a_processor(
    machine: Machine, gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.remove()
    monkeypatch.setattr(gpu_check, "TRAINED", "scenes")
    _, report = run(gpu_check, monkeypatch, tmp_path, "--minutes", "0", "--device", "cpu")
    assert report["rows"] == []
    assert report["training"]["images_per_second"] > 0
    assert 0 <= report["training"]["waiting"] < 1
