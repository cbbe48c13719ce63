"""Running a network over a labelled set and scoring what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.data.dataset import DataProblem, Dataset
from darkprune.data.loading import Batch, InputShape, load_batches
from darkprune.errors import DataError
from darkprune.evaluation.average_precision import POINTS
from darkprune.evaluation.coco_metrics import coco_figures, evaluator_name
from darkprune.evaluation.heads import Floats, Head, correct_letterbox, decode
from darkprune.evaluation.matching import Truths, make_truths
from darkprune.evaluation.nms import NMS_THRESHOLD, Detections, join_detections, suppress_for
from darkprune.evaluation.results import Evaluation, summarise

MAP_THRESHOLD = 0.005

Runner = Callable[[Floats], Sequence[Floats]]
"""Takes images (b, c, h, w) float32 in 0…1; gives per head the map (b, channels, h, w) that the head takes."""


@dataclass(frozen=True, eq=False)
class Found:
    """Detections over a list of images.

    Attributes:
        detections: `image` counts positions in the list.
        sizes: (images, 2) int64, width and height in pixels, 0 for images that could not be read.
        problems: those images.
    """

    detections: Detections
    sizes: npt.NDArray[np.int64]
    problems: tuple[DataProblem, ...]


def detect_batch(
    runner: Runner,
    heads: Sequence[Head],
    batch: Batch,
    shape: InputShape,
    threshold: float,
    *,
    nms: float = NMS_THRESHOLD,
    activated: bool = False,
) -> Detections:
    """Runs one batch; boxes come back relative to the images, `image` counts positions in the batch.

    Args:
        runner: the network.
        heads: its detection heads in order; the last one's kind of suppression is used, as darknet does.
        batch: images made for `shape`.
        shape: input of the network.
        threshold: objectness and scores have to be above it.
        nms: overlap threshold of the suppression.
        activated: the runner gives the heads' outputs instead of their inputs.
    """
    candidates = decode(heads, runner(batch.images), threshold, activated=activated)
    # darknet corrects boxes before it suppresses: the penalty of greedynms depends on the aspect
    if shape.letterbox:
        boxes = correct_letterbox(candidates.boxes, batch.sizes[candidates.image], shape.width, shape.height)
        candidates = type(candidates)(candidates.image, boxes, candidates.objectness, candidates.scores)
    return suppress_for(heads[-1], candidates, nms)


def detect(
    runner: Runner,
    heads: Sequence[Head],
    paths: Sequence[Path],
    shape: InputShape,
    *,
    threshold: float = MAP_THRESHOLD,
    nms: float = NMS_THRESHOLD,
    batch: int = 8,
    workers: int | None = None,
    strict: bool = False,
    activated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Runs a network over images; the next batches are decoded while one is computed.

    Args:
        runner, heads, shape, threshold, nms, activated: see `detect_batch`.
        paths: image files.
        batch: images per call of the runner.
        workers: threads that decode.
        strict: stop at the first unreadable image instead of leaving it out.
        progress: called with (images done, images in all).

    Raises:
        DataError: `strict` and an image cannot be read, or the runner's maps do not fit the heads.
    """
    parts: list[Detections] = []
    problems: list[DataProblem] = []
    sizes = np.zeros((len(paths), 2), np.int64)
    done = 0
    for loaded in load_batches(paths, shape, batch, workers=workers, strict=strict):
        problems += loaded.problems
        if len(loaded.indices):
            found = detect_batch(runner, heads, loaded, shape, threshold, nms=nms, activated=activated)
            parts.append(Detections(loaded.indices[found.image], found.boxes, found.classes, found.scores))
            sizes[loaded.indices] = loaded.sizes
        done += len(loaded.indices) + len(loaded.problems)
        if progress is not None:
            progress(done, len(paths))
    return Found(join_detections(parts), sizes, tuple(problems))


def truths_of(dataset: Dataset, classes: int, readable: npt.NDArray[np.bool_] | None = None) -> Truths:
    """Reads the labels of a set.

    Args:
        dataset: the set.
        classes: number of classes of the head; labels of others are left out.
        readable: (images,) images to take; all if None.
    """
    chosen = range(len(dataset)) if readable is None else np.flatnonzero(readable).tolist()
    return make_truths([dataset.images[index].objects() for index in chosen], list(chosen), classes)


def evaluate(
    runner: Runner,
    heads: Sequence[Head],
    dataset: Dataset,
    shape: InputShape,
    *,
    points: int = 0,
    iou: float = 0.5,
    confidence: float = 0.25,
    coco: bool | None = None,
    batch: int = 8,
    workers: int | None = None,
    strict: bool = False,
    activated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, Found]:
    """Evaluates a network on a labelled set.

    Args:
        runner, heads, shape, batch, workers, strict, activated, progress: see `detect`.
        dataset: the set.
        points, iou, confidence: see `Evaluation`.
        coco: compute COCO's figures too; by default if an evaluator is installed.

    Returns:
        The figures, and what they were computed from (with the images that were skipped).

    Raises:
        DataError: the set is empty, no image can be read, or `points` or `iou` make no sense.
        DarkpruneError: `coco` is asked for but no evaluator is installed.
    """
    if points not in POINTS:
        raise DataError(f"points={points} is not one of {', '.join(map(str, POINTS))}")
    if not 0 <= iou < 1:
        raise DataError(f"iou={iou} is out of range; it must be at least 0 and below 1")
    if not dataset.images:
        raise DataError(f"{dataset.source}: has no images to evaluate on")
    paths = [record.path for record in dataset.images]
    found = detect(
        runner,
        heads,
        paths,
        shape,
        batch=batch,
        workers=workers,
        strict=strict,
        activated=activated,
        progress=progress,
    )
    if len(found.problems) == len(paths):
        raise DataError(f"{dataset.source}: not one of its {len(paths)} images can be read; {found.problems[0]}")
    classes = heads[-1].classes
    truths = truths_of(dataset, classes, found.sizes[:, 0] > 0)
    wanted = coco if coco is not None else evaluator_name() is not None
    figures = coco_figures(found.detections, truths, found.sizes, classes) if wanted else None
    evaluation = summarise(
        found.detections,
        truths,
        dataset.class_names,
        classes,
        len(paths) - len(found.problems),
        points=points,
        iou=iou,
        confidence=confidence,
        skipped=len(found.problems),
        coco=figures,
    )
    return evaluation, found
