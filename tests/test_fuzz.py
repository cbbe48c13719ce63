"""Damaged files: what `tools/fuzz.py` gives to every reader in two minutes, and inputs that once escaped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.assets import ABSENT, ASSETS

ROOT = Path(__file__).parents[1]
CASES = ASSETS.parent / "cases" / "fuzz"


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("torch")
    command = [sys.executable, str(ROOT / "tools" / "fuzz.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_nothing_escapes(tmp_path: Path) -> None:
    done = fuzz("--seconds", 90, "-o", tmp_path / "escaped")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nrun tools/fuzz.py with -o to keep these inputs"


@pytest.mark.slow
@pytest.mark.skipif(not CASES.is_dir(), reason=ABSENT)
def test_what_escaped_once_does_not_again() -> None:
    done = fuzz("--replay", *sorted(CASES.iterdir()))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_decides_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from fuzz_readers import READERS  # type: ignore[import-not-found]

    first, second = READERS["cfg"](), READERS["cfg"]()
    inputs = [first.input(3, number) for number in range(40)]
    assert inputs == [second.input(3, number) for number in range(40)]
    assert len(set(inputs)) > 35
    assert inputs != [first.input(4, number) for number in range(40)]
