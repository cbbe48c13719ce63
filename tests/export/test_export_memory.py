"""The memory that an export takes at its peak, as a whole process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.cli.main import main

ROOT = Path(__file__).parents[2]
#: runs a command and prints what the process took; the peak that `wait4` returns is that of pytest, where it took more
MEASURED = """
import sys
from pathlib import Path
from darkprune.cli.main import main
status = main(sys.argv[1:])
sys.stderr.write(Path("/proc/self/status").read_text())
sys.exit(status)
"""
TRIES = 3  #: the allocators of the libraries hold a few per cent more where other work delays their threads
MODEST = 150_000_000  #: bytes for everything but the weights: the libraries, and the maps of one image


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other ways")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_export_takes_little_more_than_the_weights(precision: str, tmp_path: Path) -> None:
    if pytest.importorskip("torch").version.cuda is not None:
        pytest.skip("the libraries of a torch for CUDA take 250 MB more; needs the one for processors")
    pytest.importorskip("onnxruntime")
    weights = tmp_path / "y.weights"
    assert main(["init", "builtin:yolov4", "-o", str(weights)]) == 0
    command = ["export", "builtin:yolov4", str(weights), "--size", "416", "-o", str(tmp_path / "y.onnx"), "--overwrite"]
    if precision == "int8":
        (tmp_path / "images").mkdir()
        cv2.imwrite(str(tmp_path / "images" / "a.png"), np.random.default_rng(0).integers(0, 256, (416, 416, 3), "u1"))
        command += ["--int8", "--calibrate", str(tmp_path / "images")]
    most = 1.3 * weights.stat().st_size + MODEST
    assert any(_peak(command) <= most for _ in range(TRIES))


def _peak(command: list[str]) -> int:
    """Returns the bytes that a successful command takes at its peak."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search("onnxruntime (agrees with|differs from) torch", done.stdout)
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)
    return int(peak) << 10
