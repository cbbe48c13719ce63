"""The demo: what it leaves, with PyTorch and without."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from darkprune.cli.compression import demo
from darkprune.cli.main import build_parser, main
from darkprune.training.result import TrainResult


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "VALID_IMAGES", 12)
    monkeypatch.setattr(demo, "QUICK", demo.Size(16, 0.1, 2))


def shown_commands(output: str) -> list[list[str]]:
    return [shlex.split(line)[2:] for line in output.splitlines() if line.startswith("$ darkprune ")]


@pytest.mark.slow
def test_with_pytorch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["demo", "-o", str(tmp_path / "demo"), "--json"]) == 0
    out, err = capsys.readouterr()
    networks = json.loads(out)["networks"]
    assert [network["name"] for network in networks] == ["as it comes", "pruned", "distilled"]
    assert networks[1]["macs"] == networks[2]["macs"] < networks[0]["macs"]
    commands = shown_commands(err)
    assert [words[0] for words in commands] == [
        "eval", "prune", "verify", "eval", "distill", "eval", "detect", "detect", "report"
    ]  # fmt: skip
    for words in commands:
        build_parser(words[0]).parse_args(words)
    for folder in ("before", "after"):
        assert len(list((tmp_path / "demo" / folder).iterdir())) == 12


def test_without_pytorch(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    def missing(name: str, *more: Any) -> Any:
        return None if name == "torch" else find_spec(name, *more)

    monkeypatch.setattr(demo, "find_spec", missing)
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0
    out, err = capsys.readouterr()
    assert [words[0] for words in shown_commands(out)] == [
        "eval", "prune", "verify", "eval", "detect", "detect", "report"
    ]  # fmt: skip
    assert f"report: {tmp_path / 'demo' / 'report.html'}" in out
    assert (tmp_path / "demo" / "report.html").is_file()
    assert "not distilled: PyTorch is not installed (pip install 'darkprune[train]')" in err
    assert "before" in {path.name for path in (tmp_path / "demo").iterdir()}


@pytest.mark.slow
def test_an_interrupted_training_ends_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    distill = demo.distill

    def interrupted(*arguments: Any) -> TrainResult:
        return replace(distill(*arguments), stopped=True, weights={})

    monkeypatch.setattr(demo, "distill", interrupted)
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 130
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "demo keeps what is done; with --overwrite the demo begins anew" in err
