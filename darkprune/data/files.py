"""Text files of data sets: lists, names, `.data` files."""

from __future__ import annotations

from pathlib import Path

from darkprune.darknet.input import read_file
from darkprune.errors import DataError

MAX_LIST_BYTES = 1 << 30


def read_lines(path: Path, limit: int, what: str) -> list[str]:
    """Reads a text file as lines without their ends (LF or CRLF).

    Bytes that are not UTF-8 stay as they are (surrogate escapes), so that odd file names still open.

    Raises:
        DataError: it cannot be read, is larger than `limit` bytes, or is binary.
    """
    data = read_file(path, limit, what)
    if b"\0" in data:
        raise DataError(f"{path}: holds binary data, not text; expected {what}")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
