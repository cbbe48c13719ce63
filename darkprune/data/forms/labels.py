"""Darknet's label files: a line `class cx cy w h` per object, relative to the image.

darknet reads them as a stream of numbers, five at a time, whatever the lines (`read_boxes`): several objects on a line
are several objects, and one number too many or too few shifts all that follow. What other tools write into such files
(a score after the box, a polygon, class `0.0`) is read here as it was meant, and reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkprune.darknet.input import read_file
from darkprune.data.dataset import DataProblem, LabelReading, join_objects, make_objects
from darkprune.data.text_files import decode_text, split_lines
from darkprune.errors import DataError, one_line

MAX_LABEL_BYTES = 16 << 20
_NUMBER = r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?"
_LABEL = re.compile(r"\s*([+-]?\d{1,9})" + (rf"\s+({_NUMBER})") * 4 + r"\s*", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_WHOLE_AS_FLOAT = re.compile(r"([+-]?\d{1,9})\.0*", re.ASCII)
_PLAIN = re.compile(_NUMBER, re.ASCII)
_BLANKS = re.compile(r"[ \t\v\f]+")
_SHIFTED = "darknet would shift all numbers after it"
Row = tuple[float, ...]  #: class, cx, cy, w, h


@dataclass(frozen=True)
class DarknetLabels:
    """The label file of one image.

    Attributes:
        file: the label file; it may be missing, which darknet takes for "no objects".
        difficult_file: a second label file whose objects are `difficult`, or None.
    """

    file: Path
    difficult_file: Path | None = None

    def read(self) -> LabelReading:
        """Reads both files; a missing one is a problem of kind `missing`."""
        reading = read_label_file(self.file)
        if self.difficult_file is None or not os.path.exists(self.difficult_file):
            return reading
        more = read_label_file(self.difficult_file)
        hard = replace(more.objects, difficult=np.ones(len(more.objects), np.bool_))
        return LabelReading(join_objects(reading.objects, hard), reading.problems + more.problems)


def read_label_file(path: Path) -> LabelReading:
    """Reads the objects of a label file, and reports its problems.

    Like darknet it stops at a line that holds something else than numbers.
    """
    if not os.path.isfile(path):
        text = "no such label file; darknet takes the image for one without objects"
        return LabelReading(problems=(DataProblem(path, None, text, "missing"),))
    try:
        text, encoding = decode_text(read_file(path, MAX_LABEL_BYTES, "a label file"), path, "a label file")
    except DataError as error:
        return LabelReading(problems=(DataProblem.of(error, path, "label"),))
    rows: list[Row] = []
    lines: list[int] = []
    problems: dict[str, DataProblem] = {}  # the first one of every kind
    if encoding is not None:
        message = f"is {encoding}, in which darknet finds no labels; it is read all the same"
        problems["encoding"] = DataProblem(path, None, message)
    for number, line in enumerate(split_lines(text), start=1):
        match = _LABEL.fullmatch(line)
        if match is not None:
            rows.append(tuple(map(float, match.groups())))
            lines.append(number)
            continue
        other = _read_other(line)
        rows += other.rows
        lines += [number] * len(other.rows)
        if other.problem:
            problems.setdefault(other.kind, DataProblem(path, number, other.problem))
        if other.kind == "text":
            break
    table = np.array(rows, np.float64).reshape(-1, 5)
    return LabelReading(make_objects(table[:, 1:], table[:, 0], None, lines), tuple(problems.values()))


class _Other(NamedTuple):
    """A line that is not just `class cx cy w h`.

    Attributes:
        rows: objects in it.
        kind: of the problem.
        problem: in words; empty if there is none.
    """

    rows: Sequence[Row] = ()
    kind: str = ""
    problem: str = ""


def _read_other(line: str) -> _Other:
    fields = [field for field in _BLANKS.split(line) if field]
    shown = one_line(line.strip(), 60)
    if not fields:
        return _Other()
    if not all(map(_PLAIN.fullmatch, fields)):
        problem = f"label line is not numbers: '{shown}'; it and all below it are ignored, as darknet does"
        return _Other(kind="text", problem=problem)
    values = list(map(float, fields))
    if len(fields) % 5 == 0 and all(map(_WHOLE.fullmatch, fields[::5])):
        return _Other([tuple(values[start : start + 5]) for start in range(0, len(values), 5)])
    label = _whole_number(fields[0])
    if label is None:
        problem = f"label line has no whole class number: '{shown}'; it is ignored, {_SHIFTED}"
        return _Other(kind="class", problem=problem)
    if len(fields) == 5:
        return _Other([(label, *values[1:])], "float", f"class {fields[0]} is read as {label}; {_SHIFTED}")
    if len(fields) == 6:
        return _Other([(label, *values[1:5])], "six", f"a sixth number per line is left out; {_SHIFTED}")
    if len(fields) > 6 and len(fields) % 2 == 1:
        return _Other([(label, *_bounds(values[1:]))], "polygon", f"polygons are read as boxes; {_SHIFTED}")
    problem = (
        f"label line has {len(fields)} values instead of 5 (class cx cy w h): '{shown}'; it is ignored, {_SHIFTED}"
    )
    return _Other(kind="count", problem=problem)


def _whole_number(text: str) -> int | None:
    """Reads a class number; other tools write 0 as `0.0`."""
    match = _WHOLE_AS_FLOAT.fullmatch(text)
    return int(match[1] if match else text) if match or _WHOLE.fullmatch(text) else None


def _bounds(polygon: Sequence[float]) -> Row:
    """Returns cx, cy, w, h of the box around a polygon x, y, x, y, …"""
    points = np.array(polygon).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    return tuple(((low + high) / 2).tolist() + (high - low).tolist())
