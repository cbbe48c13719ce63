"""Darknet's own form: a `.data` file, lists of images, names, and one label file per image.

Source: `read_data_cfg`, `get_paths`, `get_labels_custom`, `read_boxes`, `replace_image_to_label`. Paths in these files
are relative to the directory that darknet is started in; where nothing is found there, they are tried relative to the
folder of the .data file, which is what people who start the tool from elsewhere mean.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darkprune.darknet.input import read_file
from darkprune.data.dataset import (
    DataProblem,
    Dataset,
    ImageRecord,
    LabelReading,
    join_objects,
    make_objects,
    printable,
)
from darkprune.data.files import read_lines
from darkprune.data.image_files import base_of, read_list
from darkprune.errors import DataError

MAX_DATA_BYTES = 1 << 20
MAX_LABEL_BYTES = 16 << 20
_BLANKS = str.maketrans("", "", " \t\r\n")
_NUMBER = rb"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?"
_LABEL = re.compile(rb"\s*([+-]?\d{1,9})" + (rb"\s+(" + _NUMBER + rb")") * 4 + rb"\s*")
_REPLACED = (
    ("/images/train2017/", "/labels/train2017/"),
    ("/images/val2017/", "/labels/val2017/"),
    ("/JPEGImages/", "/labels/"),
    ("\\images\\train2017\\", "\\labels\\train2017\\"),
    ("\\images\\val2017\\", "\\labels\\val2017\\"),
    ("\\images\\train2014\\", "\\labels\\train2014\\"),
    ("\\images\\val2014\\", "\\labels\\val2014\\"),
    ("/images/train2014/", "/labels/train2014/"),
    ("/images/val2014/", "/labels/val2014/"),
    ("\\JPEGImages\\", "\\labels\\"),
)
_EXTENSIONS = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".bmp", ".BMP", ".ppm", ".PPM", ".tiff", ".TIFF")
_LAST_IMAGES = re.compile(r"(^|[/\\])images([/\\])(?!.*[/\\]images[/\\])")


@dataclass(frozen=True)
class DataFile:
    """A parsed .data file: `key=value` lines with the lexer of a cfg, but no sections.

    Attributes:
        path: the file.
        options: first value of every key, white space removed (the first of duplicates is the one darknet reads).
    """

    path: Path
    options: dict[str, str]

    def resolve(self, value: str) -> Path:
        """Returns the existing path that a value means: from the current directory, else beside the .data file."""
        return base_of(value, (Path(), self.path.parent)) / value


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
        hard = make_objects(more.objects.boxes, more.objects.classes, np.ones(len(more.objects)), more.objects.lines)
        return LabelReading(join_objects(reading.objects, hard), reading.problems + more.problems)


def read_data_file(path: Path) -> DataFile:
    """Reads a .data file.

    Raises:
        DataError: it cannot be read, is not text, or holds no `key=value` line.
    """
    options: dict[str, str] = {}
    for line in read_lines(path, MAX_DATA_BYTES, "a darknet .data file"):
        stripped = line.translate(_BLANKS)
        if not stripped or stripped[0] in "#;":
            continue
        key, _, value = stripped.partition("=")
        if value:
            options.setdefault(key, value)
    if not options:
        raise DataError(f"{path}: has no key=value line; a .data file names train, valid and names")
    return DataFile(path, options)


def read_darknet(path: Path, split: str = "valid", names: Path | None = None) -> Dataset:
    """Reads the set that a .data file describes.

    Args:
        path: the .data file.
        split: the key that names the list of images: `train`, `valid` or any other key of the file.
        names: a names file that is used instead of the one the .data file names.

    Raises:
        DataError: a key is missing or points nowhere, or the list is empty.
    """
    data = read_data_file(path)
    if split not in data.options:
        raise DataError(f"{path}: has no `{split}=` line; add {split}=<list of images, one path per line>")
    listing = data.resolve(data.options[split])
    if not os.path.isfile(listing):
        raise DataError(f"{path}: {split}={printable(data.options[split])} points nowhere {_tried(data, split)}")
    class_names, problems = _names(data, names)
    hard = _difficult(data) if split == "valid" else None
    bases = (Path(), data.path.parent, listing.parent)
    images = records_of_list(listing, bases, hard)
    return Dataset(path.stem, class_names, images, tuple(problems), path)


def records_of_list(
    listing: Path, bases: Sequence[Path], difficult: Sequence[str] | None = None
) -> tuple[ImageRecord, ...]:
    """Reads a list of images, one path per line; blank lines are skipped.

    Args:
        listing: the list.
        bases: folders that a relative path may be relative to, the first that has the image wins.
        difficult: paths from which the label files of difficult objects follow, line by line (`difficult=` in .data).

    Raises:
        DataError: the list cannot be read or is empty, or the list of difficult objects has another length.
    """
    paths = read_list(listing)
    if difficult is not None and len(difficult) != len(paths):
        raise DataError(
            f"{listing}: has {len(paths)} images but the `difficult` list {len(difficult)}; they go in pairs"
        )
    hard: Iterable[str | None] = difficult if difficult is not None else [None] * len(paths)
    return tuple(_record(text, bases, other) for text, other in zip(paths, hard, strict=True))


def label_path(image: str) -> str:
    """Returns the label file that AlexeyAB's darknet reads for an image path (`replace_image_to_label`).

    Only /images/{train,val}20{14,17}/ and /JPEGImages/ become /labels/…, each once; an unknown extension stays.
    """
    for old, new in _REPLACED:
        image = image.replace(old, new, 1)
    image = image.strip(" \t")
    for extension in _EXTENSIONS:
        if image.endswith(extension):
            return image[: -len(extension)] + ".txt"
    return image


def find_label(image: str, base: Path = Path()) -> Path:
    """Returns the label file of an image: darknet's, else images/ → labels/, else the one beside the image.

    Where none exists it is darknet's, so that errors name what darknet would look for.
    """
    first = base / label_path(image)
    if os.path.isfile(first):
        return first
    stem = os.path.splitext(image)[0] + ".txt"
    for text in (_LAST_IMAGES.sub(r"\1labels\2", stem), stem):
        candidate = base / text
        if os.path.isfile(candidate):
            return candidate
    return first


def read_label_file(path: Path) -> LabelReading:
    """Reads `class cx cy w h` lines.

    Like darknet it stops at the first malformed line; unlike darknet it says so.
    """
    if not os.path.isfile(path):
        problem = DataProblem(
            path, None, "no such label file; darknet takes the image for one without objects", "missing"
        )
        return LabelReading(make_objects([], []), (problem,))
    try:
        data = read_file(path, MAX_LABEL_BYTES, "a label file")
    except DataError as error:
        problem = DataProblem(path, None, str(error).removeprefix(f"{path}: "), "label")
        return LabelReading(make_objects([], []), (problem,))
    rows: list[tuple[float, ...]] = []
    lines: list[int] = []
    problems: tuple[DataProblem, ...] = ()
    for number, line in enumerate(data.split(b"\n"), start=1):
        match = _LABEL.fullmatch(line)
        if match is None:
            if not line.strip():
                continue
            problems = (DataProblem(path, number, _malformed(line)),)
            break
        rows.append(tuple(map(float, match.groups())))
        lines.append(number)
    table = np.array(rows, np.float64).reshape(-1, 5)
    return LabelReading(make_objects(table[:, 1:], table[:, 0], None, lines), problems)


def read_names(path: Path) -> tuple[tuple[str, ...], list[DataProblem]]:
    """Reads a names file: line i is the name of class i.

    Raises:
        DataError: it cannot be read or is empty.
    """
    names = [line.strip() for line in read_lines(path, MAX_DATA_BYTES * 16, "a names file")]
    problems = []
    while names and not names[-1]:
        problems.append(DataProblem(path, len(names), "blank line at the end; darknet counts it as one class", "names"))
        names.pop()
    if not names:
        raise DataError(f"{path}: is empty; it has to hold one class name per line")
    problems += [
        DataProblem(path, number, "blank line: this class has no name", "names")
        for number, name in enumerate(names, start=1)
        if not name
    ]
    return tuple(names), problems


def _record(text: str, bases: Sequence[Path], difficult: str | None) -> ImageRecord:
    base = base_of(text, bases)
    hard = None if difficult is None else find_label(difficult, base)
    return ImageRecord(base / text, DarknetLabels(find_label(text, base), hard))


def _names(data: DataFile, override: Path | None) -> tuple[tuple[str, ...], list[DataProblem]]:
    count = data.options.get("classes", "")
    classes = int(count) if count.isascii() and count.isdigit() and len(count) < 7 else None
    value = data.options.get("names", data.options.get("labels"))
    if override is None and value is None:
        return (), [DataProblem(data.path, None, "has no `names=` line; classes are shown by number", "names")]
    path = override if override is not None else data.resolve(value or "")
    if not os.path.isfile(path):
        raise DataError(f"{data.path}: names={printable(str(path))} points nowhere {_tried(data, 'names')}")
    names, problems = read_names(path)
    if classes is not None and classes != len(names):
        message = f"says classes={classes} but {path} holds {len(names)} names; darknet refuses such a pair"
        problems.append(DataProblem(data.path, None, message, "names"))
    return names, problems


def _difficult(data: DataFile) -> list[str] | None:
    value = data.options.get("difficult")
    if value is None:
        return None
    path = data.resolve(value)
    if not os.path.isfile(path):
        raise DataError(f"{data.path}: difficult={printable(value)} points nowhere {_tried(data, 'difficult')}")
    return read_list(path)


def _tried(data: DataFile, key: str) -> str:
    places = " and from ".join(dict.fromkeys(printable(str(p)) for p in (os.getcwd(), data.path.parent.resolve())))
    return f"(looked from {places}); mend the `{key}=` line"


def _malformed(line: bytes) -> str:
    fields = line.split()
    text = printable(line.decode("latin-1").strip(), 60)
    if len(fields) != 5:
        reason = f"has {len(fields)} values instead of 5 (class cx cy w h)"
    else:
        reason = "is not `class cx cy w h` with a whole class number"
    return f"label line {reason}: '{text}'; this line and all below it are ignored, as darknet does"
