"""Sessions of onnxruntime: what goes wrong is one line, and nothing of its own reaches the terminal."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from darkprune.errors import RunnerError
from darkprune.onnx import session as opening
from darkprune.onnx.session import OnnxSession, is_installed, silenced
from tests.engines.models import OUTPUTS, SIZE, network


def test_runs_what_was_asked_for() -> None:
    session = OnnxSession(network(batch=2))
    assert (session.input, session.batch, session.outputs) == ("input", 2, list(OUTPUTS))
    images = np.random.default_rng(0).random((2, 3, SIZE, SIZE))
    whole = session.run(images)
    assert list(whole) == list(OUTPUTS)
    one = session.run(images, OUTPUTS[1:])
    assert list(one) == [OUTPUTS[1]]
    assert (one[OUTPUTS[1]] == whole[OUTPUTS[1]]).all()


def test_open_batch_and_half_input() -> None:
    assert OnnxSession(network(batch="n")).batch is None
    outputs = OnnxSession(network(half=True)).run(np.zeros((1, 3, SIZE, SIZE), np.float32))
    assert {values.dtype for values in outputs.values()} == {np.dtype(np.float16)}


def test_failures_are_one_line_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    inside = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n"])
    outside = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 3])
    graph = helper.make_graph([node], "g", [inside], [outside], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(RunnerError, match="onnxruntime cannot run net") as error:
        OnnxSession(model, "net").run(np.zeros((1, 4)))
    assert "\n" not in str(error.value)
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(RunnerError, match=r"onnxruntime refuses .*x\.onnx: "):
        OnnxSession(tmp_path / "x.onnx")
    assert capfd.readouterr() == ("", "")


def test_silenced_restores_what_it_found(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with silenced():
        print("steps")
        logging.warning("odd")
    print("after")
    logging.warning("heard")
    assert capsys.readouterr().out == "after\n"
    assert [record.message for record in caplog.records] == ["heard"]


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not is_installed()
    with pytest.raises(RunnerError, match=r"not installed: pip install 'darkprune\[export\]'"):
        OnnxSession(network())


def test_a_calibrated_export_prints_json_and_nothing_else(tmp_path: Path) -> None:
    cfg = "[net]\nwidth=32\nheight=32\nchannels=3\n" + 3 * (
        "\n[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n"
    )
    (tmp_path / "x.cfg").write_text(cfg, encoding="utf-8")
    (tmp_path / "images").mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 255, (32, 32, 3))
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)

    def darkprune(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "darkprune", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    darkprune("init", "x.cfg", "-o", "x.weights")
    how = ["--int8", "--calibrate", "images", "--calibration-method", "entropy", "--json"]
    done = darkprune("export", "x.cfg", "x.weights", "-o", "x.onnx", *how)
    assert json.loads(done.stdout)["precision"] == "int8"
    shown = [line.removeprefix("warning: ") for line in done.stderr.splitlines()]
    assert shown == json.loads(done.stdout)["warnings"]  # nothing of onnxruntime's own
    assert onnx.load(str(tmp_path / "x.onnx")).graph.node


def test_a_damaged_installation_is_not_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("initialization failed")

    monkeypatch.setattr(opening, "import_module", fail)
    monkeypatch.setattr(opening, "is_installed", lambda: True)
    with pytest.raises(RunnerError, match=r"onnxruntime cannot be imported \(initialization failed\)"):
        opening.onnxruntime()
    monkeypatch.setattr(opening, "is_installed", lambda: False)
    with pytest.raises(RunnerError, match="is not installed"):
        opening.onnxruntime()
