"""Digests: the one definition of what identifies a file, a set of images, and labels.

All are SHA-256 in hexadecimal. Where paths count they are absolute, so that the current folder does not matter.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol

SETTLED_NS = 2_000_000_000  #: a file that changed less than this ago may change again without a new time stamp


class LabelFile(Protocol):
    """Where the labels of one image come from."""

    @property
    def file(self) -> Path:
        """The file that holds them; it may not exist."""
        ...


class LabelledImage(Protocol):
    """One image of a labelled set."""

    @property
    def path(self) -> Path:
        """The image file."""
        ...

    @property
    def labels(self) -> LabelFile:
        """Where its labels come from."""
        ...


class LabelledImages(Protocol):
    """A labelled set, such as `darkprune.data.dataset.Dataset`."""

    @property
    def class_names(self) -> Sequence[str]:
        """Name of class i at position i."""
        ...

    @property
    def images(self) -> Sequence[LabelledImage]:
        """The images, in their order."""
        ...


def digest_of_file(path: Path) -> str:
    """Returns the digest of a file's content; a file that stays as it is, is read once per process.

    Raises:
        OSError: it cannot be read.
    """
    found = os.stat(path)
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED_NS:
        return _read_digest(path)
    return _known_digest(os.path.abspath(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def digest_of_lines(lines: Iterable[str]) -> str:
    """Returns the digest of lines of text."""
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def digest_of_images(paths: Iterable[Path], content: bool = False) -> str:
    """Returns the digest of images in their order.

    Args:
        paths: of the images; one that cannot be read counts as such.
        content: go by their content alone; by default by path and size, which is fast for any number of images.
    """
    return digest_of_lines(_content_of(path) if content else _path_and_size(path) for path in paths)


def digest_of_labels(*sets: LabelledImages, content: bool = False) -> str:
    """Returns the digest of labelled sets: the images, the content of their label files, the names of the classes.

    Args:
        sets: such as the training and the validation images.
        content: as in `digest_of_images`; labels count by content in any case.
    """
    lines: list[str] = []
    for dataset in sets:
        lines += ["names", *dataset.class_names]
        lines += ["images", digest_of_images((image.path for image in dataset.images), content)]
        lines += ["labels", *map(_content_of, dict.fromkeys(image.labels.file for image in dataset.images))]
    return digest_of_lines(lines)


def plain(settings: object) -> dict[str, object]:
    """Returns settings as JSON values, for keys and records.

    Args:
        settings: a dataclass or a mapping.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {str(name): _plain(value) for name, value in settings.items()}
    raise TypeError(f"{type(settings).__name__} holds no settings")


def _plain(value: object) -> object:
    if isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return plain(value)
    if isinstance(value, list | tuple | set | frozenset):
        parts = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(part) for part in parts]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


@lru_cache(maxsize=4096)
def _known_digest(path: str, *identity: int) -> str:
    return _read_digest(Path(path))


def _read_digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _path_and_size(path: Path) -> str:
    try:
        return f"{os.path.abspath(path)} {os.stat(path).st_size}"
    except OSError:
        return f"{os.path.abspath(path)} -"


def _content_of(path: Path) -> str:
    try:
        return digest_of_file(path)
    except OSError:
        return "-"
