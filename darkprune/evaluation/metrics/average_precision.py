"""Average precision and counts at a threshold, as `detector map` defines them (`validate_detector_map`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darkprune.evaluation.metrics.matching import Matches, Truths
from darkprune.evaluation.nms import Detections

CURVE_POINTS = 101  #: recalls of a drawn curve


@dataclass(frozen=True)
class Scoring:
    """How detections are scored.

    Attributes:
        points: recall points of the average precision, 0, 11 or 101; see `average_precisions`.
        iou: a detection counts if it overlaps an object by more.
        confidence: score above which detections enter precision, recall and counts.
    """

    points: int = 0
    iou: float = 0.5
    confidence: float = 0.25


DARKNET = Scoring()  #: as `detector map` scores without flags


@dataclass(frozen=True, eq=False)
class Counts:
    """True and false positives at a confidence.

    Attributes:
        true_positives, false_positives, truths: (classes,) int64.
        overlap_sum: sum of the IoU of the true positives.
    """

    true_positives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    truths: npt.NDArray[np.int64]
    overlap_sum: float

    @property
    def precision(self) -> float:
        """TP / (TP + FP), 0 without detections."""
        found = int(self.true_positives.sum() + self.false_positives.sum())
        return float(self.true_positives.sum()) / found if found else 0.0

    @property
    def recall(self) -> float:
        """TP / objects, 0 without objects."""
        return float(self.true_positives.sum()) / float(self.truths.sum()) if self.truths.sum() else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    @property
    def average_iou(self) -> float:
        """Mean IoU over all detections, false positives counting as 0."""
        found = int(self.true_positives.sum() + self.false_positives.sum())
        return self.overlap_sum / found if found else 0.0


def average_precisions(
    detections: Detections, truths: Truths, matches: Matches, classes: int, iou: float = 0.5, points: int = 0
) -> npt.NDArray[np.float64]:
    """Returns the average precision of every class, (classes,); 0 for classes without objects.

    Args:
        detections, truths, matches: of the whole set.
        iou: a detection counts if its IoU with an object is above (not equal).
        points: 0 for the area under the falling envelope of precision over recall (VOC 2010 on), 11 for the mean over
            recalls 0, 0.1 … 1 (VOC 2007), 101 for recalls 0, 0.01 … 1 (COCO's curve at one IoU).
    """
    result = np.zeros(classes, np.float64)
    for number, hit, total in _hits_by_class(detections, truths, matches, classes, iou):
        result[number] = average_precision(hit, total, points)
    return result


def precision_curves(
    detections: Detections, truths: Truths, matches: Matches, classes: int, iou: float = 0.5
) -> dict[int, npt.NDArray[np.float64]]:
    """Returns the falling envelope of precision at the recalls 0, 0.01 … 1, (101,), of every class that has objects.

    Args:
        detections, truths, matches, classes, iou: see `average_precisions`.
    """
    totals = _totals(truths, classes)
    curves = {number: np.zeros(CURVE_POINTS) for number in np.flatnonzero(totals).tolist()}
    for number, hit, total in _hits_by_class(detections, truths, matches, classes, iou):
        recall, envelope = _envelope(hit, total)
        curves[number] = _at_recalls(recall, envelope, CURVE_POINTS)
    return curves


def _hits_by_class(
    detections: Detections, truths: Truths, matches: Matches, classes: int, iou: float
) -> Iterator[tuple[int, npt.NDArray[np.bool_], int]]:
    """Yields class, whether each of its detections by falling score is a true positive, and its number of objects."""
    order = np.lexsort((-detections.scores, detections.classes))  # stable: equal scores stay in darknet's order
    order = order[~_ignored(matches, iou)[order]]
    hit = np.zeros(len(order), np.bool_)
    hit[_first_matches(matches, order, iou)] = True
    totals = _totals(truths, classes)
    edges = np.searchsorted(detections.classes[order], np.arange(classes + 1))
    for number in np.flatnonzero((totals > 0) & (np.diff(edges) > 0)).tolist():
        yield number, hit[edges[number] : edges[number + 1]], int(totals[number])


def average_precision(hit: npt.NDArray[np.bool_], truths: int, points: int = 0) -> float:
    """Returns the average precision of one class.

    Args:
        hit: (n,) whether each detection, by falling score, is a true positive.
        truths: number of objects, at least 1.
        points: see `average_precisions`.
    """
    recall, envelope = _envelope(hit, truths)
    if points == 0:
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    return float(_at_recalls(recall, envelope, points).sum() / points)


def _envelope(hit: npt.NDArray[np.bool_], truths: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns recall after every detection, and the largest precision there or later."""
    true = np.cumsum(hit)
    precision = true / np.arange(1, len(hit) + 1)
    return true / truths, np.maximum.accumulate(precision[::-1])[::-1]


def _at_recalls(
    recall: npt.NDArray[np.float64], envelope: npt.NDArray[np.float64], points: int
) -> npt.NDArray[np.float64]:
    """Returns the precision at equally spaced recalls from 0 to 1; 0 beyond the largest recall."""
    at = np.searchsorted(recall, np.arange(points) / (points - 1), side="left")
    return np.append(envelope, 0.0)[at]


def count_at(
    detections: Detections,
    truths: Truths,
    matches: Matches,
    classes: int,
    iou: float = 0.5,
    confidence: float = 0.25,
) -> Counts:
    """Counts true and false positives among the detections with a score above a confidence.

    As in darknet the first detection in its walk that meets an object owns it, even when that one is below the
    confidence (a later one above is then a false positive). Unlike darknet, detections of difficult objects are left
    out here too; there they are only left out of the average precision.
    """
    counted = np.flatnonzero(~_ignored(matches, iou))
    owner = np.zeros(len(detections), np.bool_)
    owner[counted[_first_matches(matches, counted, iou)]] = True
    confident = np.zeros(len(detections), np.bool_)
    confident[counted] = detections.scores[counted] > np.float32(confidence)
    hit = owner & confident
    return Counts(
        np.bincount(detections.classes[hit], minlength=classes),
        np.bincount(detections.classes[confident & ~owner], minlength=classes),
        _totals(truths, classes),
        float(matches.overlap[hit].sum(dtype=np.float64)),
    )


def _ignored(matches: Matches, iou: float) -> npt.NDArray[np.bool_]:
    """Detections that meet a difficult object and no counted one."""
    level = np.float32(iou)
    return np.asarray((matches.overlap <= level) & (matches.difficult_overlap > level), np.bool_)


def _first_matches(matches: Matches, order: npt.NDArray[np.intp], iou: float) -> npt.NDArray[np.intp]:
    """Returns the positions in `order` of the detections that are the first to meet their object."""
    meeting = np.flatnonzero((matches.overlap[order] > np.float32(iou)) & (matches.truth[order] >= 0))
    _, first = np.unique(matches.truth[order][meeting], return_index=True)
    return meeting[first]


def _totals(truths: Truths, classes: int) -> npt.NDArray[np.int64]:
    return np.bincount(truths.classes[~truths.difficult], minlength=classes)
