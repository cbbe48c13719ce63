"""A run's settings: a TOML file with a section per stage, and `--set STAGE.KEY=VALUE`.

Keys are the long flags of the stage's command. TOML because its values have types and lists, and because Python reads
it since 3.11 (`tomllib`; `tomli`, the same code, serves 3.10); an INI file would have neither.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from darkprune.darknet.input import read_file
from darkprune.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 20

#: section -> key -> value
Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Flag:
    """A long flag of a command.

    Attributes:
        switch: it takes no value.
        negatable: a switch with a `--no-` form.
        repeated: it may be given several times.
    """

    switch: bool = False
    negatable: bool = False
    repeated: bool = False


def read_settings(path: Path) -> Tables:
    """Reads a settings file.

    Raises:
        UsageError: it cannot be read, or is not TOML with sections.
    """
    try:
        data = tomllib.loads(read_file(path, MAX_BYTES, "a settings file", UsageError).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: is not TOML ({str(error)[:100]})") from None
    for name, table in data.items():
        if not isinstance(table, dict):
            raise UsageError(f"--config {path}: {name} stands outside all sections; put it below [compress] or a stage")
    return {name: {key.replace("_", "-"): value for key, value in table.items()} for name, table in data.items()}


def read_assignment(text: str) -> tuple[str, str, Any]:
    """Reads `STAGE.KEY=VALUE`: section, key and value.

    Raises:
        UsageError: it has another form.
    """
    place, equals, value = text.partition("=")
    section, dot, key = place.strip().partition(".")
    if not (equals and dot and section and key):
        raise UsageError(f"--set {text[:60]}: write STAGE.KEY=VALUE, such as distill.epochs=50")
    try:
        read = tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        read = value.strip()  # a word needs no quotation marks here
    return section.strip(), key.strip().replace("_", "-"), read


def as_flags(
    tables: Tables, known: Mapping[str, Mapping[str, Flag]], kept: Mapping[str, str]
) -> dict[str, dict[str, str | bool | tuple[str, ...]]]:
    """Turns settings into flags of the stages' commands.

    Args:
        tables: what was given.
        known: section -> flags that it may hold.
        kept: flags that are not for the user here, and why not.

    Returns:
        Section -> flag -> text, texts of a repeated flag, or whether a switch is on.

    Raises:
        UsageError: a section or key that does not exist (says the nearest that does), a value of the wrong type.
    """
    found: dict[str, dict[str, str | bool | tuple[str, ...]]] = {}
    for section, table in tables.items():
        if section not in known:
            raise UsageError(f"settings: no section [{section}]{nearest(section, sorted(known))}")
        found[section] = {}
        for key, value in table.items():
            if key not in known[section]:
                reason = kept.get(key)
                if reason is not None:
                    raise UsageError(f"settings: {key} in [{section}]: {reason}")
                near = nearest(key, sorted(known[section]), "its keys are")
                raise UsageError(f"settings: no key {key} in [{section}]{near}")
            given = _value(section, key, value, known[section][key])
            if given is not None:
                found[section][key] = given
    return found


def _value(section: str, key: str, value: Any, flag: Flag) -> str | bool | tuple[str, ...] | None:
    """Returns what a flag is given; None where a switch stays off."""
    if flag.switch:
        if not isinstance(value, bool):
            raise UsageError(f"settings: {key} in [{section}] is true or false, not {str(value)[:40]}")
        return value if value or flag.negatable else None
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts) or not parts:
        raise UsageError(f"settings: {key} in [{section}] takes text or numbers, not {str(value)[:40]}")
    texts = tuple(str(part) for part in parts)
    return texts if flag.repeated else ",".join(texts)


def nearest(word: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """Says what a word may have been meant for, or what there is."""
    names = list(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; the nearest is {close[0]}" if close else f"; {otherwise} {', '.join(names)}"
