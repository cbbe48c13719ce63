"""Image files: which files are images, and the images of a folder or a list."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from darkprune.data.files import MAX_LIST_BYTES, read_lines
from darkprune.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"))
LIST_SUFFIXES = frozenset((".txt", ".list"))
HELD_OUT = 64  #: most unlabelled images that are kept to measure on


def is_image(path: Path | str) -> bool:
    """Tells by its suffix whether a file is an image."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def list_images(folder: Path) -> tuple[Path, ...]:
    """Returns all image files below a folder, in order of path; links are followed.

    Raises:
        DataError: there are none.
    """
    found = [Path(place) / file for place, files in _places(folder) for file in files if is_image(file)]
    if not found:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return tuple(sorted(found))


def images_of(source: Path) -> tuple[Path, ...]:
    """Returns the images of a folder (with its subfolders) or of a list (.txt, .list).

    Raises:
        DataError: there is nothing, or something that is neither.
    """
    if source.is_dir():
        return list_images(source)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give a folder of images, or a list of them (.txt)")
    if source.suffix.lower() not in LIST_SUFFIXES:
        what = "one image" if is_image(source) else "no folder and no list"
        raise DataError(f"{source}: is {what}; give a folder of images, or a list of them (.txt)")
    bases = (Path(), source.parent)
    return tuple(base_of(text, bases) / text for text in read_list(source))


def read_list(path: Path) -> list[str]:
    """Reads a list of images, one path per line; blank lines are skipped.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    paths = [line for line in read_lines(path, MAX_LIST_BYTES, "a list of images") if line.strip()]
    if not paths:
        raise DataError(f"{path}: is empty; it has to name one image per line")
    return paths


def base_of(value: str, bases: Sequence[Path]) -> Path:
    """Returns the first base under which `value` exists, else the first base."""
    return next((base for base in bases if os.path.exists(base / value)), bases[0])


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
