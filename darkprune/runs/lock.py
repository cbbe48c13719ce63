"""One lock per folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkprune.darknet.leftovers import lock
from darkprune.darknet.output import LOCK
from darkprune.errors import OutputError


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if need be.

    The lock ends with the process, however that ends. On Windows nobody is kept out.

    Args:
        shared: let others in that share it too, such as jobs that each do a part of one comparison.

    Raises:
        OutputError: another process works in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        if not lock(number, shared):
            raise OutputError(f"{folder}: another darkprune is at work in it")
        yield
    finally:
        os.close(number)
