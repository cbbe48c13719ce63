"""Drawing detections on images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from darkprune.evaluation.nms import Detections

# hues far apart from their neighbours: the golden angle
_GOLDEN = 137.508
MOST_CHARACTERS = 60  #: of a name


def colour_of(label: int) -> tuple[int, int, int]:
    """Returns a class's colour, BGR."""
    hue = (label * _GOLDEN) % 360 / 2
    pixel = cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(pixel[0]), int(pixel[1]), int(pixel[2])


def pixel_boxes(boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.float64]:
    """Turns relative cx, cy, w, h into left, top, right, bottom in pixels, clipped to the image."""
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    return np.asarray(np.clip(corners, 0, 1) * np.array([width, height, width, height]))


def draw(image: NDArray[np.uint8], found: Detections, names: Sequence[str], scores: bool = True) -> NDArray[np.uint8]:
    """Draws boxes with names and scores.

    Args:
        image: (h, w, 3), BGR; not changed.
        found: detections of this image.
        names: of the classes; a missing one becomes its number.
        scores: whether scores are written; labels have none.
    """
    canvas: NDArray[np.uint8] = image.copy()
    height, width = canvas.shape[:2]
    thick = max(1, round(max(height, width) / 400))
    scale = 0.36 * max(1.0, max(height, width) / 600)
    corners = np.round(pixel_boxes(found.boxes, width, height)).astype(int).tolist()
    order = np.argsort(found.scores).tolist()  # the surest lie on top
    for number in order:  # boxes first: none hides a name
        left, top, right, bottom = corners[number]
        cv2.rectangle(canvas, (left, top), (right, bottom), (0, 0, 0), thick + 2)  # a dark rim, for bright images
        cv2.rectangle(canvas, (left, top), (right, bottom), colour_of(int(found.classes[number])), thick)
    for number in order:
        left, top, *_ = corners[number]
        label = int(found.classes[number])
        name = names[label] if label < len(names) else str(label)
        text = f"{_drawable(name)} {found.scores[number]:.2f}" if scores else _drawable(name)
        (text_width, text_height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        baseline = max(top - 3, text_height + 2)
        start = min(left, max(0, width - text_width))
        place = (start, baseline - text_height - 2), (start + text_width, baseline + base - 2)
        cv2.rectangle(canvas, *place, colour_of(label), -1)
        cv2.putText(canvas, text, (start, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def _drawable(name: str) -> str:
    """Returns a name in the characters that OpenCV's font has."""
    return "".join(c if " " <= c <= "~" else "?" for c in name[:MOST_CHARACTERS])
