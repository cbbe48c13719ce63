"""Warnings: the same way in every command, on stderr after the result, and with `--json` in the object too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from darkprune.cli.main import main
from tests.assets import CASES, needs_cases

ODD = "anchors= has 7 numbers, but num=6 needs 12"
LABELS = CASES / "data-ok"
#: command lines; PAIR is a network whose anchors miss a comma
COMMANDS = {
    "info": "PAIR",
    "groups": "CFG",
    "init": "CFG -o OUT.weights",
    "partial": "PAIR --layers 2 -o OUT",
    "prune": "PAIR --ratio 0.1 -o OUT",
    "detect": "PAIR IMAGES/0.jpg",
    "eval": "PAIR --data DATA",
    "bench": "PAIR --runs 2",
    "cliff": "PAIR --data DATA --ratios 0.1 -o OUT",
    "compare": "PAIR --data DATA --methods slimming --budgets 0.8 --recoveries none -o OUT",
    "compress": "PAIR --target-macs 0.8 -o OUT --dry-run",
    "factorize": "PAIR --target-macs 0.9 --images IMAGES -o OUT",
    "export": "PAIR -o OUT.onnx",
    "kit": "PAIR --target orin --names NAMES -o OUT",
}

pytestmark = needs_cases


@pytest.mark.parametrize("command", COMMANDS)
def test_warnings_follow_the_result(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = CASES / "cfg-anchors-nocomma" / "net.cfg"
    words = COMMANDS[command].replace("PAIR", f"CFG {CASES}/_base/mini.weights").replace("CFG", str(cfg))
    words = words.replace("DATA", f"{LABELS}/obj.data").replace("IMAGES", f"{LABELS}/obj")
    words = words.replace("NAMES", f"{LABELS}/obj.names").replace("OUT", str(tmp_path / "out"))
    assert main([command, *words.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    warnings = json.loads(out)["warnings"]
    assert sum(ODD in message for message in warnings) == 1
    shown = [line.removeprefix("warning: ") for line in err.splitlines() if line.startswith("warning: ")]
    assert shown == warnings


def test_warnings_stand_below_the_text_where_both_go_to_one_file() -> None:
    words = [sys.executable, "-m", "darkprune", "groups", str(CASES / "cfg-anchors-nocomma" / "net.cfg")]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("group ")
    assert [line.startswith("warning: ") for line in lines] == [False] * (len(lines) - 1) + [True]
