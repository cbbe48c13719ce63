"""The log, and what is drawn from it."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprune.errors import TrainingError
from darkprune.training.records.curves import draw_curves, save_figure
from darkprune.training.records.log import Log, read_curves, read_rows
from darkprune.training.sparsity.gammas import GammaRecord, gamma_figure, read_gammas


def test_rows_behind_the_state_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = Log(path, ("loss", "map50"), 0)
    for step in range(1, 6):
        log.add(step, {"loss": step / 3, "map50": 0.5 if step == 4 else None})
    log.sync()
    log.close()
    with path.open("a") as file:
        file.write("6,0.")  # a row that was being written
    assert [row["step"] for row in read_rows(path)] == ["1", "2", "3", "4", "5"]
    log = Log(path, ("loss", "map50"), 3)
    log.add(4, {"loss": 9.0})
    log.close()
    curves = read_curves(path)
    assert list(curves["loss"].steps) == [1, 2, 3, 4]
    assert list(curves["loss"].values) == [0.3333333, 0.6666667, 1.0, 9.0]
    assert not curves["map50"].values


def test_other_columns_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    Log(path, ("loss",), 0).add(1, {"loss": 1.0})
    log = Log(path, ("loss",), 0)
    log.add(1, {"loss": 1.0})
    log.close()
    with pytest.raises(TrainingError, match="other columns"):
        Log(path, ("loss", "more"), 1)
    path.write_text("something else\n")
    assert read_curves(path) == {}


def test_a_column_named_twice_makes_no_table(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,step,loss\n1,0.1,2.5\n")
    assert read_curves(tmp_path / "log.csv") == {}


def test_curves_are_pictures(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.csv", ("loss", "map50", "rate"), 0)
    for step in range(1, 401):
        log.add(step, {"loss": 100 / step, "map50": step / 400 if step % 50 == 0 else None})
    log.close()
    target = tmp_path / "curves.png"
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path / "log.csv", target, ("loss", "map50", "rate"))
    assert target.read_bytes().startswith(b"\x89PNG")
    history = GammaRecord.empty(("g1", "g2"))
    for epoch in range(1, 4):
        history = history.with_epoch(epoch, [np.linspace(0, 3, 50, dtype=np.float32) / epoch, np.zeros(0, np.float32)])
    assert history.counts[0].sum(axis=1).tolist() == [50, 0]
    save_figure(gamma_figure(history), tmp_path / "gamma.png")
    assert (tmp_path / "gamma.png").read_bytes().startswith(b"\x89PNG")
    history.write(tmp_path / "gamma.npz")
    with pytest.raises(ValueError, match="sizes do not fit"):
        replace(history, counts=history.counts[0]).check()
    with pytest.raises(ValueError, match="counts make no sense"):
        replace(history, counts=-1 - history.counts).check()
    again = read_gammas(tmp_path / "gamma.npz")
    assert again.groups == history.groups
    np.testing.assert_array_equal(again.counts, history.counts)


def test_runs_without_the_programs_that_draw_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keywords: Any) -> Any:
        if name.startswith(("matplotlib", "torch.utils.tensorboard")):
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    log = Log(tmp_path / "log.csv", ("loss",), 0, tmp_path / "events")
    log.add(1, {"loss": 1.0})
    log.close()
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png", ("loss",))
    assert not (tmp_path / "curves.png").exists()
    assert not (tmp_path / "events").exists()
