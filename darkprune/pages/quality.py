"""How the detections of a network meet the labels: precision over recall, and which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darkprune.evaluation.boxes import iou, prepare
from darkprune.evaluation.metrics.average_precision import count_at, precision_curves
from darkprune.evaluation.metrics.matching import Truths, match
from darkprune.evaluation.nms import Detections

IOU = 0.5  #: a detection finds an object that it overlaps by more
_MOST_PAIRS = 2_000_000  #: of detections and objects that are compared at a time


@dataclass(frozen=True, eq=False)
class Quality:
    """Detections of a network on labelled images.

    Attributes:
        curves: class with objects -> precision at the recalls 0, 0.01 … 1, (101,).
        recall, precision: over all classes, of the detections above the threshold.
        confusion: (classes + 1, classes + 1) int64, objects by labelled class (rows) and detected class (columns) above
            the threshold; the last row counts detections where nothing is labelled, the last column missed objects.
    """

    curves: dict[int, npt.NDArray[np.float64]]
    recall: float
    precision: float
    confusion: npt.NDArray[np.int64]


def quality_of(detections: Detections, truths: Truths, classes: int, threshold: float) -> Quality:
    """Compares detections with labels."""
    matches = match(detections, truths)
    counts = count_at(detections, truths, matches, classes, IOU, threshold)
    return Quality(
        curves=precision_curves(detections, truths, matches, classes, IOU),
        recall=counts.recall,
        precision=counts.precision,
        confusion=confusion_matrix(detections.select(detections.scores > threshold), truths, classes),
    )


def confusion_matrix(detections: Detections, truths: Truths, classes: int) -> npt.NDArray[np.int64]:
    """Counts objects by labelled and detected class, see `Quality.confusion`.

    Every object goes with at most one detection and the other way round, whatever their classes: pairs that overlap
    most come first. Detections of difficult objects are left out.
    """
    found, labelled = _pairs(detections, truths)
    counted = ~truths.difficult[labelled]
    missed = np.setdiff1d(np.flatnonzero(~truths.difficult), labelled)
    alone = np.setdiff1d(np.arange(len(detections)), found)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(matrix, (truths.classes[labelled[counted]], detections.classes[found[counted]]), 1)
    matrix[:classes, classes] = np.bincount(truths.classes[missed], minlength=classes)
    matrix[classes, :classes] = np.bincount(detections.classes[alone], minlength=classes)
    return matrix


def _pairs(detections: Detections, truths: Truths) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns which detection meets which object, the largest overlaps first."""
    by_image = np.argsort(truths.image, kind="stable")
    low, high = (np.searchsorted(truths.image[by_image], detections.image, side=side) for side in ("left", "right"))
    many = high - low
    found = np.repeat(np.arange(len(detections)), many)
    labelled = by_image[np.arange(len(found)) - (np.cumsum(many) - many)[found] + low[found]]
    a, b = prepare(detections.boxes), prepare(truths.boxes)
    pieces = range(0, len(found), _MOST_PAIRS)
    overlap = np.concatenate(
        [iou(a, found[i : i + _MOST_PAIRS], b, labelled[i : i + _MOST_PAIRS]) for i in pieces]
        or [np.zeros(0, np.float32)]
    )
    order = np.argsort(-overlap, kind="stable")
    order = order[overlap[order] > IOU]
    found, labelled = found[order], labelled[order]
    used, met, chosen = set[int](), set[int](), []
    for number, (detection, truth) in enumerate(zip(found.tolist(), labelled.tolist(), strict=True)):
        if detection not in used and truth not in met:
            used.add(detection)
            met.add(truth)
            chosen.append(number)
    return found[chosen], labelled[chosen]
