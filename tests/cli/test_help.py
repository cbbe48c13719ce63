"""Help: commands by job, an example of each, lines that fit a terminal."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from importlib import import_module
from typing import Any

import pytest

from darkprune.api.prune import PruneSettings
from darkprune.cli.commands import COMMANDS, JOBS
from darkprune.cli.compression.demo import DemoSettings
from darkprune.cli.flags import add_flags, read_flags
from darkprune.cli.main import build_parser, main
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import totals
from darkprune.selection.budget import parse_budget
from darkprune.training.settings import TrainSettings
from darkprune.zoo import resolve

#: without them there is nothing to count
GIVEN_ALONE = {"--candidates", "--classes", "--limit", "--min-channels"}


def _help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_commands_are_listed_by_job(capsys: pytest.CaptureFixture[str]) -> None:
    shown = _help(capsys)
    assert shown.startswith("usage: darkprune COMMAND …\n")
    places = [shown.index(f"\n{job}:\n") for job in JOBS]
    assert places == sorted(places)
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        assert command.summary in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = _help(capsys, name)
    usage = shown.splitlines()[0]
    assert usage.startswith(f"usage: darkprune {name} ")
    assert len(usage) <= 100
    assert usage.endswith(" [options]")
    assert "None" not in usage
    assert "(default: " not in shown
    assert all(len(line) <= 80 or line.startswith("  darkprune ") for line in shown.splitlines()[1:])
    assert COMMANDS[name].examples
    for example in COMMANDS[name].examples:
        assert f"  darkprune {name} {example}".rstrip() in shown
        words = [name, *shlex.split(example)]
        assert build_parser(name).parse_args(words).command == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained(name: str) -> None:
    """A flag says what it takes, and what holds where it is not given; a line of help is no paragraph."""
    parser = ArgumentParser()
    import_module(f"darkprune.cli.{COMMANDS[name].module}").configure(parser)
    for action in parser._actions:
        flag = action.option_strings[-1] if action.option_strings else action.dest
        assert action.help, flag
        assert len(action.help) <= 300, flag
        if action.nargs != 0 and action.choices is None:
            assert action.metavar not in (None, "TEXT"), flag
        if action.metavar in ("N", "X", "PART") and not action.required:
            group = next(group.title for group in parser._action_groups if action in group._group_actions)
            assert "(default " in action.help or flag in GIVEN_ALONE or "cfg" in str(group), flag


@pytest.mark.parametrize("written", ["50%", "0.5"])
def test_a_fraction_may_be_written_in_percent(written: str) -> None:
    kinds: tuple[tuple[type[Any], str], ...] = (
        (PruneSettings, "ratio"), (TrainSettings, "prune-to"), (DemoSettings, "ratio")
    )  # fmt: skip
    for kind, flag in kinds:
        parser = ArgumentParser()
        add_flags(parser, kind)
        settings = read_flags(kind, parser.parse_args([f"--{flag}", written]))
        assert getattr(settings, flag.replace("-", "_")) == 0.5
    before = totals(read_graph(resolve("builtin:scenes")))
    assert parse_budget("macs", written, before).target == pytest.approx(before.macs / 2, abs=1)


def test_one_name_for_what_goes_and_one_for_what_stays() -> None:
    flags = set()
    for command in COMMANDS.values():
        parser = ArgumentParser()
        import_module(f"darkprune.cli.{command.module}").configure(parser)
        flags |= {flag for action in parser._actions for flag in action.option_strings}
    amounts = {flag for flag in flags if re.search("-ratio|-target-", flag)}
    assert amounts == {
        "--ratio", "--ratios", "--unit-ratio", "--target-macs", "--target-params", "--target-size", "--target-latency",
    }  # fmt: skip


def test_usage_has_the_order_of_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert _help(capsys, "train").startswith("usage: darkprune train CFG [WEIGHTS] --data F -o DIR [options]\n")
