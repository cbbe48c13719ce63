"""The images of a run: reading, checking, and what to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprune.data import read_dataset
from darkprune.data.class_names import network_names
from darkprune.data.dataset import Dataset, digest_of_labels
from darkprune.data.image_files import images_of
from darkprune.data.labelled import open_labelled
from darkprune.errors import DataError, TrainingError, UsageError
from darkprune.graph.graph import Graph
from darkprune.runs.digests import digest_of_images, digest_of_lines
from darkprune.settings import PathLike
from darkprune.training.data.classifier import Accuracy, class_images
from darkprune.training.data.examples import ImageSet, image_set, unlabelled_set
from darkprune.training.losses.softmax import SoftmaxLoss
from darkprune.training.settings import RunSettings


@dataclass(frozen=True, eq=False)
class RunData:
    """The images of a run.

    Attributes:
        images: to train on.
        validation: to measure on, if there are some.
        digest: of the images that are trained on, and of their labels.
        warnings: what is wrong with them.
        class_names: of a detector's classes, where the data has names.
    """

    images: ImageSet
    validation: Dataset | Accuracy | None
    digest: str
    warnings: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


def classes_of(graph: Graph) -> int:
    """Returns the number of classes that a network's heads have in common.

    Raises:
        TrainingError: they differ, or there are no heads.
    """
    found = {getattr(layer.kind, "classes", 0) for layer in graph.heads}
    if len(found) != 1:
        raise TrainingError(f"{graph.cfg.source}: its heads have {sorted(found) or 'no'} classes; they must agree")
    return int(found.pop())


def open_data(
    graph: Graph, data: PathLike | None, settings: RunSettings, *, unlabelled: PathLike | None = None
) -> RunData:
    """Reads and checks the images.

    Args:
        graph: the network.
        data: a set in any form that `read_dataset` knows; None without labels.
        settings: names of the classes, another set to measure on, whether any problem ends the run.
        unlabelled: a folder or a list of images to train on, instead of labelled ones.

    Raises:
        DataError, TrainingError: they cannot be trained on, or `strict` and anything is wrong.
    """
    channels = graph.net.input.c
    if not graph.heads and data is not None:
        softmax = SoftmaxLoss(graph)
        images, accuracy = class_images(data, softmax.classes, channels)
        lines = [f"{path} {int(label[0, 0])}" for path, label in zip(images.paths, images.labels, strict=True)]
        return RunData(images, accuracy, digest_of_lines(lines))
    warnings: list[str] = []
    dataset = None
    if unlabelled is not None:
        images = unlabelled_set(images_of(Path(unlabelled)), channels)
        digest = digest_of_images(images.paths)
    else:
        if data is None:
            raise UsageError("say what to train on: --data F")
        classes = classes_of(graph)
        labelled = open_labelled(
            data, "train", settings.names, classes, network_names=network_names(graph), strict=settings.strict
        )
        dataset = labelled.dataset
        warnings += labelled.warnings
        images = image_set(dataset, classes, channels)
        digest = digest_of_labels(dataset)
    validation = None
    if graph.heads and (settings.valid or data) is not None:
        validation, problem = _validation(graph, data, settings, dataset)
        warnings += problem
    named = dataset or validation
    return RunData(images, validation, digest, tuple(warnings), () if named is None else named.class_names)


def _validation(
    graph: Graph, data: PathLike | None, settings: RunSettings, trained: Dataset | None
) -> tuple[Dataset | None, list[str]]:
    """Finds the set to measure on, or why there is none; a form with one split would be the training set again."""
    try:
        found = read_dataset(settings.valid or str(data), "valid", settings.names, network_names(graph))
    except DataError as error:
        if settings.valid is not None:
            raise
        return None, [f"no validation set ({error}); mAP is not measured"]
    if settings.valid is None and trained is not None and not found.has_splits and found.images == trained.images:
        return None, ["the data has no validation split; mAP is not measured (--valid gives one)"]
    return found, []
