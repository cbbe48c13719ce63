"""Commands made of commands: one is called in this process, and its JSON comes back."""

from __future__ import annotations

import json
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, NoReturn

from darkprune.cli.console import INTERRUPTED
from darkprune.cli.flags import read_flags
from darkprune.compression.settings import Flag
from darkprune.errors import DarkpruneError, UsageError
from darkprune.training.settings import DistillSettings, TrainSettings


class _Parser(ArgumentParser):
    """Says what is wrong as an error like any other."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def parser_of(command: str) -> ArgumentParser:
    """Returns the arguments of a command."""
    parser = _Parser(prog=f"darkprune {command}")
    import_module(f"darkprune.cli.{command}").configure(parser)
    return parser


def flags_of(command: str) -> dict[str, Flag]:
    """Returns a command's long flags without their dashes."""
    found = {}
    for action in parser_of(command)._actions:
        names = [name for name in action.option_strings if name.startswith("--")]
        if names and action.help != SUPPRESS:
            repeated = type(action).__name__ == "_AppendAction"
            found[names[0][2:]] = Flag(action.nargs == 0, isinstance(action, BooleanOptionalAction), repeated)
    return found


def check(command: str, arguments: Sequence[str]) -> Namespace:
    """Checks a command line without carrying it out, and returns what it says.

    Raises:
        UsageError: the command does not take it.
    """
    args = parser_of(command).parse_args(list(arguments))
    settings = {"train": TrainSettings, "distill": DistillSettings}.get(command)
    if settings is not None:
        read_flags(settings, args)
    return args


def call(command: str, arguments: Sequence[str], quiet: bool) -> dict[str, Any]:
    """Carries out a command as its own command line would; progress goes to stderr as ever.

    Args:
        command: its name.
        arguments: what stands behind it, without `--json`.
        quiet: show no progress where stderr is no terminal.

    Returns:
        What it prints with `--json`.

    Raises:
        DarkpruneError: it failed.
        KeyboardInterrupt: it was interrupted.
    """
    args = parser_of(command).parse_args([*arguments, "--json"])
    args.quiet = quiet
    heard = StringIO()
    with redirect_stdout(heard):
        status: int = import_module(f"darkprune.cli.{command}").run(args)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise DarkpruneError(f"darkprune {command} failed; run it by itself to see why")
    found: dict[str, Any] = json.loads(heard.getvalue())
    return found
