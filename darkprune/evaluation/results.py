"""The outcome of an evaluation, for tables and for `--json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from darkprune.evaluation.average_precision import average_precisions, count_at
from darkprune.evaluation.coco_metrics import CocoFigures
from darkprune.evaluation.matching import Truths, match
from darkprune.evaluation.nms import Detections


@dataclass(frozen=True)
class ClassResult:
    """One class; all rates are fractions.

    Attributes:
        name: from the names file, else the number.
        ap: average precision at the main IoU.
        truths: labelled objects (not difficult).
        true_positives, false_positives: at the confidence.
    """

    name: str
    ap: float
    truths: int
    true_positives: int
    false_positives: int


@dataclass(frozen=True)
class Evaluation:
    """Figures of a network on a set; all rates are fractions.

    Attributes:
        images: images that were evaluated.
        skipped: images left out because they could not be read.
        truths: labelled objects (not difficult).
        detections: boxes above 0.005 after suppression.
        points: recall points of the average precision: 0 (area), 11 or 101.
        iou: the main IoU, of `map_iou` and `per_class`.
        confidence: threshold of precision, recall and counts.
        map_iou, map50, map75: mean average precision as `detector map` defines it, over all classes, those without
            objects counting as 0.
        map: COCO's mean over IoU 0.5:0.95, over the classes with objects; None if it was not asked for.
        precision, recall, f1, average_iou: at the confidence and the main IoU.
        true_positives, false_positives, false_negatives: likewise.
        per_class: by class number.
        coco: all of COCO's figures, or None.
    """

    images: int
    truths: int
    detections: int
    points: int
    iou: float
    confidence: float
    map_iou: float
    map50: float
    map75: float
    map: float | None
    precision: float
    recall: float
    f1: float
    average_iou: float
    true_positives: int
    false_positives: int
    false_negatives: int
    per_class: tuple[ClassResult, ...]
    skipped: int = 0
    coco: CocoFigures | None = field(default=None)

    def to_json(self) -> str:
        """Returns the figures as a JSON object with the attributes' names."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def summarise(
    detections: Detections,
    truths: Truths,
    names: Sequence[str],
    classes: int,
    images: int,
    *,
    points: int = 0,
    iou: float = 0.5,
    confidence: float = 0.25,
    skipped: int = 0,
    coco: CocoFigures | None = None,
) -> Evaluation:
    """Works out all figures from the detections and labels of a whole set.

    Args:
        detections, truths: with the same image numbers.
        names: of the classes; missing ones become their number.
        classes: number of classes of the head.
        images: number of images that were run.
        points, iou, confidence: see `Evaluation`.
        skipped: images that could not be read.
        coco: COCO's figures, if they were computed.
    """
    matches = match(detections, truths)
    means: dict[float, float] = {}
    for level in {0.5, 0.75, iou}:
        precisions = average_precisions(detections, truths, matches, classes, level, points)
        means[level] = float(precisions.mean())
        if level == iou:
            per_class = precisions
    counts = count_at(detections, truths, matches, classes, iou, confidence)
    true, false, total = (array.tolist() for array in (counts.true_positives, counts.false_positives, counts.truths))
    rows = tuple(
        ClassResult(names[i] if i < len(names) else str(i), float(per_class[i]), total[i], true[i], false[i])
        for i in range(classes)
    )
    return Evaluation(
        images=images,
        truths=sum(total),
        detections=len(detections),
        points=points,
        iou=iou,
        confidence=confidence,
        map_iou=means[iou],
        map50=means[0.5],
        map75=means[0.75],
        map=None if coco is None else coco.map,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        average_iou=counts.average_iou,
        true_positives=sum(true),
        false_positives=sum(false),
        false_negatives=sum(total) - sum(true),
        per_class=rows,
        skipped=skipped,
        coco=coco,
    )
