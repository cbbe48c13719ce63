"""Suppression of overlapping boxes, per class, as darknet's `do_nms_sort` and `diounms_sort`.

All images and classes of a batch go through at once: the boxes of one class in one image form a group, all pairs
within groups are compared in one sweep, and who survives follows from a fixed point, since a box falls exactly when a
surviving better box of its group overlaps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darkprune.evaluation.boxes import Boxes, Indices, distance_penalty, iou, prepare
from darkprune.evaluation.heads import Candidates, Floats, Head
from darkprune.evaluation.rows import Rows

NMS_THRESHOLD = 0.45
GREEDY_EXPONENT = 0.6
_MAX_PAIRS = 1_000_000
_Overlap = Callable[[Indices, Indices], npt.NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Detections(Rows):
    """What is left after suppression, in the order in which darknet walks its detections (see `darknet_order`).

    Attributes:
        image: (n,) int64, ascending.
        boxes: (n, 4) float32, cx, cy, w, h, relative.
        classes: (n,) int64.
        scores: (n,) float32.
    """

    image: npt.NDArray[np.int64]
    boxes: Floats
    classes: npt.NDArray[np.int64]
    scores: Floats

    @classmethod
    def none(cls) -> Detections:
        """Returns no detections."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, np.zeros((0, 4), np.float32), nothing, np.zeros(0, np.float32))


def suppress(
    candidates: Candidates, kind: str = "default", beta: float = 0.6, threshold: float = NMS_THRESHOLD
) -> Detections:
    """Keeps, per image and class, the best of boxes that overlap.

    Args:
        kind: the `nms_kind` of the last head: `greedynms` compares IoU − (d/c)^0.6 with the threshold, `diounms`
            IoU − (d/c)^beta, anything else the IoU (also `cornersnms`: what distinguished it is commented out).
        beta: exponent for `diounms`.
        threshold: a box falls if its overlap with a better one is above.

    Boxes of exactly equal score rank in the order of `candidates`.
    """
    candidates = candidates.select(darknet_order(candidates.image, candidates.scores))
    classes = candidates.scores.shape[1]
    box, number = np.nonzero(candidates.scores)
    score = candidates.scores[box, number]
    group = candidates.image[box] * classes + number
    order = np.lexsort((box, -score, group))
    boxes = prepare(candidates.boxes[box[order]])
    keep = np.empty(len(order), np.bool_)
    keep[order] = _survivors(group[order], _overlap(boxes, kind, beta, np.float32(threshold)))
    return Detections(
        candidates.image[box[keep]], candidates.boxes[box[keep]], number[keep].astype(np.int64), score[keep]
    )


def suppress_for(head: Head, candidates: Candidates, threshold: float = NMS_THRESHOLD) -> Detections:
    """Suppresses as a head, the last of the network, asks for it."""
    return suppress(candidates, head.nms_kind, head.beta_nms, threshold)


def darknet_order(image: npt.NDArray[np.int64], scores: Floats) -> npt.NDArray[np.int64]:
    """Returns the order of boxes after darknet's suppression.

    darknet sorts all boxes of an image by the scores of class 0, then (stably) of class 1, and so on; what remains is
    the order by the last class, ties by the last but one, and so on. `detector map` walks the boxes in this order when
    it counts at a threshold, and where two boxes meet one object, the first counts.

    Args:
        image: (n,) image of each box.
        scores: (n, classes), 0 where none, before suppression.
    """
    box, number = np.nonzero(scores)
    counts = np.bincount(box, minlength=len(image))
    # per box a row of keys: its classes from the last to the first, each with its score; absent ones come last
    ends = np.cumsum(counts)
    keys = np.zeros((len(image), int(counts.max(initial=0))), np.float64)
    keys[box, ends[box] - 1 - np.arange(len(box))] = 2.0 * (number + 1) + scores[box, number]
    columns = [-keys[:, column] for column in range(keys.shape[1] - 1, -1, -1)]
    return np.lexsort((*columns, image)).astype(np.int64)


def _overlap(boxes: Boxes, kind: str, beta: float, threshold: np.float32) -> _Overlap:
    """Returns the test whether pairs of boxes overlap too much."""
    exponent = {"greedynms": GREEDY_EXPONENT, "diounms": float(np.float32(beta))}.get(kind)

    def too_much(i: Indices, j: Indices) -> npt.NDArray[np.bool_]:
        overlap = iou(boxes, i, boxes, j)
        close = np.asarray(overlap > threshold, np.bool_)
        if exponent is not None:  # the penalty only ever lowers the overlap, and few pairs are close at all
            near = np.flatnonzero(close)
            penalty = distance_penalty(boxes, i[near], boxes, j[near], exponent)
            close[near] = overlap[near] - penalty > threshold
        return close

    return too_much


def _survivors(group: npt.NDArray[np.int64], overlap: _Overlap) -> npt.NDArray[np.bool_]:
    """Returns which boxes, sorted by group and then by falling score, survive."""
    keep = np.ones(len(group), np.bool_)
    for low, high, pairs in _stretches(group):
        if pairs > _MAX_PAIRS:
            _one_by_one(keep, low, high, overlap)
            continue
        better, worse = _pairs(group[low:high])
        better, worse = better + low, worse + low
        close = overlap(better, worse)
        better, worse = better[close], worse[close]
        while True:  # each round settles at least the next link of every chain of overlaps
            fallen = worse[keep[better]]
            now = np.ones(high - low, np.bool_)
            now[fallen - low] = False
            if np.array_equal(now, keep[low:high]):
                break
            keep[low:high] = now
    return keep


def _pairs(group: npt.NDArray[np.int64]) -> tuple[Indices, Indices]:
    """Returns all pairs (i, j) with i < j and the same group, for sorted groups."""
    position = np.arange(len(group))
    followers = np.searchsorted(group, group, side="right") - position - 1
    first = np.repeat(position, followers)
    offset = np.cumsum(followers) - followers
    second = np.arange(len(first)) - offset[first] + first + 1
    return first.astype(np.int64), second.astype(np.int64)


def _stretches(group: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yields (start, end, pairs) of runs of whole groups that have at most _MAX_PAIRS pairs, or are one group."""
    if not len(group):
        return
    starts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    ends = np.append(starts[1:], len(group))
    pairs = (ends - starts) * (ends - starts - 1) // 2
    low, total = int(starts[0]), 0
    for start, end, count in zip(starts.tolist(), ends.tolist(), pairs.tolist(), strict=True):
        if total and total + count > _MAX_PAIRS:
            yield low, start, total
            low, total = start, 0
        total += count
        if end == len(group):
            yield low, end, total


def _one_by_one(keep: npt.NDArray[np.bool_], low: int, high: int, overlap: _Overlap) -> None:
    """The plain algorithm for one group too large for all its pairs (an untrained network finds everything)."""
    for index in range(low, high):
        if keep[index]:
            rest = np.flatnonzero(keep[index + 1 : high]) + index + 1
            keep[rest[overlap(np.full(len(rest), index), rest)]] = False
