"""From a picture to the network's input, as darknet does it.

darknet scales colours to 0..1, keeps them in RGB order and resizes with its own bilinear rule that maps the corner
pixels onto each other (`resize_image` in image.c); no interpolation of OpenCV does that, so it is written out here.
"""

from typing import Tuple

import cv2
import numpy as np

from . import RuntimeFailure

# what letterboxing leaves around the picture (fill_image in letterbox_image)
_BORDER = 0.5

Box = Tuple[int, int, int, int]


def read_image(path: str, channels: int = 3) -> np.ndarray:
    """A picture: (height, width, 3) uint8 in BGR order, or (height, width) for one channel.

    It is turned as its EXIF orientation says, as in darknet's OpenCV build.

    Raises:
        RuntimeFailure: it cannot be read.
    """
    image = cv2.imread(path, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    if image is None:
        raise RuntimeFailure("{}: not a picture that OpenCV reads".format(path))
    return image


def _neighbours(size: int, wanted: int, last_exact: bool) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First and second neighbour along `size` pixels for each of `wanted` places, and the weight of each.

    Horizontally darknet takes the last column as it is (`last_exact`). Vertically it computes the last row like any
    other but never adds its second part: where rounding puts it a hair above the last row, it comes out nearly black.
    A network has seen that in training, so it is kept.
    """
    step = np.float32(size - 1) / np.float32(max(wanted - 1, 1))
    places = np.arange(wanted, dtype=np.float32) * step
    first = places.astype(np.int64)
    share = places - first.astype(np.float32)
    if last_exact or size == 1:
        first[-1], share[-1] = size - 1, 0
    second_weight = share.copy()
    second_weight[-1] = 0
    second = np.minimum(first + 1, size - 1)
    return np.minimum(first, size - 1), second, np.float32(1) - share, second_weight


def _scaled(pixels: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = pixels.astype(np.float32)
    scaled /= np.float32(255)
    return scaled


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """darknet's bilinear resize, bit for bit.

    Args:
        image: (h, w, channels) uint8.
        width: wanted width in pixels.
        height: wanted height in pixels.

    Returns:
        (height, width, channels) float32 in 0..1.
    """
    if image.shape[:2] == (height, width):
        return _scaled(image)
    left, right, left_weight, right_weight = _neighbours(image.shape[1], width, True)
    above, below, above_weight, below_weight = _neighbours(image.shape[0], height, False)
    result = np.zeros((height, width, image.shape[2]), np.float32)
    for rows, row_weight in ((above, above_weight), (below, below_weight)):
        picked = image[rows]
        across = _scaled(picked[:, left]) * left_weight[None, :, None]
        across += _scaled(picked[:, right]) * right_weight[None, :, None]
        across *= row_weight[:, None, None]
        result += across
    return result


def letterbox_box(width: int, height: int, net_width: int, net_height: int) -> Box:
    """Where a picture lies in a letterboxed input: left, top, width, height in pixels (integer division as darknet)."""
    if np.float32(net_width) / np.float32(width) < np.float32(net_height) / np.float32(height):
        inner_width, inner_height = net_width, (height * net_width) // width
    else:
        inner_width, inner_height = (width * net_height) // height, net_height
    return (net_width - inner_width) // 2, (net_height - inner_height) // 2, inner_width, inner_height


def to_input(image: np.ndarray, width: int, height: int, channels: int = 3, letterbox: bool = False) -> np.ndarray:
    """The network's input for a decoded picture.

    Args:
        image: (h, w, 3) uint8 in BGR order or (h, w) uint8.
        width: of the network's input, pixels.
        height: of the network's input, pixels.
        channels: 3 or 1.
        letterbox: keep the aspect ratio and fill the rest with grey, instead of stretching.

    Returns:
        (channels, height, width) float32 in 0..1, RGB.
    """
    if channels == 1:
        picture = image[:, :, None] if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None]
    else:
        picture = (cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image)[:, :, ::-1]
    if letterbox:
        left, top, inner_width, inner_height = letterbox_box(picture.shape[1], picture.shape[0], width, height)
        canvas = np.full((height, width, channels), _BORDER, np.float32)
        if inner_width and inner_height:
            canvas[top : top + inner_height, left : left + inner_width] = resize(picture, inner_width, inner_height)
        picture = canvas
    else:
        picture = resize(picture, width, height)
    return np.ascontiguousarray(np.transpose(picture, (2, 0, 1)))
