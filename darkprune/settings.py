"""Settings: one frozen dataclass per command, each field declared once with its help, choices and unit.

Command-line flags (`darkprune.cli.flags`), keys of a TOML file and arguments of the Python API all follow from the
fields: `min_channels: int = setting(8, help="…")` is `--min-channels N`, `min-channels = N` and `min_channels=N`.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from darkprune.errors import UsageError

#: a path as users give it
PathLike = str | Path
_T = TypeVar("_T")
#: attribute of `Setting` -> how a number compares with it
_BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


@dataclass(frozen=True)
class Setting:
    """What is declared of a field besides its type and default.

    Attributes:
        help: one line for `--help`, without the default, which is added.
        choices: the values that there are; for a `Literal` type they follow from it.
        metavar: what stands for the value in `--help`; by default it follows from the type.
        group: heading in `--help` under which the flag is listed.
        flag: long flag without dashes; by default the field's name with hyphens.
        repeated: of a tuple: the flag is given once per value, instead of values with commas.
        exclusive: fields of one such name contradict each other: at most one is given.
        default_text: what `--help` says the default is, where it is more than the value.
        at_least, above, at_most, below: bounds of a number, or of each of several; text and None have none.
    """

    help: str
    choices: tuple[str, ...] = ()
    metavar: str = ""
    group: str = ""
    flag: str = ""
    repeated: bool = False
    exclusive: str = ""
    default_text: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings classes: what their fields declare is checked, whoever gives a value; defaults are not."""

    def __post_init__(self) -> None:
        """Checks the values; subclasses add what else has to hold.

        Raises:
            UsageError: one is out of range or makes no sense, or two contradict each other.
        """
        given: dict[str, str] = {}
        for entry in declared(type(self)).values():
            value, exclusive = getattr(self, entry.name), entry.setting.exclusive
            if value is None or value == entry.default:
                continue
            for part in value if isinstance(value, tuple | list) else (value,):
                entry.check(part)
            if exclusive and given.setdefault(exclusive, entry.flag) != entry.flag:
                raise UsageError(f"--{given[exclusive]} does not go with --{entry.flag}")


@dataclass(frozen=True)
class Declared:
    """A field of a settings class.

    Attributes:
        name: the field's name.
        flag: its long flag without dashes.
        type: `bool`, `int`, `float` or `str` (paths are text until they are used).
        many: a tuple of such values, written with commas.
        optional: None is a value of its own: what is not given.
        choices: the values that there are; empty where any will do.
        default: the value where none is given.
        setting: what else is declared.
    """

    name: str
    flag: str
    type: type[Any]
    many: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any
    setting: Setting

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone, without a value."""
        return self.type is bool and not self.many

    def parse(self, text: str) -> Any:
        """Reads a value from text.

        Raises:
            UsageError: it is not of the field's type.
        """
        if not self.many:
            return self.parse_one(text)
        parts = [text] if self.setting.repeated else [part.strip() for part in text.split(",")]
        return tuple(self.parse_one(part, text) for part in parts)

    def parse_one(self, text: str, whole: str = "") -> Any:
        """Reads a value, one of many where there are many.

        Args:
            text: the value; `40%` is the number 0.4.
            whole: the list that it is from, for errors.

        Raises:
            UsageError: see `parse`.
        """
        if self.type is bool:
            if text.lower() not in ("true", "false"):
                raise UsageError(f"--{self.flag} {text[:40]}: give true or false")
            return text.lower() == "true"
        try:
            if self.type is float and text.endswith("%"):
                return float(text[:-1]) / 100
            return self.type(text)
        except ValueError:
            what = "whole number" if self.type is int else "number"
            wanted = f"{what}s separated by commas" if self.many else f"a {what}"
            raise UsageError(f"--{self.flag} {(whole or text)[:60]}: give {wanted}") from None

    def check(self, value: object) -> None:
        """Checks a value, one of many where there are many.

        Raises:
            UsageError: it is not among the choices, or a number outside the bounds.
        """
        if self.choices and str(value) not in self.choices:
            raise UsageError(f"--{self.flag} {str(value)[:40]}: {nearest(str(value), self.choices, 'choose from')}")
        bounds = {name: bound for name in _BOUNDS if (bound := getattr(self.setting, name)) is not None}
        if not bounds or not isinstance(value, int | float):
            return
        if not (math.isfinite(value) and all(_BOUNDS[name](value, bound) for name, bound in bounds.items())):
            wanted = " and ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in bounds.items())
            raise UsageError(f"--{self.flag} {value:g}: must be {wanted}")


def setting(default: _T, help: str, **details: Any) -> _T:
    """Declares a field of a settings class.

    Args:
        default: its value where none is given.
        help: one line for `--help`.
        details: further attributes of `Setting`.
    """
    value: _T = dataclasses.field(default=default, metadata={"setting": Setting(help, **details)})
    return value


_known: dict[type[Any], dict[str, Declared]] = {}


def declared(kind: type[Any]) -> Mapping[str, Declared]:
    """Returns the declared fields of a settings class by name, in their order."""
    if kind in _known:
        return _known[kind]
    hints = typing.get_type_hints(kind)  # a millisecond or two
    found = _known[kind] = {}
    for field in dataclasses.fields(kind):
        details = field.metadata.get("setting")
        if details is None:
            continue
        base, many, optional, choices = _plain(hints[field.name])
        found[field.name] = Declared(
            name=field.name,
            flag=details.flag or field.name.replace("_", "-"),
            type=base,
            many=many,
            optional=optional,
            choices=details.choices or choices,
            default=None if field.default is MISSING else field.default,
            setting=details,
        )
    return found


def _plain(hint: Any) -> tuple[type[Any], bool, bool, tuple[str, ...]]:
    """Takes a type apart: the plain type, whether there are many, whether None is allowed, the values of a Literal."""
    parts = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    optional = type(None) in parts
    parts = tuple(part for part in parts if part is not type(None))
    if len(parts) == 1 and get_origin(parts[0]) is tuple:
        base, _, _, choices = _plain(get_args(parts[0])[0])
        return base, True, optional, choices
    if len(parts) == 1 and get_origin(parts[0]) is Literal:
        return str, False, optional, tuple(str(value) for value in get_args(parts[0]))
    for candidate in (str, float, int, bool):  # of several types the most general one that text can be read as
        if candidate in parts:
            return candidate, False, optional, ()
    return str, False, optional, ()


def from_mapping(kind: type[_T], values: Mapping[str, object], where: str = "settings", **given: Any) -> _T:
    """Makes settings of named values, such as a table of a TOML file.

    Args:
        kind: the settings class.
        values: by field or flag name; text is read as on the command line, other values must be of the field's type.
        where: what an error calls the place that they come from.
        given: fields that are taken as they are.

    Raises:
        UsageError: a name that there is not (names the nearest), or a value of another type.
    """
    fields = declared(kind)
    by_flag = {entry.flag: entry for entry in fields.values()}
    chosen = {}
    for name, value in values.items():
        entry = fields.get(name) or by_flag.get(name)
        if entry is None:
            raise UsageError(f"{where}: there is no {name[:40]}; {nearest(name, by_flag)}")
        chosen[entry.name] = _checked(entry, value, where)
    return kind(**{**chosen, **given})


def _checked(entry: Declared, value: object, where: str) -> Any:
    if isinstance(value, list | tuple):
        if entry.many:
            return tuple(entry.parse_one(str(part)) for part in value)
    elif isinstance(value, bool) == entry.is_switch and isinstance(value, str | int | float):
        return entry.parse(str(value))
    raise UsageError(f"{where}: {entry.flag} = {str(value)[:40]}: give {_kind_of(entry)}")


def _kind_of(entry: Declared) -> str:
    if entry.many:
        return "a list"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[entry.type]


def flags_of(settings: object, leave_out: Collection[str] = ()) -> dict[str, str | bool | tuple[str, ...]]:
    """Returns the flags that ask for settings: those whose value is not the default.

    Args:
        settings: an object of a settings class.
        leave_out: names of fields.

    Returns:
        Long flag without dashes -> its text, its texts where it is given once per value, or whether a switch is on.
    """
    found: dict[str, str | bool | tuple[str, ...]] = {}
    for entry in declared(type(settings)).values():
        value = getattr(settings, entry.name)
        if entry.name in leave_out or value == entry.default:
            continue
        if entry.is_switch:
            found[entry.flag] = bool(value)
        elif entry.many:
            texts = tuple(str(part) for part in value)
            found[entry.flag] = texts if entry.setting.repeated else ",".join(texts)
        else:
            found[entry.flag] = str(value)
    return found


def words_of(settings: object, leave_out: Collection[str] = ()) -> list[str]:
    """Returns the words of a command line that ask for settings; see `flags_of`."""
    words: list[str] = []
    for flag, value in flags_of(settings, leave_out).items():
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        for text in (value,) if isinstance(value, str) else value:
            # a value may begin with a dash
            words += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
    return words


def nearest(word: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """Returns what a word may have been meant for, or what there is."""
    import difflib  # only errors need it

    names = list(known)
    close = difflib.get_close_matches(word.replace("_", "-"), names, 1)
    return f"did you mean {close[0]}?" if close else f"{otherwise} {', '.join(names)}"
