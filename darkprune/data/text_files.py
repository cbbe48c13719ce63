"""Text files of data sets: lists, names, labels, in whatever encoding they were saved."""

from __future__ import annotations

from pathlib import Path

from darkprune.darknet.input import read_file
from darkprune.darknet.recognise import is_utf16
from darkprune.errors import DataError

MAX_LIST_BYTES = 1 << 30
_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def read_lines(path: Path, limit: int, what: str) -> list[str]:
    """Reads a text file as lines without their ends (LF, CRLF or CR).

    Bytes that are not UTF-8 stay as they are (surrogate escapes), so that odd file names still open. UTF-16 is read
    where there is a byte order mark, or where it begins with Latin letters.

    Raises:
        DataError: it cannot be read, is larger than `limit` bytes, or is binary.
    """
    return split_lines(decode_text(read_file(path, limit, what), path, what)[0])


def decode_text(data: bytes, path: Path, what: str) -> tuple[str, str | None]:
    """Decodes the content of a text file.

    Returns:
        The text without its byte order mark, and the encoding if it is not plain UTF-8.

    Raises:
        DataError: it is binary.
    """
    encoding = _UTF16.get(data[:2])
    if encoding is not None or is_utf16(data):
        try:
            return data.decode(encoding or "utf-16-le").removeprefix("\ufeff"), "UTF-16"
        except UnicodeDecodeError:
            raise DataError(f"{path}: begins like UTF-16 text but is none; expected {what}") from None
    if b"\0" in data:
        raise DataError(f"{path}: holds binary data, not text; expected {what}")
    text = data.removeprefix(b"\xef\xbb\xbf")
    return text.decode("utf-8", "surrogateescape"), "UTF-8 with a byte order mark" if len(text) < len(data) else None


def split_lines(text: str) -> list[str]:
    """Splits text into lines without their ends; other characters that Unicode calls line ends stay."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines
