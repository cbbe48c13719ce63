"""Reading files that may be anything: bounded, and with errors that a user understands."""

from __future__ import annotations

from pathlib import Path

from darkprune.errors import DataError


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """Reads a whole file of at most `limit` bytes.

    Args:
        path: the file.
        limit: bytes that make sense for it.
        what: what it should be, for the error ("a label file").

    Raises:
        DataError: missing, unreadable or too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected {what}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a directory; expected {what}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: cannot be read ({reason})") from None
    if len(data) > limit:
        raise DataError(f"{path}: larger than {limit >> 20} MiB; this is not {what}")
    return data


def read_lines(path: Path, limit: int, what: str) -> list[str]:
    """Reads a text file as lines without their ends (LF or CRLF).

    Bytes that are not UTF-8 stay what they are (surrogate escapes), so that odd file names still open.

    Raises:
        DataError: as `read_bytes`, or the file is binary.
    """
    data = read_bytes(path, limit, what)
    if b"\0" in data:
        raise DataError(f"{path}: holds binary data, not text; expected {what}")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
