"""Digests: the one definition of what identifies a file, a set of images, and settings.

All are SHA-256 in hexadecimal. Where paths count they are absolute, so that the current folder does not matter.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

SETTLED_NS = 2_000_000_000  #: a file that changed less than this ago may change again without a new time stamp


def digest_of_file(path: Path) -> str:
    """Returns the digest of a file's content; a file that stays as it is, is read once per process.

    Raises:
        OSError: it cannot be read.
    """
    found = os.stat(path)
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED_NS:
        return _read_digest(path)
    return _known_digest(os.path.abspath(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def digest_if_readable(path: Path) -> str:
    """Returns the digest of a file's content, or a dash where it cannot be read."""
    try:
        return digest_of_file(path)
    except OSError:
        return "-"


def digest_of_lines(lines: Iterable[str]) -> str:
    """Returns the digest of lines of text."""
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def digest_of_images(paths: Iterable[Path], content: bool = False) -> str:
    """Returns the digest of images in their order.

    Args:
        paths: of the images; one that cannot be read counts as such.
        content: go by their content alone; by default by path and size, which is fast for any number of images.
    """
    return digest_of_lines(digest_if_readable(path) if content else _path_and_size(path) for path in paths)


def plain(settings: object) -> dict[str, object]:
    """Returns a dataclass or a mapping as JSON values: paths as text, sets sorted."""
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
