"""Scripts for a shell's completion name every command, every flag, and the values that there are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from darkprune.cli.commands import COMMANDS
from darkprune.cli.main import main


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_flags_and_values(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for name in COMMANDS:
        assert name in text
    dashes = "" if shell == "fish" else "--"
    assert f"{dashes}round-to" in text
    assert "vote any all mean max" in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["darkprune", "ver"], ["verify"]),
        (["darkprune", "prune", "--round"], ["--round-to", "--rounds"]),
        (["darkprune", "prune", "x.cfg", "--merge", "m"], ["mean", "max"]),
        (["darkprune", "prune", "x"], []),  # left to the shell: a file
    ],
)
def test_bash_completes(
    words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "completion.bash"
    quoted = " ".join(f"'{word}'" for word in words)
    path.write_text(
        script("bash", capsys) + f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _darkprune\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(expected)
