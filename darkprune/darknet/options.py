"""Typed reading of a section's keys by darknet's rules (`option_list.c`).

Numbers are read as C's `atoi` and `atof` read them: the longest numeric prefix, 0 where there is none. The first of
duplicate keys wins. What was never asked for is an unused key.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable

from darkprune.darknet.cfg import COMMENT_MARKS, Section, excerpt
from darkprune.errors import CfgError

_INT = re.compile(r"[\v\f]*([+-]?)0*([0-9]*)")
_FLOAT = re.compile(r"[\v\f]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
INT_MAX = 2**31 - 1
MAX_LIST = 4096


def atoi(text: str) -> int:
    """C's atoi: `5.9` is 5, `1e3` is 1, garbage is 0; beyond 32 bits the nearest 32-bit value."""
    match = _INT.match(text)
    if match is None or not match[2]:
        return 0
    size = int(match[2][:12])
    return max(-INT_MAX - 1, -size) if match[1] == "-" else min(INT_MAX, size)


def atof(text: str) -> float:
    """C's atof without its hexadecimal, infinite and not-a-number forms, which no network means."""
    match = _FLOAT.match(text)
    return float(match[1]) if match else 0.0


def _has_more(text: str, pattern: re.Pattern[str]) -> bool:
    """Whether something other than a comment follows the number that a text starts with, or there is no number."""
    match = pattern.match(text)
    if match is None or not any(character.isdigit() for character in match[0]):
        return True
    rest = text[match.end() :]
    return bool(rest) and not rest.startswith(COMMENT_MARKS)


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


class Options:
    """The keys of one section, with a record of which were asked for.

    Attributes:
        section: the section read from.
        source: file name for error messages.
        asked: keys that were asked for.
        misread: key -> what its value was read as, where something other than a number or a comment stands in it.
    """

    def __init__(self, section: Section, source: str) -> None:
        self.section = section
        self.source = source
        self.asked: set[str] = set()
        self.misread: dict[str, str] = {}

    def text(self, key: str, default: str = "") -> str:
        """Returns the value without white space, or the default."""
        self.asked.add(key)
        option = self.section.find(key)
        return default if option is None or option.value is None else option.value

    def has(self, key: str) -> bool:
        """Returns whether the section gives the key a value."""
        self.asked.add(key)
        return self.section.find(key) is not None

    def int(self, key: str, default: int = 0) -> int:
        """Returns an integer (atoi)."""
        return int(self._number(key, _INT, atoi)) if self.has(key) else default

    def flag(self, key: str, default: bool = False) -> bool:
        """Returns whether an integer key is not 0."""
        return bool(self.int(key, int(default)))

    def float(self, key: str, default: builtins.float = 0.0) -> builtins.float:
        """Returns a floating-point number (atof)."""
        return self._number(key, _FLOAT, atof) if self.has(key) else default

    def ints(self, key: str, *, comment_ends: bool = False) -> tuple[builtins.int, ...]:
        """Returns a comma-separated list; empty where the key is absent.

        Args:
            key: the key.
            comment_ends: darknet stops counting commas at `#` in this list (mask, steps), elsewhere it does not.
        """
        return tuple(int(value) for value in self._numbers(key, comment_ends, _INT, atoi))

    def floats(self, key: str, *, comment_ends: bool = False) -> tuple[builtins.float, ...]:
        """Returns a comma-separated list of floating-point numbers; empty where the key is absent."""
        return self._numbers(key, comment_ends, _FLOAT, atof)

    def line(self, key: str | None = None) -> builtins.int:
        """Returns the line of a key, or of the section's header."""
        option = self.section.find(key) if key else None
        return option.line if option else self.section.line

    def error(self, message: str, key: str | None = None) -> CfgError:
        """Makes an error that names file, line and section."""
        return CfgError(f"{self.source}:{self.line(key)}: [{self.section.name}] {message}")

    def positive(self, key: str, default: builtins.int, limit: builtins.int = INT_MAX) -> builtins.int:
        """Returns an integer that has to be at least 1.

        Raises:
            CfgError: zero, negative, or above the limit.
        """
        value = self.int(key, default)
        if not 1 <= value <= limit:
            if key in self.misread:
                text = f"{key}={excerpt(self.text(key))} is read as {value}; write one whole number, 1 to {limit}"
                raise self.error(text, key)
            raise self.error(f"{key}={value} is out of range; it must be 1 to {limit}", key)
        return value

    def _number(self, key: str, pattern: re.Pattern[str], read: Callable[[str], builtins.float]) -> builtins.float:
        """Reads a number, and notes whether there is more than it, which C's functions pass over."""
        text = self.text(key)
        value = read(text)
        if _has_more(text, pattern):
            self.misread[key] = _shown(value)
        return value

    def _numbers(
        self, key: str, comment_ends: bool, pattern: re.Pattern[str], read: Callable[[str], builtins.float]
    ) -> tuple[builtins.float, ...]:
        items = self._items(key, comment_ends)
        values = tuple(map(read, items))
        if any(_has_more(item, pattern) for item in items):
            self.misread[key] = ",".join(map(_shown, values))
        return values

    def _items(self, key: str, comment_ends: bool) -> list[str]:
        value = self.text(key)
        if not self.has(key):
            return []
        if comment_ends:
            value = value.split("#", 1)[0]
        items = value.split(",")
        if len(items) > MAX_LIST:
            raise self.error(f"{key} lists {len(items)} values; at most {MAX_LIST} make sense", key)
        return items
