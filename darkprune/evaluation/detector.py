"""Detection: images through a network and its heads, to boxes with scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.data.dataset import DataProblem
from darkprune.data.loading import Batch, InputShape, load_batches
from darkprune.evaluation.heads import Floats, Head, correct_letterbox, decode
from darkprune.evaluation.nms import NMS_THRESHOLD, Detections, suppress_for
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.graph.graph import Graph
from darkprune.progress import track

MAP_THRESHOLD = 0.005  #: lowest score that `detector map` counts

#: takes images (b, c, h, w) float32 in 0…1; returns per head the map (b, channels, h, w) that the head reads
Run = Callable[[Floats], Sequence[Floats]]


@dataclass(frozen=True)
class Detector:
    """A network that finds objects, whatever program runs it.

    Attributes:
        run: computes the maps that the heads read.
        heads: detection heads in order; the last one's kind of suppression is used, as darknet does.
        shape: input of the network.
    """

    run: Run
    heads: tuple[Head, ...]
    shape: InputShape

    @classmethod
    def of(cls, graph: Graph, run: Run) -> Detector:
        """Takes heads and input from a graph.

        Raises:
            GraphError: the network has no head that can be decoded.
        """
        return cls(run, heads_of(graph), input_shape(graph))


@dataclass(frozen=True)
class Loading:
    """How images are read.

    Attributes:
        batch: images per call of the network, at least 1.
        workers: threads that decode; None for one per core.
        strict: whether the first unreadable image is an error, instead of being left out.
    """

    batch: int = 8
    workers: int | None = None
    strict: bool = False


PLAIN = Loading()


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

    def of_image(self, number: int) -> Detections:
        """Returns the detections of one image."""
        return self.detections.select(self.detections.image == number)


def detect_batch(detector: Detector, batch: Batch, threshold: float, nms: float = NMS_THRESHOLD) -> Detections:
    """Runs one batch.

    Args:
        threshold: objectness and scores have to be above it.
        nms: overlap threshold of the suppression.

    Returns:
        Boxes relative to the images; `image` counts positions in the batch.
    """
    shape = detector.shape
    found = decode(detector.heads, detector.run(batch.images), threshold)
    # darknet corrects boxes before it suppresses: the penalty of greedynms depends on the aspect
    if shape.letterbox:
        boxes = correct_letterbox(found.boxes, batch.sizes[found.image], shape.width, shape.height)
        found = replace(found, boxes=boxes)
    return suppress_for(detector.heads[-1], found, nms)


def find_objects(
    detector: Detector,
    paths: Sequence[Path],
    loading: Loading = PLAIN,
    *,
    threshold: float = MAP_THRESHOLD,
    nms: float = NMS_THRESHOLD,
    task: str = "detecting",
) -> Found:
    """Runs a network over images; the next batches are decoded while one is computed.

    Args:
        threshold, nms: see `detect_batch`.
        task: name of the work in events.

    Raises:
        DataError: `strict` and an image cannot be read, or the network's maps do not fit its heads.
    """
    parts: list[Detections] = []
    problems: list[DataProblem] = []
    sizes = np.zeros((len(paths), 2), np.int64)
    step = track(task, len(paths), "image")
    batches = load_batches(paths, detector.shape, loading.batch, workers=loading.workers, strict=loading.strict)
    for loaded in batches:
        problems += loaded.problems
        if len(loaded.indices):
            found = detect_batch(detector, loaded, threshold, nms)
            parts.append(Detections(loaded.indices[found.image], found.boxes, found.classes, found.scores))
            sizes[loaded.indices] = loaded.sizes
        step(len(loaded.indices) + len(loaded.problems))
    return Found(Detections.join([Detections.none(), *parts]), sizes, tuple(problems))
