"""Recognises a file that is neither a .cfg nor a .weights file, by its first bytes."""

from __future__ import annotations

_UTF16 = "UTF-16 text; save it as UTF-8 without byte order mark"
#: first bytes -> what the file is, and what to do
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for; fetch that with `git lfs pull`"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first with gunzip"),
    (b"BZh", "compressed with bzip2; unpack it first with bunzip2"),
    (b"\xfd7zXZ\0", "compressed with xz; unpack it first with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it first"),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", "a PyTorch file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (b"\xff\xfe", _UTF16),
    (b"\xfe\xff", _UTF16),
)
_ENTRY_NAME = 30  #: offset of the name in an archive's first entry
LOOKED_AT = 512  #: bytes that `other_file` looks at


def other_file(data: bytes) -> str | None:
    """Returns what a file is, for an error; None for what may be a .cfg or a .weights file.

    Args:
        data: its first bytes, `LOOKED_AT` or more if there are as many.
    """
    data = data[:LOOKED_AT]
    for start, meaning in _SIGNATURES:
        if data.startswith(start):
            return meaning
    if data.startswith(b"PK\x03\x04"):
        length = int.from_bytes(data[26:28], "little")
        is_torch = data[_ENTRY_NAME : _ENTRY_NAME + length].endswith((b"data.pkl", b".format_version"))
        return "a PyTorch file (.pt, .pth)" if is_torch else "a zip archive; unpack it first"
    if is_utf16(data):
        return _UTF16
    text = data.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (HTML): the download gave a page instead of the file"
    return None


def is_utf16(data: bytes) -> bool:
    """Returns whether a file without byte order mark begins like UTF-16 text of Windows: every second byte is 0."""
    characters, zeros = data[:64:2], data[1:64:2]
    return len(zeros) > 3 and not any(zeros) and all(32 <= c < 127 or c in b"\t\r\n" for c in characters)
