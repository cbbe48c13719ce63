"""Which detection meets which labelled object, as `detector map` decides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darkprune.data.dataset import Objects
from darkprune.evaluation.boxes import iou, prepare
from darkprune.evaluation.heads import Floats
from darkprune.evaluation.nms import Detections
from darkprune.evaluation.rows import Rows


@dataclass(frozen=True, eq=False)
class Truths(Rows):
    """The labelled objects of a whole set.

    Attributes:
        image: (t,) int64, number of the image, in the same count as `Detections.image`.
        boxes: (t, 4) float32, cx, cy, w, h, relative.
        classes: (t,) int64, each within the head's classes.
        difficult: (t,) bool, objects that count neither when found nor when missed.
    """

    image: npt.NDArray[np.int64]
    boxes: Floats
    classes: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Matches:
    """For every detection the object of its class and image that it overlaps most.

    Attributes:
        truth: (n,) int64, index into the truths, −1 where no counted object overlaps at all.
        overlap: (n,) float32, IoU with it, 0 where none.
        difficult_overlap: (n,) float32, largest IoU with a difficult object, 0 where none.
    """

    truth: npt.NDArray[np.int64]
    overlap: Floats
    difficult_overlap: Floats


def make_truths(objects: Sequence[Objects], images: Sequence[int], classes: int) -> Truths:
    """Collects the objects of a set; those of classes beyond the head are left out (`check_dataset` reports them).

    Args:
        objects: labels per image.
        images: the number of each of these images.
        classes: number of classes of the head.
    """
    if not objects:
        nothing = np.zeros(0, np.int64)
        return Truths(nothing, np.zeros((0, 4), np.float32), nothing, np.zeros(0, np.bool_))
    numbers = np.concatenate([found.classes for found in objects])
    boxes = np.concatenate([found.boxes for found in objects])
    known = (numbers >= 0) & (numbers < classes) & np.isfinite(boxes).all(axis=1)
    image = np.repeat(np.asarray(images, np.int64), [len(found) for found in objects])
    return Truths(image, boxes, numbers, np.concatenate([found.difficult for found in objects])).select(known)


def match(detections: Detections, truths: Truths) -> Matches:
    """Finds the best object for every detection; several detections may have the same one."""
    truth, overlap = _best(detections, truths, np.flatnonzero(~truths.difficult))
    _, hard = _best(detections, truths, np.flatnonzero(truths.difficult))
    return Matches(truth, overlap, hard)


def _best(detections: Detections, truths: Truths, among: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Returns the index of the first truth with the largest IoU, and that IoU; −1 and 0 where there is none."""
    best = np.full(len(detections), -1, np.int64)
    largest = np.zeros(len(detections), np.float32)
    if not len(detections) or not len(among):
        return best, largest
    classes = int(max(detections.classes.max(), truths.classes.max())) + 1
    keys = truths.image[among] * classes + truths.classes[among]
    order = np.argsort(keys, kind="stable")
    keys, among = keys[order], among[order]
    wanted = detections.image * classes + detections.classes
    low = np.searchsorted(keys, wanted, side="left")
    counts = np.searchsorted(keys, wanted, side="right") - low
    # all pairs of a detection with the truths of its image and class, detection by detection
    detection = np.repeat(np.arange(len(detections)), counts)
    begin = np.cumsum(counts) - counts
    truth = among[np.arange(len(detection)) - begin[detection] + low[detection]]
    overlap = iou(prepare(detections.boxes), detection, prepare(truths.boxes), truth)
    overlap = np.where(np.isfinite(overlap), overlap, np.float32(0))
    some = np.flatnonzero(counts)
    if len(some):
        largest[some] = np.maximum.reduceat(overlap, begin[some])
    top = np.flatnonzero((overlap == largest[detection]) & (overlap > 0))
    found, first = np.unique(detection[top], return_index=True)
    best[found] = truth[top[first]]
    return best, largest
