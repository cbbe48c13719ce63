"""What the strict reader of hank-ai's darknet refuses in a .cfg that AlexeyAB's reads.

That reader splits each line by a pattern instead of removing white space, takes `#` for the start of a comment
anywhere and `;` for no comment at all, and stops at the first key that is unknown, given twice or not used. What it
knows stands in `strict_keys.json`. Wiring and shapes are the graph's business (`darkprune.graph`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from darkprune.darknet.cfg import Cfg, excerpt
from darkprune.darknet.options import atoi
from darkprune.errors import one_line
from darkprune.json_types import JsonObject

_LINE = re.compile(r"^\[(?P<section>.+)\]|^[ \t]*(?P<key>[^#= \t]+)[ \t]*=[ \t]*(?P<value>[^#]+)")
_NUMERAL = re.compile(r"[-.0-9]+")
_LEADING_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")
_PLAIN_INTEGER = re.compile(r"-?\d+")
_PLAIN_FLOAT = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")
_BLANKS = " \t\r\n"
_FLOAT_MAX, _FLOAT_MIN = 2.0**128 - 2.0**104, 2.0**-126  #: 32-bit ones; the smallest that is normal


@dataclass(frozen=True)
class StrictProblem:
    """Something that hank-ai's darknet refuses, or reads otherwise than AlexeyAB's.

    Attributes:
        line: 1-based line number.
        section: name of the section.
        message: what is wrong, in one line.
    """

    line: int
    section: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line} [{one_line(self.section, 40)}]: {self.message}"


@dataclass
class _Section:
    """A section as the strict reader sees it: key -> (line, value)."""

    name: str
    line: int
    values: dict[str, tuple[int, str]] = field(default_factory=dict)

    def value(self, key: str, default: str = "") -> str:
        return self.values[key][1] if key in self.values else default

    def number(self, key: str, default: int) -> int:
        return atoi(self.value(key, str(default)))


@dataclass(frozen=True)
class _Keys:
    """What a kind of section may hold: key -> how its value is read."""

    reads: dict[str, str]
    names: dict[str, frozenset[str]]


def strict_problems(cfg: Cfg) -> list[StrictProblem]:
    """Lists what the strict reader would refuse, in the order of the lines; empty where it loads the file."""
    problems: list[StrictProblem] = []
    sections = _read(cfg, problems)
    for number, section in enumerate(sections):
        problems.extend(_section_problems(section, first=number == 0))
    if sections:
        problems.extend(_net_problems(sections[0], _facts()["aliases"].get(sections[-1].name, sections[-1].name)))
    return sorted(problems, key=lambda problem: problem.line)


def _read(cfg: Cfg, problems: list[StrictProblem]) -> list[_Section]:
    """Splits the text as the strict reader does; lines that only one of the two readers reads are problems."""
    sections: list[_Section] = []
    for number, raw in enumerate(cfg.lines, start=1):
        line = raw.strip(_BLANKS)
        match = _LINE.search(line)
        where = sections[-1].name if sections else ""
        if match is None:
            if _read_by_alexey(line):
                problems.append(StrictProblem(number, where, f"line without effect there: {excerpt(line)}"))
        elif match["section"] is not None:
            sections.append(_Section(match["section"], number))
        elif not sections:
            problems.append(StrictProblem(number, where, f"text before any section: {excerpt(line)}"))
        else:
            key, value = match["key"], match["value"].strip(_BLANKS)
            if key in sections[-1].values:
                earlier = sections[-1].values[key][0]
                problems.append(StrictProblem(number, where, f"{excerpt(key)} is given twice (line {earlier})"))
            else:
                sections[-1].values[key] = (number, value)
    return sections


def _read_by_alexey(line: str) -> bool:
    """Whether AlexeyAB's reader sees a key with a value in a line."""
    text = re.sub(r"[ \t\r\n]", "", line)
    key, equals, value = text.partition("=")
    return bool(key and equals and value) and text[0] not in "#;["


def _section_problems(section: _Section, first: bool) -> Iterator[StrictProblem]:
    facts = _facts()
    name = facts["aliases"].get(section.name, section.name)
    if (name == "net") != first:
        yield StrictProblem(section.line, section.name, "[net] must come first" if first else "a second [net]")
        return
    keys = _keys().get(name)
    if keys is None:
        reason = "was removed" if name in facts["removed"] else "is unknown"
        yield StrictProblem(section.line, section.name, f"section {excerpt(section.name)} {reason}")
        return
    for key, (line, value) in section.values.items():
        message = _value_problem(keys, key, value)
        if message is None and name == "net":
            message = _unused(section, key)
        if message is not None:
            yield StrictProblem(line, section.name, message)
    if name == "convolutional":
        yield from _deformation(section)
    if name in ("yolo", "Gaussian_yolo"):
        yield from _lengths(section)


def _value_problem(keys: _Keys, key: str, value: str) -> str | None:
    """Returns what is wrong with one line of a section that is known."""
    if key.startswith(";"):
        return f"';' starts no comment there: {excerpt(key)} is an unknown key"
    if _NUMERAL.fullmatch(value) and not _representable(value):
        return f"{key}={excerpt(value)} is no number"
    reads = keys.reads.get(key)
    if reads is None:
        return f"{excerpt(key)} is not used"
    if reads == "numbers" and not _NUMERAL.fullmatch(value):
        return f"{key}={excerpt(value)} is not made of digits, '.' and '-' only (no exponents)"
    if reads == "names" and value not in keys.names[key]:
        return f"{key}={excerpt(value)} is unknown; it knows {', '.join(sorted(keys.names[key]))}"
    if reads in ("integers", "floats"):
        plain = _PLAIN_INTEGER if reads == "integers" else _PLAIN_FLOAT
        odd = [item for item in map(str.strip, value.split(",")) if not plain.fullmatch(item)]
        if odd:
            return f"{key} lists {excerpt(odd[0])}, which it reads otherwise"
    return None


def _representable(value: str) -> bool:
    """Whether C++'s `stof` takes it: a number at the start, within the range of normal floats."""
    match = _LEADING_NUMBER.match(value)
    if match is None:
        return False
    size = abs(float(match.group()))
    return size == 0 or _FLOAT_MIN <= size <= _FLOAT_MAX


def _unused(net: _Section, key: str) -> str | None:
    """Returns why a known key of [net] is not read: its policy or solver is not chosen."""
    conditions = _facts()["net_conditions"]
    if key in conditions["adam"]:
        return None if net.number("adam", 0) else f"{key} is used with adam=1 only"
    policies = [policy for policy, used in conditions["policy"].items() if key in used]
    if policies and net.value("policy", "constant") not in policies:
        return f"{key} is used with policy={' or '.join(policies)} only"
    return None


def _net_problems(net: _Section, last: str) -> Iterator[StrictProblem]:
    """Yields demands on [net] as a whole."""
    if net.name not in ("net", "network"):
        return
    policy = net.value("policy", "constant")
    if policy == "steps" and not all(any(c.isdigit() for c in net.value(key)) for key in ("steps", "scales")):
        yield StrictProblem(net.line, net.name, "policy=steps needs steps and scales")
    if net.number("contrastive", 0) and net.number("batch", 1) // max(1, net.number("subdivisions", 1)) < 2:
        yield StrictProblem(net.line, net.name, "contrastive=1 needs two images per subdivision")
    width, height = net.number("width", 0), net.number("height", 0)
    if last in ("yolo", "region") and (width % 32 or height % 32 or min(width, height) < 32):
        yield StrictProblem(net.line, net.name, f"width={width} and height={height} must be multiples of 32")


def _lengths(head: _Section) -> Iterator[StrictProblem]:
    """Yields lists of a head that are too short or too long."""
    if "counters_per_class" in head.values:
        line, value = head.values["counters_per_class"]
        given, classes = len(_PLAIN_INTEGER.findall(value)), head.number("classes", 20)
        if given and given != classes:
            yield StrictProblem(line, head.name, f"counters_per_class lists {given} values for classes={classes}")
    if "anchors" in head.values:
        line, value = head.values["anchors"]
        given, room = len(_NUMERAL.findall(value)), 2 * head.number("num", 1)
        if given > room:
            yield StrictProblem(line, head.name, f"anchors lists {given} numbers, num has room for {room}")


def _deformation(section: _Section) -> Iterator[StrictProblem]:
    chosen = [key for key in ("sway", "rotate", "stretch", "stretch_sway") if section.number(key, 0)]
    if sum(section.number(key, 0) for key in chosen) > 1:
        yield StrictProblem(section.line, section.name, f"only one of {', '.join(chosen)} can be chosen")
    if chosen and section.number("size", 1) == 1:
        yield StrictProblem(section.line, section.name, f"{chosen[0]} needs size=3 or more")


@cache
def _facts() -> JsonObject:
    facts: JsonObject = json.loads(files("darkprune.darknet").joinpath("strict_keys.json").read_text("ascii"))
    return facts


@cache
def _keys() -> dict[str, _Keys]:
    """Unfolds the key tables: section -> keys."""
    facts = _facts()
    sets = {name: frozenset(words.split()) for name, words in facts["name_sets"].items()}
    tables = {}
    for section, table in facts["sections"].items():
        reads: dict[str, str] = {}
        for part in (table, {} if section == "net" else facts["common"]):
            for how in ("numbers", "integers", "floats", "files"):
                reads.update(dict.fromkeys(part.get(how, "").split(), how))
        names = {key: sets.get(words, frozenset(words.split())) for key, words in table.get("names", {}).items()}
        tables[section] = _Keys(reads | dict.fromkeys(names, "names"), names)
    return tables
