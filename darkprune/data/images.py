"""Decoding of image files, and darknet's ways to fit them to the network's input.

Files are decoded as by darknet's OpenCV build: turned by their EXIF orientation, and without complaint about a JPEG
whose last bytes are missing. Resizing follows `load_image`, `resize_image` and `letterbox_image` in 32-bit floats.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from darkprune.darknet.input import read_file
from darkprune.data.image_headers import stored_size, truncation
from darkprune.errors import DataError

Pixels = npt.NDArray[np.uint8]
Planes = npt.NDArray[np.float32]

MAX_IMAGE_BYTES = 1 << 30
MAX_PIXELS = 1 << 27
LETTERBOX_FILL = np.float32(0.5)
_SENSOR_BITS = (8, 10, 12, 14)  #: cameras with fewer than 16 bits keep their values in the lower ones
_GREY = 128  #: OpenCV fills missing parts of a JPEG with it

# silent: errors are raised, nothing is printed beside; where the function stands changed with OpenCV 4.12
getattr(cv2.utils, "logging", cv2).setLogLevel(0)


def read_image(path: Path, channels: int = 3) -> Pixels:
    """Decodes an image file: (height, width, channels) uint8.

    Args:
        path: JPEG, PNG, BMP, TIFF, WebP or another kind that OpenCV reads; 16-bit values are scaled to 8 bits.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: missing, truncated, too large or not an image, or `channels` is neither 1 nor 3.
    """
    return _decode(path, channels)[0]


def check_image(path: Path) -> str | None:
    """Decodes an image file and returns a problem that does not prevent that; None if there is none.

    Raises:
        DataError: as `read_image`.
    """
    return _decode(path, 3)[1]


def image_size(path: Path) -> tuple[int, int]:
    """Returns width and height of an image file in pixels.

    Raises:
        DataError: as `read_image`.
    """
    height, width = read_image(path, 1).shape[:2]
    return int(width), int(height)


def _decode(path: Path, channels: int) -> tuple[Pixels, str | None]:
    """Returns an image, and a problem of its file that did not prevent decoding."""
    if channels not in (1, 3):
        raise DataError(f"{path}: an image has 1 or 3 channels, but the network's input has {channels}")
    data = read_file(path, MAX_IMAGE_BYTES, "an image")
    size = stored_size(data)
    if size is None:
        raise DataError(f"{path}: {'is empty' if not data else 'is not an image that can be decoded'}")
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"{path}: has {size[0]}x{size[1]} pixels; at most {MAX_PIXELS:,} can be decoded")
    cut = truncation(data)
    is_jpeg = data.startswith(b"\xff\xd8")
    if cut and data.startswith(b"\x89PNG"):  # libpng would print what it thinks of it
        raise DataError(f"{path}: {cut}")
    flags = (cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_ANYDEPTH
    try:
        found = cv2.imdecode(np.frombuffer(data + b"\xff\xd9" if cut and is_jpeg else data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({str(error.err).splitlines()[0][:80]})") from None
    if found is None or (cut and is_jpeg and _is_filled(np.asarray(found))):
        raise DataError(f"{path}: {cut or 'is not an image that can be decoded'}")
    pixels = _as_bytes(np.asarray(found), path)
    if channels == 3:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels), cut and f"{cut}; it is decoded all the same, as by darknet"


def _is_filled(pixels: npt.NDArray[np.generic]) -> bool:
    """Returns whether a JPEG lacks more than its last bytes: a sixteenth of its rows, all grey, at the bottom."""
    rows = max(17, pixels.shape[0] // 16)
    return rows < pixels.shape[0] and bool((pixels[-rows:] == _GREY).all())


def _as_bytes(pixels: npt.NDArray[np.generic], path: Path) -> Pixels:
    """Scales 16-bit values to 8 bits, by the bits that the camera seems to have had."""
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    if pixels.dtype != np.uint16:
        raise DataError(f"{path}: has {pixels.dtype} values; images of 8 or 16 bits can be read")
    brightest = int(np.asarray(pixels, np.uint16).max())
    bits = next((bits for bits in _SENSOR_BITS if brightest < 1 << bits), 16)
    return np.asarray(np.right_shift(np.asarray(pixels, np.uint16), bits - 8), np.uint8)


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
    if last_exact:
        first[-1], fraction[-1] = source - 1, 0
    weight = fraction.copy()
    weight[-1] = 0
    second = np.minimum(first + 1, source - 1)
    first = np.minimum(first, source - 1)
    return first, second, (np.float32(1) - fraction)[:, None], weight[:, None]
