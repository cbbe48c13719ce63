"""Reading files that anybody may have written: whole, bounded, with errors in one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from darkprune.errors import DarkpruneError, DataError


def read_file(path: Path, max_bytes: int, what: str, error: type[DarkpruneError] = DataError) -> bytes:
    """Reads a whole file.

    Args:
        path: the file.
        max_bytes: size above which it cannot be what is expected.
        what: what it should be, for the error ("a label file").
        error: what is raised.

    Raises:
        DarkpruneError: it is missing, unreadable, too large, or no regular file (a pipe would never end).
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(f"{path}: is not a regular file; expected {what}")
            if found.st_size > max_bytes:
                raise error(f"{path}: larger than {max_bytes >> 20} MiB; this is not {what}")
            return file.readall()[: max_bytes + 1]
    except FileNotFoundError:
        raise error(f"{path}: no such file; expected {what}") from None
    except IsADirectoryError:
        raise error(f"{path}: is a directory; expected {what}") from None
    except (OSError, ValueError) as trouble:
        reason = trouble.strerror if isinstance(trouble, OSError) and trouble.strerror else str(trouble)
        raise error(f"{path}: cannot be read ({reason})") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe without a writer would wait for one
