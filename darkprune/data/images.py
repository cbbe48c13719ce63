"""Decoding of image files, and darknet's ways to fit them to the network's input.

Arithmetic follows `load_image`, `resize_image` and `letterbox_image` in 32-bit floats. Orientation tags (EXIF) are not
applied, as in darknet's own decoder, since labels are relative to the stored pixels.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from darkprune.darknet.input import read_file
from darkprune.errors import DataError

Pixels = npt.NDArray[np.uint8]
Planes = npt.NDArray[np.float32]

MAX_IMAGE_BYTES = 1 << 30
LETTERBOX_FILL = np.float32(0.5)
# in JPEG scan data 0xFF is followed by 0 (stuffing), D0–D7 (restart) or FF (fill); anything else is a marker
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_image(path: Path, channels: int = 3) -> Pixels:
    """Decodes an image file.

    Args:
        path: JPEG, PNG, BMP, TIFF, WebP or whatever else OpenCV reads.
        channels: 3 for RGB, 1 for grey.

    Returns:
        (height, width, channels) uint8.

    Raises:
        DataError: missing, truncated or not an image, or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise DataError(f"{path}: an image has 1 or 3 channels, but the network's input has {channels}")
    data = read_file(path, MAX_IMAGE_BYTES, "an image")
    trouble = truncation(data)
    if trouble:
        raise DataError(f"{path}: {trouble}")
    flags = (cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({str(error.err).splitlines()[0][:80]})") from None
    if pixels is None:
        raise DataError(f"{path}: {'is empty' if not data else 'is not an image that can be decoded'}")
    if channels == 1:
        return np.asarray(pixels, np.uint8)[:, :, None]
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Returns width and height of an image file in pixels.

    Raises:
        DataError: as `read_image`.
    """
    height, width = read_image(path, 1).shape[:2]
    return int(width), int(height)


def to_planes(pixels: Pixels) -> Planes:
    """Turns (h, w, c) uint8 into darknet's (c, h, w) float32 in 0…1."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    planes /= np.float32(255)
    return planes


def resize(pixels: Pixels, width: int, height: int, out: Planes | None = None) -> Planes:
    """Resizes as darknet's `resize_image`: bilinear, first and last pixels of both images aligned.

    Bit for bit darknet's, with its slip: where rounding puts the last row a hair above the last source row, darknet
    leaves out the larger of its two parts and the row is nearly black (so it goes for 7 of 100 heights at 320 rows).

    Args:
        pixels: (h, w, c) uint8.
        width, height: of the result, in pixels.
        out: where to put the result; a new array if None.

    Returns:
        (c, height, width) float32 in 0…1.
    """
    rows, columns, channels = pixels.shape
    if out is None:
        out = np.empty((channels, height, width), np.float32)
    if (columns, rows) == (width, height):
        out[...] = to_planes(pixels)
        return out
    left, right, left_weight, right_weight = _taps(columns, width, True)
    upper, lower, upper_weight, lower_weight = _taps(rows, height, False)
    for channel in range(channels):
        # both passes gather whole rows (of the transposed plane first): many times faster than gathering pixels
        turned = np.asarray(cv2.transpose(cv2.extractChannel(pixels, channel)), np.float32).reshape(columns, rows)
        turned /= np.float32(255)
        part = turned[left]
        part *= left_weight
        other = turned[right]
        other *= right_weight
        part += other
        straight = np.asarray(cv2.transpose(part), np.float32).reshape(rows, width)
        plane = straight[upper]
        plane *= upper_weight
        other = straight[lower]
        other *= lower_weight
        np.add(plane, other, out=out[channel])
    return out


def letterbox_size(image_width: int, image_height: int, width: int, height: int) -> tuple[int, int]:
    """Returns the size that an image takes inside a letterbox of width × height (darknet's integer division)."""
    if np.float32(width) / np.float32(image_width) < np.float32(height) / np.float32(image_height):
        return width, image_height * width // image_width
    return image_width * height // image_height, height


def letterbox(pixels: Pixels, width: int, height: int, out: Planes | None = None) -> Planes:
    """Resizes with the aspect kept and centres on grey 0.5, as darknet's `letterbox_image`.

    Args and result as `resize`.
    """
    rows, columns, channels = pixels.shape
    if out is None:
        out = np.empty((channels, height, width), np.float32)
    inner_width, inner_height = letterbox_size(columns, rows, width, height)
    out[...] = LETTERBOX_FILL
    if inner_width and inner_height:
        x, y = (width - inner_width) // 2, (height - inner_height) // 2
        out[:, y : y + inner_height, x : x + inner_width] = resize(pixels, inner_width, inner_height)
    return out


def truncation(data: bytes) -> str | None:
    """Tells how an image file is cut short, or None.

    OpenCV decodes a truncated JPEG without a word and fills the rest with grey, so that a half-copied data set trains
    on junk; the ends of JPEG, PNG, BMP and WebP files are therefore checked before decoding.
    """
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


@lru_cache(maxsize=4096)
def _taps(
    source: int, target: int, last_exact: bool
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Planes, Planes]:
    """Returns, per target position, the two source positions and their weights as columns (target, 1).

    Args:
        source, target: lengths in pixels.
        last_exact: the horizontal pass takes the last source column for its last column; the vertical pass computes
            its last row like any other but never adds the second part.
    """
    step = np.float32(source - 1) / np.float32(max(target - 1, 1))
    position = np.arange(target, dtype=np.float32) * step
    first = position.astype(np.intp)
    fraction = position - first.astype(np.float32)
    weight = fraction.copy()
    if last_exact:
        first[-1], fraction[-1], weight[-1] = source - 1, 0, 0
    if source == 1:
        first[:], fraction[:] = 0, 0
    weight[-1] = 0
    if source == 1:
        weight[:] = 0
    second = np.minimum(first + 1, source - 1)
    first = np.minimum(first, source - 1)
    return first, second, (np.float32(1) - fraction)[:, None], weight[:, None]


def _jpeg_ends(data: bytes) -> bool:
    """Walks a JPEG's segments; true when an end-of-image marker closes its scans."""
    position = 2
    while (match := _JPEG_MARKER.search(data, position)) is not None:
        marker = data[match.end() - 1]
        position = match.end()
        if marker == 0xD9:
            return True
        if marker in (0x01, 0xD8):
            continue
        if position + 2 > len(data):
            return False
        position += int(struct.unpack_from(">H", data, position)[0])
    return False


def _png_ends(data: bytes) -> bool:
    """Walks a PNG's chunks; true when the IEND chunk is there."""
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return True
        position += 12 + int(length)
    return False
