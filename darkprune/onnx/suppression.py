"""Checks the suppression inside a file by its result, on the boxes and scores that went into it.

Comparing with another suppression would not do: scores of fresh weights tie within rounding, their order then differs,
and one other survivor takes or frees many others. But a greedy suppression can be judged from its result alone: no two
survivors of a class overlap, and whatever else is above the limit overlaps a survivor that is as good or better.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from darkprune.onnx.nodes.outputs import Suppression

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_ROUNDING = 1e-5  #: of an IoU in FP32


def suppression_fault(detections: Floats, boxes: Floats, scores: Floats, limits: Suppression) -> str:
    """Judges what a file of the form `nms` gives.

    Args:
        detections: (n, 7): image, x1, y1, x2, y2, score, class.
        boxes: (images, m, 4) corners, as the file suppresses them.
        scores: (images, classes, m).
        limits: thresholds of the file; `most` per image and class.

    Returns:
        What is wrong, in words; empty if it is what greedy suppression leaves (where scores tie or an overlap is
        within rounding of the limit, one of the results that it may leave).
    """
    rows: dict[tuple[int, int], list[Floats]] = defaultdict(list)
    for row in detections:
        rows[int(row[0]), int(row[6])].append(row[1:6])
    for image, number in rows:
        if not (0 <= image < scores.shape[0] and 0 <= number < scores.shape[1]):
            return f"a detection of image {image}, class {number}, of which there is none"
    for image, number in np.ndindex(*scores.shape[:2]):
        fault = _fault(rows.get((image, number), []), boxes[image], scores[image, number], limits)
        if fault:
            return f"image {image}, class {number}: {fault}"
    return ""


def _fault(rows: list[Floats], boxes: Floats, scores: Floats, limits: Suppression) -> str:
    """Judges one class of one image: `rows` of four corners and a score against all boxes (m, 4) and scores (m,)."""
    above = scores > np.float32(limits.score)
    boxes, scores = boxes[above], scores[above]
    if len(rows) > limits.most:
        return f"{len(rows)} detections, but {limits.most} is the limit"
    kept = _places(rows, boxes, scores)
    if kept is None:
        return "a detection that is none of the boxes above the limit"
    survivors = np.zeros(len(boxes), bool)
    survivors[kept] = True
    explained = survivors.copy()
    for place in kept:
        overlap = _iou(boxes, boxes[place])
        explained |= (scores <= scores[place]) & (overlap > limits.iou - _ROUNDING)
        overlap[place] = 0
        if overlap[kept].max(initial=0) > limits.iou + _ROUNDING:
            return f"two detections overlap by {overlap[kept].max():.4f}"
    if len(kept) == limits.most:  # enough was found before the others had their turn
        explained |= scores <= scores[kept].min(initial=np.inf)
    if not explained.all():
        return f"{np.count_nonzero(~explained)} boxes are missing that no better detection overlaps"
    return ""


def _places(rows: list[Floats], boxes: Floats, scores: Floats) -> list[int] | None:
    """Finds the box that each row is, every box once; None where there is none."""
    table = np.concatenate([boxes, scores[:, None]], axis=1)
    waiting: dict[bytes, list[int]] = defaultdict(list)
    for index, values in enumerate(table):
        waiting[values.tobytes()].append(index)
    found = []
    for row in rows:
        places = waiting.get(row.tobytes())
        if not places:
            return None
        found.append(places.pop())
    return found


def _iou(boxes: Floats, other: Floats) -> Doubles:
    """Overlap of boxes (m, 4) with one; 0 where one has no area, as onnxruntime has it."""
    a, b = boxes.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        sides = np.minimum(a[:, 2:], b[2:]) - np.maximum(a[:, :2], b[:2])
        common = np.clip(sides, 0, None).prod(axis=1)
        overlap = common / ((a[:, 2:] - a[:, :2]).prod(axis=1) + (b[2:] - b[:2]).prod() - common)
    return np.where(common > 0, overlap, 0.0)
