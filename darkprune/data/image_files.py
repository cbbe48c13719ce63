"""Image files: which files are images, and the images of a folder or a list."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from darkprune.data.dataset import DataProblem
from darkprune.data.text_files import MAX_LIST_BYTES, read_lines
from darkprune.errors import DataError, one_line

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"))
HELD_OUT = 64  #: most unlabelled images that are kept to measure on


def is_image(path: Path | str) -> bool:
    """Returns whether, by its suffix, a file is an image."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def is_list(path: Path) -> bool:
    """Returns whether, by its suffix, a file is a list of images."""
    return path.suffix.lower() in (".txt", ".list")


def is_windows(path: str) -> bool:
    """Returns whether a path begins with a drive letter or a network share."""
    return _WINDOWS.match(path) is not None


def list_images(folder: Path) -> tuple[Path, ...]:
    """Returns all image files below a folder, in order of path; links are followed.

    Raises:
        DataError: there are none.
    """
    found = images_below(folder)
    if not found:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def images_below(folder: Path) -> tuple[Path, ...]:
    """Returns all image files below a folder, in order of path; links are followed."""
    return tuple(sorted(Path(place) / file for place, files in _places(folder) for file in files if is_image(file)))


def images_of(source: Path) -> tuple[Path, ...]:
    """Returns the images of a folder (with its subfolders) or of a list (.txt, .list).

    Raises:
        DataError: there is nothing, something that is neither, or a list of images that are not there.
    """
    if source.is_dir():
        return list_images(source)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give a folder of images, or a list of them (.txt)")
    if not is_list(source):
        what = "one image" if is_image(source) else "no folder and no list"
        raise DataError(f"{source}: is {what}; give a folder of images, or a list of them (.txt)")
    listed = [find_listed(text, (Path(), source.parent)) for text in read_list(source)]
    paths = tuple(image.base / image.text for image in listed)
    if not any(map(os.path.exists, paths)):
        reasons = [problem.message for problem in list_problems(source, listed)]
        reason = reasons[0] if reasons else f"the first is {one_line(str(paths[0]), 200)}"
        raise DataError(f"{source}: not one of its {len(paths)} images is there: {reason}")
    return paths


def read_list(path: Path) -> list[str]:
    """Reads a list of images, one path per line; blank lines are skipped.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    paths = [line for line in read_lines(path, MAX_LIST_BYTES, "a list of images") if line.strip()]
    if not paths:
        raise DataError(f"{path}: is empty; it has to name one image per line")
    return paths


class Listed(NamedTuple):
    """A line of a list of images.

    Attributes:
        base: folder that the path is relative to.
        text: the path, as it leads to the image.
        odd: kind of difference to the line in the list, a key of `_ODD`; empty if none.
    """

    base: Path
    text: str
    odd: str = ""


_ODD = {
    "blanks": "end in blanks, which darknet takes for a part of the name; darknet would not find these images",
    "backslash": "have backslashes; darknet would not find these images here, write /",
    "data/": "begin with data/, which is left out here; darknet has to be started in the folder above",
    "quotes": "stand in quotation marks, which darknet takes for a part of the name; it would not find these images",
    "windows": "are paths of a Windows machine; write them as they are here, or relative to the list",
    "more": "go on after the name of an image; a list holds names alone, and boxes stand in label files",
}
_WINDOWS = re.compile(r"[\"']?(?:[A-Za-z]:[\\/]|\\\\)")
_MORE = re.compile(r".*\.(?:jpe?g|png|bmp|tiff?|webp|ppm)[\s,;]+\S", re.IGNORECASE)


def find_listed(text: str, bases: Sequence[Path]) -> Listed:
    """Finds the image that a line of a list means, also where other tools wrote the list.

    Returns:
        The first path that exists, relative to one of the bases, else the line itself.
    """
    stripped = text.strip()
    slashed = stripped.replace("\\", "/")
    for odd, variant in (
        ("", text),
        ("blanks", stripped),
        ("backslash", slashed),
        ("data/", slashed.removeprefix("data/")),
        ("quotes", stripped.strip("\"'")),
    ):
        if odd and variant == text:
            continue
        for base in bases:
            if os.path.exists(os.path.join(base, variant)):
                return Listed(base, variant, odd)
    return Listed(bases[0], text, "windows" if is_windows(text) else "more" if _MORE.match(text) else "")


def list_problems(path: Path, images: Sequence[Listed]) -> list[DataProblem]:
    """Reports how the lines of a list are odd, one problem of every kind."""
    counts = Counter(image.odd for image in images if image.odd)
    return [
        DataProblem(path, None, f"{count} of {len(images)} lines {_ODD[odd]}", "list") for odd, count in counts.items()
    ]


def divide_images(paths: Sequence[Path], seed: int = 0) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Divides unlabelled images into those to work on, in random order, and those held out: a quarter, at most 64."""
    mixed = list(paths)
    random.Random(seed).shuffle(mixed)
    held = min(HELD_OUT, max(1, len(mixed) // 4))
    return tuple(mixed[held:]), tuple(mixed[:held])


def _places(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields every folder below one, once, with its files; a link that leads upwards ends there."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield place, files
