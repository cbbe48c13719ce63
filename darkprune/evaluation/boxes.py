"""Overlap of boxes, in darknet's arithmetic (`box_iou`, `box_diou`, `box_diounms`): 32 bits, centre and size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes with their edges and areas worked out once; all (n,) float32."""

    x: Floats
    y: Floats
    left: Floats
    right: Floats
    top: Floats
    bottom: Floats
    area: Floats


def prepare(boxes: Floats) -> Boxes:
    """Works out the edges of boxes (n, 4) cx, cy, w, h."""
    x, y, w, h = (np.ascontiguousarray(boxes[:, column], np.float32) for column in range(4))
    half_w, half_h = w / np.float32(2), h / np.float32(2)
    with np.errstate(over="ignore", invalid="ignore"):
        return Boxes(x, y, x - half_w, x + half_w, y - half_h, y + half_h, w * h)


def iou(a: Boxes, i: Indices, b: Boxes, j: Indices) -> Floats:
    """Returns the intersection over union of the pairs (a[i], b[j]), (n,) float32; 0 where either part is 0."""
    with np.errstate(all="ignore"):
        width = np.minimum(a.right[i], b.right[j]) - np.maximum(a.left[i], b.left[j])
        height = np.minimum(a.bottom[i], b.bottom[j]) - np.maximum(a.top[i], b.top[j])
        inside = np.maximum(width, 0) * np.maximum(height, 0)
        union = a.area[i] + b.area[j] - inside
        return np.asarray(np.where((inside == 0) | (union == 0), 0, inside / union), np.float32)


def distance_penalty(a: Boxes, i: Indices, b: Boxes, j: Indices, exponent: float) -> Floats:
    """Returns (d/c)^exponent of the pairs: squared distance of the centres over squared diagonal of the hull."""
    with np.errstate(all="ignore"):
        width = np.maximum(a.right[i], b.right[j]) - np.minimum(a.left[i], b.left[j])
        height = np.maximum(a.bottom[i], b.bottom[j]) - np.minimum(a.top[i], b.top[j])
        diagonal = width * width + height * height
        dx, dy = a.x[i] - b.x[j], a.y[i] - b.y[j]
        ratio = (dx * dx + dy * dy) / diagonal
        penalty = np.power(ratio.astype(np.float64), exponent).astype(np.float32)
    return np.asarray(np.where(diagonal == 0, 0, penalty), np.float32)
