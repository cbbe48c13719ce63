"""Pictures: from files, folders, videos and cameras; and from a picture to the network's input, as darknet does it.

darknet scales colours to 0..1, keeps them in RGB order and resizes with its own bilinear rule that maps the corner
pixels onto each other (`resize_image` in image.c); no interpolation of OpenCV does that, so it is written out here.
"""

import os
from typing import Iterator, List, NamedTuple, Tuple

import cv2
import numpy as np

from . import RuntimeFailure
from .files import read_bytes

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
# what letterboxing leaves around the picture (fill_image in letterbox_image)
_BORDER = 0.5

Box = Tuple[int, int, int, int]


class Camera(NamedTuple):
    """What a camera is asked for: pixels, pictures per second, and how often to turn by 90 degrees (0 to 3)."""

    width: int = 1280
    height: int = 720
    rate: int = 30
    turn: int = 0


def csi_pipeline(sensor: int, camera: Camera) -> str:
    """Returns the GStreamer pipeline that reads a CSI camera of a Jetson through its image processor.

    The last element keeps only the newest picture, so that a slow network does not fall behind the camera.
    """
    return (
        "nvarguscamerasrc sensor-id={sensor} ! "
        "video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, format=(string)NV12, "
        "framerate=(fraction){rate}/1 ! "
        "nvvidconv flip-method={turn} ! "
        "video/x-raw, format=(string)BGRx ! videoconvert ! video/x-raw, format=(string)BGR ! "
        "appsink max-buffers=1 drop=true sync=false"
    ).format(sensor=sensor, width=camera.width, height=camera.height, rate=camera.rate, turn=camera.turn)


def picture_files(folder: str) -> List[str]:
    """Lists the pictures in a folder, sorted by name.

    Raises:
        RuntimeFailure: there is none, or the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise RuntimeFailure("{}: cannot be read ({})".format(folder, error.strerror)) from None
    found = [os.path.join(folder, name) for name in names if name.lower().endswith(PICTURES)]
    if not found:
        raise RuntimeFailure("{}: no pictures there ({})".format(folder, ", ".join(PICTURES)))
    return found


def frames(source: str, camera: Camera, channels: int = 3) -> Iterator[Tuple[str, np.ndarray]]:
    """Yields pictures with a label each.

    Args:
        source: a picture, a folder of pictures, a video, `usb:0` or `csi:0`.
        camera: for the cameras.
        channels: of the network: 3 or 1.

    Yields:
        label and (height, width, 3) uint8 in BGR order.

    Raises:
        RuntimeFailure: the source does not open.
    """
    kind, _, number = source.partition(":")
    if kind in ("usb", "csi"):
        if not (number.isdecimal() and len(number) < 10):
            raise RuntimeFailure("{}: name the camera by number, such as {}:0".format(source, kind))
        for item in _stream(source, _open_camera(kind, int(number), camera)):
            yield item
    elif os.path.isdir(source):
        for path in picture_files(source):
            yield path, read_image(path, channels)
    elif source.lower().endswith(PICTURES):
        yield source, read_image(source, channels)
    else:
        if not os.path.isfile(source):
            raise RuntimeFailure("{}: no such picture, folder or video; cameras are csi:0 and usb:0".format(source))
        for item in _stream(source, cv2.VideoCapture(source)):
            yield item


def _open_camera(kind: str, number: int, camera: Camera) -> cv2.VideoCapture:
    if kind == "csi":
        return cv2.VideoCapture(csi_pipeline(number, camera), cv2.CAP_GSTREAMER)
    capture = cv2.VideoCapture(number)
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height)
    capture.set(cv2.CAP_PROP_FPS, camera.rate)
    return capture


def _stream(label: str, capture: cv2.VideoCapture) -> Iterator[Tuple[str, np.ndarray]]:
    if not capture.isOpened():
        hint = ""
        if label.startswith("csi"):
            hint = ": a CSI camera needs the OpenCV of JetPack, the one from pip has no GStreamer"
        raise RuntimeFailure("{}: does not open{}".format(label, hint))
    try:
        number = 0
        while True:
            good, image = capture.read()
            if not good:
                return
            yield "{}#{}".format(label, number), image
            number += 1
    finally:
        capture.release()


def read_image(path: str, channels: int = 3) -> np.ndarray:
    """Reads a picture: (height, width, 3) uint8 in BGR order, or (height, width) for one channel.

    It is turned as its EXIF orientation says, as in darknet's OpenCV build.

    Raises:
        RuntimeFailure: it cannot be read.
    """
    data = np.frombuffer(read_bytes(path), np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or more pixels than OpenCV allows
        image = None
    if image is None:
        raise RuntimeFailure("{}: not a picture that OpenCV reads".format(path))
    return image


def _neighbours(size: int, wanted: int, last_exact: bool) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns first and second neighbour along `size` pixels for each of `wanted` places, and the weight of each.

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
    """Resizes bilinearly as darknet does, bit for bit: (height, width, channels) float32 in 0..1.

    Args:
        image: (h, w, channels) uint8.
        width: wanted width in pixels.
        height: wanted height in pixels.
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
    """Returns where a picture lies in a letterboxed input: left, top, width, height in pixels, as darknet."""
    if np.float32(net_width) / np.float32(width) < np.float32(net_height) / np.float32(height):
        inner_width, inner_height = net_width, (height * net_width) // width
    else:
        inner_width, inner_height = (width * net_height) // height, net_height
    return (net_width - inner_width) // 2, (net_height - inner_height) // 2, inner_width, inner_height


def to_input(image: np.ndarray, width: int, height: int, channels: int = 3, letterbox: bool = False) -> np.ndarray:
    """Returns the network's input for a decoded picture.

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
