"""The outcome of an evaluation, for tables and for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from darkprune.evaluation.metrics.average_precision import DARKNET, Scoring, average_precisions, count_at
from darkprune.evaluation.metrics.coco_metrics import CocoFigures
from darkprune.evaluation.metrics.matching import Truths, match
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
class EvaluateResult:
    """Figures of a network on a labelled set; all rates are fractions.

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
        cfg, weights, runner, data: the network, the program that ran it and the set, where they are known.
        warnings: images that were skipped.
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
    coco: CocoFigures | None = None
    cfg: str = ""
    weights: str = ""
    runner: str = ""
    data: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the figures by the attributes' names."""
        return asdict(self)


def summarise(
    detections: Detections,
    truths: Truths,
    names: Sequence[str],
    images: int,
    skipped: int = 0,
    scoring: Scoring = DARKNET,
    coco: CocoFigures | None = None,
) -> EvaluateResult:
    """Works out all figures from the detections and labels of a whole set.

    Args:
        detections, truths: with the same image numbers.
        images: number of images that were run.
    """
    matches = match(detections, truths)
    classes, iou = len(names), scoring.iou
    precisions = {
        level: average_precisions(detections, truths, matches, classes, level, scoring.points)
        for level in {0.5, 0.75, iou}
    }
    counts = count_at(detections, truths, matches, classes, iou, scoring.confidence)
    true, false, total = (array.tolist() for array in (counts.true_positives, counts.false_positives, counts.truths))
    return EvaluateResult(
        images=images,
        truths=sum(total),
        detections=len(detections),
        points=scoring.points,
        iou=iou,
        confidence=scoring.confidence,
        map_iou=float(precisions[iou].mean()),
        map50=float(precisions[0.5].mean()),
        map75=float(precisions[0.75].mean()),
        map=None if coco is None else coco.map,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        average_iou=counts.average_iou,
        true_positives=sum(true),
        false_positives=sum(false),
        false_negatives=sum(total) - sum(true),
        per_class=tuple(map(ClassResult, names, precisions[iou].tolist(), total, true, false)),
        skipped=skipped,
        coco=coco,
    )
