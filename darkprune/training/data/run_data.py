"""The images of a run: reading, checking, and what to measure on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from darkprune.data import read_dataset
from darkprune.data.check import check_dataset, check_names
from darkprune.data.dataset import Dataset
from darkprune.data.reading import images_of
from darkprune.errors import DataError, TrainingError, UsageError
from darkprune.graph.graph import Graph
from darkprune.training.data.classifier import Accuracy, class_images
from darkprune.training.data.examples import ImageSet, image_set, unlabelled_set
from darkprune.training.losses.softmax import SoftmaxLoss

SHOWN_PROBLEMS = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class DataRequest:
    """Where the images come from.

    Attributes:
        data: a set in any form, or None.
        valid: another set to measure on; None for the validation split of `data`.
        names: a names file.
        unlabelled: a folder or a list of images without labels, instead of labelled ones.
        strict: stop at anything wrong instead of going around it.
    """

    data: str | None
    valid: str | None = None
    names: str | None = None
    unlabelled: str | None = None
    strict: bool = False


@dataclass(frozen=True, eq=False)
class RunData:
    """The images of a run.

    Attributes:
        images: to train on.
        validation: to measure on, if there are some.
        digest: hash of paths and labels.
    """

    images: ImageSet
    validation: Dataset | Accuracy | None
    digest: str


def classes_of(graph: Graph) -> int:
    """Returns the number of classes that a network's heads have in common.

    Raises:
        TrainingError: they differ, or there are no heads.
    """
    found = {getattr(layer.kind, "classes", 0) for layer in graph.heads}
    if len(found) != 1:
        raise TrainingError(f"{graph.cfg.source}: its heads have {sorted(found) or 'no'} classes; they must agree")
    return int(found.pop())


def open_data(request: DataRequest, graph: Graph, say: Say) -> RunData:
    """Reads and checks the images, and says what is wrong with them.

    Raises:
        DataError, TrainingError: they cannot be trained on, or `strict` and anything is wrong.
    """
    channels = graph.net.input.c
    if not graph.heads and request.data is not None:
        softmax = SoftmaxLoss(graph)
        images, accuracy = class_images(request.data, softmax.classes, channels)
        return RunData(images, accuracy, _digest(images))
    if request.unlabelled is not None:
        images = unlabelled_set(images_of(Path(request.unlabelled)), channels)
        dataset = None
    else:
        if request.data is None:
            raise UsageError("say what to train on: --data F")
        dataset = read_dataset(request.data, "train", request.names)
        classes = classes_of(graph)
        _check(dataset, classes, request.strict, say)
        images, _ = image_set(dataset, classes, channels)
    return RunData(images, _validation(request, dataset, graph, say), _digest(images))


def _check(dataset: Dataset, classes: int, strict: bool, say: Say) -> None:
    duplicates = check_names(dataset.class_names, None, dataset)
    for problem in check_names(dataset.class_names, classes, dataset):
        if problem not in duplicates:  # another number of names than of classes
            raise DataError(str(problem))
    problems = check_dataset(dataset, classes, decode=False, workers=8)
    if problems and strict:
        raise DataError(f"{problems[0]} (one of {len(problems)} problems; --strict stops at any)")
    missing = sum(problem.kind == "image" for problem in problems)
    if missing == len(dataset.images):
        raise DataError(f"{dataset.source}: not one of its {missing} images is there; {problems[0]}")
    for problem in problems[:SHOWN_PROBLEMS]:
        say(f"warning: {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(p.kind for p in problems).most_common())
        say(f"warning: {len(problems)} problems in all ({kinds}); `darkprune check` lists them")


def _validation(request: DataRequest, dataset: Dataset | None, graph: Graph, say: Say) -> Dataset | None:
    """Finds the set to measure on; a form with one split only would be the training set again."""
    if not graph.heads or (request.valid is None and request.data is None):
        return None
    try:
        found = read_dataset(request.valid or str(request.data), "valid", request.names)
    except DataError as error:
        if request.valid is not None:
            raise
        say(f"no validation set ({error}); mAP is not measured")
        return None
    if request.valid is None and dataset is not None and found.images == dataset.images:
        say("the data has no validation split; mAP is not measured (--valid gives one)")
        return None
    return found


def _digest(images: ImageSet) -> str:
    digest = hashlib.sha256()
    for path, labels in zip(images.paths, images.labels, strict=True):
        digest.update(str(path).encode("utf-8", "surrogateescape") + b"\0" + labels.tobytes())
    return digest.hexdigest()
