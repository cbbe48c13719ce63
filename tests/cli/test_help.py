"""Help: commands by job, an example of each, lines that fit a terminal."""

from __future__ import annotations

import shlex

import pytest

from darkprune.cli.commands import COMMANDS, JOBS
from darkprune.cli.main import build_parser, main


def _help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_commands_are_listed_by_job(capsys: pytest.CaptureFixture[str]) -> None:
    shown = _help(capsys)
    places = [shown.index(f"\n{job}:\n") for job in JOBS]
    assert places == sorted(places)
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        assert command.summary in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = _help(capsys, name)
    assert len(shown.split("\n\n")[0].splitlines()) <= 2, "the usage is one line, or two"
    assert COMMANDS[name].examples
    for example in COMMANDS[name].examples:
        assert f"  darkprune {name} {example}".rstrip() in shown
        words = [name, *shlex.split(example)]
        assert build_parser(name).parse_args(words).command == name
