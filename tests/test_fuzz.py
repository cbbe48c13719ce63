"""Damaged files: what `tools/fuzz.py` gives to every reader in two minutes, and inputs that once escaped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def readers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import fuzz  # type: ignore[import-not-found]

    return dict(fuzz.READERS)


def test_good_files_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the undamaged file is refused already, damage is found by nobody."""
    pytest.importorskip("torch")
    for name, make in readers(monkeypatch).items():
        reader = make()
        for number, content in enumerate(reader.good):
            folder = tmp_path / f"{name}{number}"
            folder.mkdir()
            (folder / reader.file).write_bytes(content)
            shown = list(reader.read(folder / reader.file) or ())
            assert shown == [] or name == "list" or name.startswith("run"), name


def test_a_seed_decides_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    make = readers(monkeypatch)["cfg"]
    first, second = make(), make()
    inputs = [first.input(3, number) for number in range(40)]
    assert inputs == [second.input(3, number) for number in range(40)]
    assert len(set(inputs)) > 35
    assert inputs != [first.input(4, number) for number in range(40)]
