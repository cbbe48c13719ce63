"""How well a network finds what another one finds: a yardstick that needs no labels.

The detections of the original network on unlabelled images count as the objects there, and a network that was made of
it is scored against them like any detector. Those of low scores count too: they are many, so that some dozen images say
enough, and what a pruned network loses first. Unlike a distance between maps this compares networks of
different input sizes, and is as easy to read as mAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from darkprune.data.dataset import make_objects
from darkprune.errors import DataError
from darkprune.evaluation.detector import PLAIN, Detector, Found, Loading, find_objects
from darkprune.evaluation.heads import Floats, decode
from darkprune.evaluation.metrics.average_precision import DARKNET
from darkprune.evaluation.metrics.matching import Truths, make_truths
from darkprune.evaluation.metrics.results import summarise
from darkprune.evaluation.nms import Detections

COUNTED = 0.05  #: score above which a detection of the original counts as an object
CONFIDENT = 0.25  #: score above which the original is confident of it
#: Objects per image before suppression that no trained network finds: an untrained yolov4 finds 1.8 million at 416
#: pixels, and suppression takes minutes per image.
MOST_CANDIDATES = 10_000


class Agreement:
    """The agreement of networks with an original on some images.

    It is the average precision at IoU 0.5 over the classes that the original finds, each weighted by the number of its
    objects: of the many classes that a handful of images shows once or twice, none can decide alone. The original
    itself has nearly 1.

    Attributes:
        objects: how many the original finds.
        paths: the images that can be read.
    """

    def __init__(self, original: Detector, paths: Sequence[Path], loading: Loading = PLAIN) -> None:
        """Finds the objects.

        Args:
            paths: images that were not used to make the networks.

        Raises:
            DataError: not one image can be read, or the original finds nothing in them, or something everywhere.
        """
        found = find_objects(_trained(original), paths, loading, threshold=COUNTED, task="original detections")
        readable = np.flatnonzero(found.sizes[:, 0]).tolist()
        if not readable:
            problem = next(iter(found.problems), "there are none")
            raise DataError(f"not one of {len(paths)} images can be read; {problem}")
        if not (found.detections.scores > CONFIDENT).any():
            raise DataError(
                f"the original network finds nothing in {len(readable)} images (from {paths[0]} on), so that nothing "
                "can be said of how others agree with it: give images of what it was trained for"
            )
        classes = original.heads[-1].classes
        self._loading, self._names = loading, [str(number) for number in range(classes)]
        self.objects = len(found.detections)
        self.paths = [paths[number] for number in readable]
        shown = [found.of_image(number) for number in readable]
        self._truths = _truths(shown, classes)
        self._confident = _truths([each.select(each.scores > CONFIDENT) for each in shown], classes)

    def of(self, network: Detector) -> float:
        """Measures a network; its input size may be another one; returns the agreement, 0 to 1."""
        return self.score(self.find(network))

    def find(self, network: Detector) -> Found:
        """Runs a network over the images, for `score`."""
        return find_objects(network, self.paths, self._loading, task="agreement")

    def score(self, found: Found, confident: bool = False) -> float:
        """Returns the agreement of what a network found in the images, 0 to 1.

        Args:
            found: from `find`.
            confident: only those objects count that the original has a score above 0.25 for.
        """
        truths = self._confident if confident else self._truths
        figures = summarise(found.detections, truths, self._names, len(self.paths), 0, DARKNET, None)
        per_class = figures.per_class
        return sum(entry.ap * entry.truths for entry in per_class) / sum(entry.truths for entry in per_class)


def _trained(original: Detector) -> Detector:
    """Returns a network that raises where it finds something nearly everywhere."""

    def run(images: Floats) -> Sequence[Floats]:
        outputs = original.run(images)
        count = np.count_nonzero(decode(original.heads, outputs, CONFIDENT).scores) // len(images)
        if count > MOST_CANDIDATES:
            raise DataError(
                f"the original network finds {count} objects per image before overlapping ones are removed: it is not "
                "trained, and nothing can be compared with it"
            )
        return outputs

    return replace(original, run=run)


def _truths(shown: Sequence[Detections], classes: int) -> Truths:
    objects = [make_objects(each.boxes, each.classes) for each in shown]
    return make_truths(objects, range(len(objects)), classes)
