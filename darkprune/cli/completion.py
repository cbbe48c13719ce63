"""`darkprune completion`: prints a script with which a shell completes commands, flags and their values."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from darkprune.cli.commands import COMMANDS

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Flag:
    """A flag of a command.

    Attributes:
        name: with its dashes.
        values: those that there are, where there are only some.
        takes_value: whether it is followed by a value.
        help: its line of `--help`.
    """

    name: str
    values: tuple[str, ...]
    takes_value: bool
    help: str


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(args: Namespace) -> int:
    """Prints the script."""
    flags = {name: _flags_of(command.module) for name, command in COMMANDS.items()}
    print(_fish(flags) if args.shell == "fish" else _bash(flags, zsh=args.shell == "zsh"), end="")
    return 0


def _flags_of(module: str) -> list[Flag]:
    parser = ArgumentParser()
    import_module(f"darkprune.cli.{module}").configure(parser)
    found = []
    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        values = metavar.strip("{}").split(",") if metavar.startswith("{") else []
        for name in action.option_strings:
            if name.startswith("--"):
                found.append(Flag(name, tuple(values), action.nargs != 0, (action.help or "").replace("%%", "%")))
    return found


def _bash(flags: Mapping[str, Sequence[Flag]], zsh: bool) -> str:
    values = [
        f'    "{command} {flag.name}") words={shlex.quote(" ".join(flag.values))} ;;'
        for command, own in flags.items()
        for flag in own
        if flag.values
    ]
    names = [
        f"      {command}) words={shlex.quote(' '.join(flag.name for flag in own))} ;;"
        for command, own in flags.items()
    ]
    return "\n".join(
        [
            *(["autoload -U +X bashcompinit && bashcompinit"] if zsh else []),
            "_darkprune() {",
            '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            '  case "${COMP_WORDS[1]} $previous" in',
            *values,
            '    *) case "${COMP_WORDS[1]}" in',
            *names,
            "    esac",
            '    [[ "$current" == -* ]] || words="" ;;',
            "  esac",
            f'  [[ "$COMP_CWORD" == 1 ]] && words={shlex.quote(" ".join(flags))}',
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _darkprune darkprune",
            "",
        ]
    )


def _fish(flags: Mapping[str, Sequence[Flag]]) -> str:
    lines = [
        f"complete -c darkprune -f -n __fish_use_subcommand -a {name} -d {shlex.quote(COMMANDS[name].summary)}"
        for name in flags
    ]
    for command, own in flags.items():
        for flag in own:
            line = f"complete -c darkprune -n '__fish_seen_subcommand_from {command}' -l {flag.name[2:]}"
            if flag.values:
                line += f" -x -a {shlex.quote(' '.join(flag.values))}"
            elif flag.takes_value:
                line += " -r"
            lines.append(f"{line} -d {shlex.quote(flag.help)}")
    return "\n".join(lines) + "\n"
