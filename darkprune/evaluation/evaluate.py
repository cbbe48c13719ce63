"""Evaluation of a network on a labelled set."""

from __future__ import annotations

from darkprune.data.dataset import Dataset
from darkprune.errors import DataError
from darkprune.evaluation.detector import PLAIN, Detector, Found, Loading, find_objects
from darkprune.evaluation.metrics.average_precision import DARKNET, Scoring
from darkprune.evaluation.metrics.coco_metrics import coco_figures, evaluator_name
from darkprune.evaluation.metrics.matching import Truths, make_truths
from darkprune.evaluation.metrics.results import EvaluateResult, summarise


def truths_of(dataset: Dataset, classes: int) -> Truths:
    """Reads the labels of a set.

    Args:
        classes: number of classes of the head; labels of others are left out.
    """
    return make_truths([record.objects() for record in dataset.images], range(len(dataset)), classes)


def evaluate_detector(
    detector: Detector,
    dataset: Dataset,
    scoring: Scoring = DARKNET,
    loading: Loading = PLAIN,
    *,
    coco: bool | None = None,
    task: str = "evaluating",
) -> tuple[EvaluateResult, Found]:
    """Evaluates a network on a labelled set.

    Args:
        coco: compute COCO's figures too; by default if an evaluator is installed.
        task: see `find_objects`.

    Returns:
        The figures, and what they were computed from (with the images that were skipped).

    Raises:
        DataError: the set is empty, holds no objects to measure on, or no image can be read.
        DarkpruneError: `coco` is asked for but no evaluator is installed.
    """
    if not dataset.images:
        raise DataError(f"{dataset.source}: has no images to evaluate on")
    classes = detector.heads[-1].classes
    truths = truths_of(dataset, classes)
    if truths.difficult.all():
        raise DataError(f"{dataset.source}: has no labelled objects of the network's {classes} classes to measure on")
    paths = [record.path for record in dataset.images]
    found = find_objects(detector, paths, loading, task=task)
    if len(found.problems) == len(paths):
        raise DataError(f"{dataset.source}: not one of its {len(paths)} images can be read; {found.problems[0]}")
    truths = truths.select(found.sizes[truths.image, 0] > 0)
    wanted = coco if coco is not None else evaluator_name() is not None
    figures = coco_figures(found.detections, truths, found.sizes, classes) if wanted else None
    names = [dataset.class_names[i] if i < len(dataset.class_names) else str(i) for i in range(classes)]
    skipped = len(found.problems)
    return summarise(found.detections, truths, names, len(paths) - skipped, skipped, scoring, figures), found
