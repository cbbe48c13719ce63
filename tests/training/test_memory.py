"""How much memory is free within the limits of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from darkprune.training.loop import memory  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of version 2, of which the process is in /user/run."""
    (tmp_path / "user" / "run").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/user/run\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "own")
    return tmp_path


def limit(folder: Path, most: str, used: int, cached: int = 0) -> None:
    for name, text in (("max", most), ("current", str(used)), ("stat", f"anon 5\ninactive_file {cached}\n")):
        (folder / f"memory.{name}").write_text(text)


def test_the_tightest_control_group_counts(groups: Path) -> None:
    unlimited = memory.free_memory(CPU)
    assert unlimited is not None
    limit(groups / "user" / "run", "max", 100)
    assert memory.free_memory(CPU) == pytest.approx(unlimited, rel=0.2)
    limit(groups / "user", "300000", 100_000)
    assert memory.free_memory(CPU) == 200_000
    limit(groups / "user" / "run", "150000", 100_000, cached=60_000)  # files that were read are no use
    assert memory.free_memory(CPU) == 110_000
    limit(groups, "50000", 60_000)
    assert memory.free_memory(CPU) == 0


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_shell_count(kind: str) -> None:
    code = (
        "import resource, torch\n"
        "from darkprune.training.loop.memory import free_memory\n"
        f"resource.setrlimit(resource.{kind}, (8 << 30, 8 << 30))\n"
        "first = free_memory(torch.device('cpu'))\n"
        "held = torch.ones(1 << 27)\n"
        "print(first, free_memory(torch.device('cpu')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    assert first < 8 << 30
    assert second <= first - (1 << 29)
