"""The memory that an export takes at its peak, as a whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from darkprune.cli.main import main

ROOT = Path(__file__).parents[2]
MODEST = 150_000_000  #: bytes for everything but the weights: the libraries, and the maps of one image


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other ways")
def test_an_export_takes_little_more_than_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    weights = tmp_path / "y.weights"
    assert main(["init", "builtin:yolov4", "-o", str(weights)]) == 0
    command = ["export", "builtin:yolov4", str(weights), "--size", "416", "-o", str(tmp_path / "y.onnx")]
    process = subprocess.Popen([sys.executable, "-m", "darkprune", *command], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"onnxruntime agrees with torch" in process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss << 10 <= 1.3 * weights.stat().st_size + MODEST
