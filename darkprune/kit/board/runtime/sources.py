"""Where pictures come from: files, folders, videos, a USB or a CSI camera."""

import os
from typing import Iterator, List, NamedTuple, Tuple

import cv2
import numpy as np

from . import RuntimeFailure
from .image import read_image

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")


class Camera(NamedTuple):
    """What a camera is asked for: pixels, pictures per second, and how often to turn by 90 degrees (0 to 3)."""

    width: int = 1280
    height: int = 720
    rate: int = 30
    turn: int = 0


def csi_pipeline(sensor: int, camera: Camera) -> str:
    """The GStreamer pipeline that reads a CSI camera of a Jetson through its image processor.

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
    """The pictures in a folder, by name.

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
    """Pictures with a label each.

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
        if not number.isdigit():
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
