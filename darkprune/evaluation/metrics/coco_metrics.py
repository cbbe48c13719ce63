"""COCO's figures (mAP over IoU 0.5:0.95) by an established evaluator: faster-coco-eval, else pycocotools."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darkprune.errors import DarkpruneError
from darkprune.evaluation.metrics.matching import Truths
from darkprune.evaluation.nms import Detections
from darkprune.json_types import JsonObject


@dataclass(frozen=True)
class CocoFigures:
    """COCO's summary; fractions, −1 where there are no such objects.

    Attributes:
        map: mean over IoU 0.50, 0.55 … 0.95 and over the classes that have objects.
        map50, map75: at one IoU.
        small, medium, large: `map` by area of the object in pixels: under 32², between, over 96².
        recall: average recall with at most 100 detections per image.
    """

    map: float
    map50: float
    map75: float
    small: float
    medium: float
    large: float
    recall: float


def evaluator_name() -> str | None:
    """Returns the evaluator that would be used, None if none is installed."""
    for name in ("faster_coco_eval", "pycocotools"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return name
    return None


def coco_figures(detections: Detections, truths: Truths, sizes: npt.NDArray[np.int64], classes: int) -> CocoFigures:
    """Computes COCO's figures, with the evaluator of `evaluator_name`.

    Difficult objects are passed on as crowds, the only objects that COCO's evaluator ignores.

    Args:
        detections, truths: of the whole set.
        sizes: (images, 2), width and height in pixels of every image number, also of those without objects; images of
            size 0 (unreadable ones) are left out.

    Raises:
        DarkpruneError: no evaluator is installed.
    """
    name = evaluator_name()
    if name is None:
        raise DarkpruneError("COCO's figures need an evaluator: pip install faster-coco-eval (or pycocotools)")
    usable = np.asarray(np.isfinite(detections.boxes).all(axis=1), np.bool_)
    if not usable.all():
        detections = detections.select(usable)
    if not len(truths) or not len(detections):
        nothing = 0.0 if (~truths.difficult).any() else -1.0
        return CocoFigures(*([nothing] * 7))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        stats = _run(name, _ground_truth(truths, sizes, classes), _results(detections, sizes))
    return CocoFigures(
        map=stats[0],
        map50=stats[1],
        map75=stats[2],
        small=stats[3],
        medium=stats[4],
        large=stats[5],
        recall=stats[8],
    )


def _run(name: str, document: JsonObject, results: npt.NDArray[np.float64]) -> list[float]:
    if name == "faster_coco_eval":
        module = importlib.import_module("faster_coco_eval")
        truth = module.COCO(document)
        evaluation = module.COCOeval_faster(truth, truth.loadRes(results), "bbox")
    else:
        truth = importlib.import_module("pycocotools.coco").COCO()
        truth.dataset = document
        truth.createIndex()
        evaluation = importlib.import_module("pycocotools.cocoeval").COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats[:12]]


def _pixels(boxes: npt.NDArray[np.float32], size: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns x, y, width, height in pixels, (n, 4), from relative centre boxes."""
    scale = size.astype(np.float64)
    extent = boxes[:, 2:].astype(np.float64) * scale
    return np.concatenate([boxes[:, :2].astype(np.float64) * scale - extent / 2, extent], axis=1)


def _ground_truth(truths: Truths, sizes: npt.NDArray[np.int64], classes: int) -> JsonObject:
    boxes = _pixels(truths.boxes, sizes[truths.image])
    annotations = [
        {
            "id": number + 1,  # COCO's evaluator takes id 0 for "no match"
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": crowd,
        }
        for number, (image, category, box, crowd) in enumerate(
            zip(
                truths.image.tolist(),
                truths.classes.tolist(),
                boxes.tolist(),
                truths.difficult.astype(int).tolist(),
                strict=True,
            )
        )
    ]
    return {
        "info": {},
        "images": [
            {"id": number, "width": width, "height": height}
            for number, (width, height) in enumerate(sizes.tolist())
            if width
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in range(classes)],
    }


def _results(detections: Detections, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the form that both evaluators take: (n, 7), image, x, y, w, h, score, class."""
    boxes = _pixels(detections.boxes, sizes[detections.image])
    columns = (detections.image[:, None], boxes, detections.scores[:, None], detections.classes[:, None])
    return np.concatenate(columns, axis=1).astype(np.float64)
