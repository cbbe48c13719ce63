"""Lossless text model of a .cfg file: `str(parse(text)) == text`, byte for byte.

Lexing follows darknet's `read_cfg`: every blank, tab, carriage return and newline is removed from a line, also inside
it; a line that then starts with `[` opens a section, one that starts with `#` or `;` is a comment, any other is split
at its first `=`. The original lines are kept, so that an edit touches nothing but the value that it changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from darkprune.darknet.input import read_file
from darkprune.darknet.recognise import other_file
from darkprune.errors import CfgError

MAX_BYTES = 16 * 2**20
MAX_SECTIONS = 20_000
#: what a comment after a value starts with; darknet passes over it where it reads a number
COMMENT_MARKS = ("#", ";", "//")
#: lists whose reader stops at `#`
_LISTS_WITH_COMMENTS = frozenset(["anchors", "mask", "steps", "scales", "seq_scales", "counters_per_class"])
_BLANKS = str.maketrans("", "", " \t\r\n")
_COMMENT = re.compile("#|;|//")


@dataclass(frozen=True)
class Option:
    """One `key=value` line.

    Attributes:
        key: text before the first `=`, without white space.
        value: text after it, without white space; None where the line has no `=` (darknet stores the key without a
            value), empty where nothing follows the `=` (darknet drops the line).
        line: 1-based line number.
    """

    key: str
    value: str | None
    line: int


@dataclass(frozen=True)
class Section:
    """One `[name]` with the options below it.

    Attributes:
        name: text between the brackets, as darknet compares it (`convolutional`); whatever follows the closing bracket
            belongs to the name (`[net]#x` is the section `net]#x`), since darknet compares the whole line.
        line: 1-based line number of the header.
        options: in file order, duplicates included.
    """

    name: str
    line: int
    options: tuple[Option, ...]

    def find(self, key: str) -> Option | None:
        """Returns the first option of that name, the one that darknet reads; None where that one has no value."""
        first = self.record(key)
        return first if first is not None and first.value is not None else None

    def record(self, key: str) -> Option | None:
        """Returns the first line that darknet stores under a key, with a value or without."""
        return self._records.get(key)

    @cached_property
    def _records(self) -> dict[str, Option]:
        return {option.key: option for option in reversed(self.options) if option.value != ""}


@dataclass(frozen=True)
class Cfg:
    """A parsed .cfg file.

    Attributes:
        lines: the raw lines with their line ends.
        sections: all sections in file order; the first is `[net]`.
        source: what error messages call the file.
    """

    lines: tuple[str, ...]
    sections: tuple[Section, ...]
    source: str = "cfg"

    def __str__(self) -> str:
        return "".join(self.lines)

    def encode(self) -> bytes:
        """Returns the bytes of the file (comments may hold any Latin-1 byte)."""
        return str(self).encode("latin-1")

    def with_values(self, changes: dict[tuple[int, str], str]) -> Cfg:
        """Returns a copy in which some values differ and nothing else.

        Args:
            changes: (section number, key) -> new value. A key that the section lacks is added below its last option.
        """
        if not changes:
            return self
        lines = list(self.lines)
        added: list[tuple[int, str]] = []
        for (number, key), value in changes.items():
            section = self.sections[number]
            option = section.record(key)
            if option is not None:
                lines[option.line - 1] = _replace_value(lines[option.line - 1], value)
            else:
                added.append((max([section.line, *(o.line for o in section.options)]), f"{key}={value}"))
        for line, text in sorted(added, reverse=True):
            end = _line_end(lines[line - 1]) or "\n"
            if not _line_end(lines[line - 1]):
                lines[line - 1] += end
                end = ""
            lines.insert(line, text + end)
        return parse_cfg("".join(lines), self.source)

    def as_read(self) -> Cfg:
        """Returns a copy with nothing but what darknet reads, for programs that take later keys, or comments, for it.

        Of a key that is given twice the first stays. Comments after values go, but for those with commas in lists
        where darknet counts these.
        """
        lines = list(self.lines)
        for section in self.sections:
            for option in section.options:
                value, end = option.value or "", _line_end(lines[option.line - 1])
                plain = without_comment(value)
                if section.find(option.key) != option:
                    lines[option.line - 1] = end
                elif plain != value and ("," not in value[len(plain) :] or option.key in _LISTS_WITH_COMMENTS):
                    lines[option.line - 1] = f"{option.key}={plain}{end}"
        return parse_cfg("".join(lines), self.source)

    def without_sections(self, numbers: set[int]) -> Cfg:
        """Returns a copy without the given sections; comments above a removed header stay."""
        removed: set[int] = set()
        for number in numbers:
            section = self.sections[number]
            last = max([section.line, *(o.line for o in section.options)])
            removed.update(range(section.line - 1, last))
        return parse_cfg("".join(line for i, line in enumerate(self.lines) if i not in removed), self.source)


def read_cfg(path: Path) -> Cfg:
    """Reads a .cfg file.

    Raises:
        CfgError: the file cannot be read, is too large, is not text, or has no sections.
    """
    data = read_file(path, MAX_BYTES, "a Darknet .cfg", CfgError)
    other = other_file(data)
    if other is not None:
        raise CfgError(f"{path}: is {other}; expected a Darknet .cfg")
    if b"\0" in data:
        raise CfgError(f"{path}: holds binary data, not text (is it the weights file?)")
    return parse_cfg(data.decode("latin-1"), str(path))


def parse_cfg(text: str, source: str = "cfg") -> Cfg:
    """Parses the text of a .cfg file.

    Args:
        text: the file's bytes decoded as Latin-1.
        source: name for error messages.

    Raises:
        CfgError: a byte order mark, a key before any section, or no section at all (darknet crashes on each); lines
            that end in a carriage return alone, which darknet takes for one line.
    """
    if text.startswith(("\xef\xbb\xbf", "\ufeff")):
        raise CfgError(
            f"{source}:1: starts with a UTF-8 byte order mark, on which darknet crashes; save it without BOM"
        )
    if "\r" in text.strip() and "\n" not in text.strip():
        raise CfgError(
            f"{source}: its lines end in a carriage return alone, so darknet takes the file for one line; "
            "save it with line ends of Unix (LF) or Windows (CR LF)"
        )
    lines = text.split("\n")
    raw = tuple(line + "\n" for line in lines[:-1]) + ((lines[-1],) if lines[-1] else ())
    sections: list[Section] = []
    options: list[Option] = []
    for number, line in enumerate(raw, start=1):
        stripped = line.translate(_BLANKS)
        if not stripped or stripped[0] in "#;":
            continue
        if stripped[0] == "[":
            if sections:
                sections[-1] = replace(sections[-1], options=tuple(options))
            options = []
            name = stripped[1:-1] if stripped.endswith("]") else stripped  # unclosed: no section that darknet knows
            sections.append(Section(name, number, ()))
            if len(sections) > MAX_SECTIONS:
                raise CfgError(f"{source}:{number}: more than {MAX_SECTIONS} sections; this is not a network")
            continue
        if not sections:
            raise CfgError(f"{source}:{number}: text before any [section]: {excerpt(stripped)}; darknet crashes on it")
        key, equals, value = stripped.partition("=")
        options.append(Option(key, value if equals else None, number))
    if not sections:
        raise CfgError(f"{source}: has no [section]; this is not a Darknet .cfg")
    sections[-1] = replace(sections[-1], options=tuple(options))
    return Cfg(raw, tuple(sections), source)


def _replace_value(line: str, value: str) -> str:
    """Puts a value after the first `=`, keeping the white space around the old one and a comment after it.

    A comment is dropped where darknet would read it: with commas after a list, and after a value that is no number.
    """
    head, equals, tail = line.partition("=")
    if not equals:
        body = line.rstrip(" \t\r\n")
        return f"{body}={value}{line[len(body) :]}"
    mark = _COMMENT.search(tail)
    body, comment = (tail[: mark.start()], tail[mark.start() :]) if mark else (tail, "")
    lead = body[: len(body) - len(body.lstrip(" \t\r\n"))]
    trail = body[len(body.rstrip(" \t\r\n")) :]
    if ("," in value and "," in comment) or not value[-1:].isdigit():
        trail, comment = "", _line_end(line)
    return f"{head}={lead}{value}{trail}{comment}"


def without_comment(value: str) -> str:
    """Returns a value without the comment after it, which darknet takes for a part of a value that is no number."""
    return _COMMENT.split(value, maxsplit=1)[0]


def _line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else ""


def excerpt(text: str, limit: int = 40) -> str:
    """Quotes text from a stranger's file so that it cannot upset a terminal."""
    shown = "".join(c if c.isprintable() and ord(c) < 127 else "?" for c in text[:limit])
    return f"'{shown}…'" if len(text) > limit else f"'{shown}'"
