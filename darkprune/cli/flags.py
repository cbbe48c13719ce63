"""Command-line flags of a settings class: added to a parser, and read back as settings."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace, _MutuallyExclusiveGroup
from collections.abc import Callable
from typing import Any, TypeVar

from darkprune.cli.console import add_json, add_pair
from darkprune.settings import Declared, declared

_T = TypeVar("_T")
LONGEST_CHOICES = 66  #: characters of all values of a flag in its place; longer ones stand in its explanation
_METAVARS: dict[type[Any], str] = {int: "N", float: "X", str: "TEXT"}


def add_flags(parser: ArgumentParser, kind: type[Any]) -> None:
    """Adds the flags of a settings class to a command, in the order of its fields."""
    groups: dict[str, Any] = {"": parser}
    exclusive: dict[str, _MutuallyExclusiveGroup] = {}
    for entry in declared(kind).values():
        heading, contradicting = entry.setting.group, entry.setting.exclusive
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        place = groups[heading]
        if contradicting:
            if contradicting not in exclusive:
                exclusive[contradicting] = place.add_mutually_exclusive_group()
            place = exclusive[contradicting]
        place.add_argument(f"--{entry.flag}", **_options_of(entry))


def from_pair(kind: type[Any], metavar: str, output: str) -> Callable[[ArgumentParser], None]:
    """Returns the `configure` of a command that makes a result of a pair; `output` is the help of `-o`."""

    def configure(parser: ArgumentParser) -> None:
        add_pair(parser)
        parser.add_argument("-o", "--output", required=True, metavar=metavar, help=output)
        add_flags(parser, kind)
        add_json(parser)

    return configure


def read_flags(kind: type[_T], args: Namespace, **given: Any) -> _T:
    """Returns the settings that a command line asks for.

    Args:
        args: parsed arguments; what was not given keeps the field's default.
        given: fields that do not come from the command line.

    Raises:
        UsageError: a value that cannot be read, or that the settings class refuses.
    """
    chosen = {}
    for entry in declared(kind).values():
        if not hasattr(args, entry.name):
            continue
        value = getattr(args, entry.name)
        if isinstance(value, list):
            value = tuple(entry.parse_one(text) for text in value)
        elif isinstance(value, str):
            value = entry.parse(value)
        chosen[entry.name] = value
    return kind(**{**chosen, **given})


def _options_of(entry: Declared) -> dict[str, Any]:
    """Returns the arguments of `add_argument`: values stay text here, so that all of them are read in one place."""
    options: dict[str, Any] = {"dest": entry.name, "default": SUPPRESS, "help": _help_of(entry)}
    if entry.is_switch:
        plain = entry.default is False and not entry.optional
        return {**options, "action": "store_true" if plain else BooleanOptionalAction}
    if entry.setting.repeated:
        options["action"] = "append"
    choices = "{" + ",".join(entry.choices) + "}" if entry.choices and not entry.many else ""
    if len(choices) > LONGEST_CHOICES:
        options["help"] += f": {', '.join(entry.choices)}"
        choices = "NAME"
    options["metavar"] = entry.setting.metavar or choices or _METAVARS[entry.type]
    return options


def _help_of(entry: Declared) -> str:
    shown = entry.setting.default_text
    if not shown and entry.type is not bool and entry.default not in (None, "", ()):
        shown = ",".join(map(str, entry.default)) if entry.many else f"{entry.default}"
    text = f"{entry.setting.help} (default {shown})" if shown else entry.setting.help
    return text.replace("%", "%%")
