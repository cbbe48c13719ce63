"""Headers of image files: kind, size in pixels, and whether the file is whole, all before anything is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

Size = tuple[int, int]  #: width, height

# in JPEG scan data 0xFF is followed by 0 (stuffing), D0–D7 (restart) or FF (fill); anything else is a marker
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_END = 0xD9
_JPEG_ALONE = frozenset((0x01, 0xD8, _JPEG_END))  #: markers without a segment
_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")
_TIFF_SIZE_TAGS = {256: 0, 257: 1}


def stored_size(data: bytes) -> Size | None:
    """Returns width and height of an image file in pixels, before any EXIF orientation; None for what is no image.

    Known are the kinds that OpenCV decodes: JPEG, PNG, BMP, TIFF, WebP, PNM, GIF, JPEG 2000.
    """
    for begins, read in _KINDS.items():
        if data.startswith(begins):
            try:
                size = read(data)
            except struct.error:
                return None
            return size if size is not None and min(size) > 0 else None
    return None


def truncation(data: bytes) -> str | None:
    """Returns how an image file is cut short, by the ends of JPEG, PNG, BMP and WebP files; None for a whole one."""
    if data.startswith(b"\xff\xd8"):
        return None if _jpeg_ends(data) else "is a truncated JPEG (no end-of-image marker)"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None if _png_ends(data) else "is a truncated PNG (no IEND chunk)"
    expected = 0
    if data[:2] == b"BM" and len(data) >= 26:
        expected = int(struct.unpack_from("<I", data, 2)[0])
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        expected = int(struct.unpack_from("<I", data, 4)[0]) + 8
    if len(data) < expected:
        return f"is truncated ({len(data)} of {expected} bytes)"
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the markers of a JPEG, each with the position after it."""
    position = 2
    while (match := _JPEG_MARKER.search(data, position)) is not None:
        marker, position = data[match.end() - 1], match.end()
        yield marker, position
        if marker not in _JPEG_ALONE:
            if position + 2 > len(data):
                return
            position += int(struct.unpack_from(">H", data, position)[0])


def _jpeg_size(data: bytes) -> Size | None:
    for marker, position in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
    return None


def _png_size(data: bytes) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _bmp_size(data: bytes) -> Size:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height is stored from top to bottom


def _tiff_size(data: bytes) -> Size | None:
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    sides = [0, 0]
    for number in range(entries):
        place = start + 2 + 12 * number
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in _TIFF_SIZE_TAGS and kind in (3, 4):
            (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, place + 8)
            sides[_TIFF_SIZE_TAGS[tag]] = value
    return sides[0], sides[1]


def _webp_size(data: bytes) -> Size | None:
    if data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if data[12:16] == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return None


def _pnm_size(data: bytes) -> Size | None:
    match = _PNM.match(data[:4096])
    return None if match is None else (int(match[1]), int(match[2]))


def _gif_size(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _jp2_size(data: bytes) -> Size | None:
    place = data.find(b"ihdr", 0, 4096)
    if place < 0:
        return None
    height, width = struct.unpack_from(">II", data, place + 4)
    return width, height


_KINDS: dict[bytes, Callable[[bytes], Size | None]] = {
    b"\xff\xd8\xff": _jpeg_size,
    b"\x89PNG\r\n\x1a\n": _png_size,
    b"BM": _bmp_size,
    b"II*\0": _tiff_size,
    b"MM\0*": _tiff_size,
    b"RIFF": _webp_size,
    **{b"P%d" % number: _pnm_size for number in range(1, 7)},
    b"GIF8": _gif_size,
    b"\0\0\0\x0cjP  \r\n\x87\n": _jp2_size,
}


def _jpeg_ends(data: bytes) -> bool:
    """Returns whether an end-of-image marker closes a JPEG's scans."""
    return any(marker == _JPEG_END for marker, _ in _jpeg_segments(data))


def _png_ends(data: bytes) -> bool:
    """Walks a PNG's chunks; true when the IEND chunk is there."""
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return True
        position += 12 + int(length)
    return False
