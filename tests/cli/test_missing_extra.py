"""A missing extra is named in one line."""

from __future__ import annotations

import sys

import pytest

from darkprune.cli.main import main


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name in ("darkprune.training.tasks", "darkprune.training.run")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["train", "builtin:scenes", "--data", "x", "-o", "y"]) == 1
    told = capsys.readouterr().err
    assert "pip install 'darkprune[train]'" in told
    assert len(told.splitlines()) == 1
