"""Checks of a data set, before any time is spent on it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.data.dataset import DataProblem, Dataset, ImageRecord, LabelReading, Objects, ProblemKind
from darkprune.data.images import check_image
from darkprune.errors import DataError, one_line
from darkprune.progress import track

# labels written with six decimals may stick out of the image by rounding; darknet does not mind
_SLACK = 1e-4


def check_dataset(
    dataset: Dataset,
    classes: int | None = None,
    *,
    decode: bool = True,
    workers: int = 4,
) -> list[DataProblem]:
    """Lists the problems of a set.

    Args:
        dataset: the set.
        classes: number of classes of the network's head; None if there is no network yet.
        decode: also decode every image (some milliseconds each); else only look whether the files exist.
        workers: threads that read and decode.

    Returns:
        Problems in the order: names, list, then image by image (missing or malformed labels, class numbers beyond the
        head, boxes out of range, unreadable or truncated images).
    """
    problems = [*dataset.problems, *check_names(dataset.class_names, classes, dataset), *check_list(dataset)]
    limit = classes if classes is not None else len(dataset.class_names) or None
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        images = dataset.distinct()
        checked = pool.map(lambda record: _check_image(record, limit, decode), images)
        step = track("checking", len(images), "image")
        numbers: set[int] = set()
        for found, classes_found in checked:
            problems += found
            numbers |= classes_found
            step()
    if dataset.images and not numbers and not problems:
        text = f"none of its {len(dataset)} images has a labelled object"
        problems.append(DataProblem(dataset.source, None, text, "list"))
    if limit is not None and numbers and min(numbers) == 1 and max(numbers) == limit:
        text = f"class numbers run from 1 to {limit}, but darknet counts from 0: subtract 1 from every class number"
        problems.insert(0, DataProblem(dataset.source, None, text, "class"))
    return problems


def check_names(names: Sequence[str], classes: int | None, dataset: Dataset) -> list[DataProblem]:
    """Compares the names with themselves and with the head's number of classes."""
    where = dataset.source
    problems = [
        DataProblem(where, None, f"the name '{one_line(name, 40)}' stands for {count} classes", "names")
        for name, count in Counter(names).items()
        if count > 1 and name
    ]
    if classes is not None and names and classes != len(names):
        problems.append(
            DataProblem(
                where,
                None,
                f"has {len(names)} names but the network's head {classes} classes; "
                f"set classes={len(names)} and filters to match in the cfg, or give the right names",
                "names",
            )
        )
    return problems


def check_list(dataset: Dataset) -> list[DataProblem]:
    """Finds an empty list, and images that are listed more than once."""
    if not dataset.images:
        return [DataProblem(dataset.source, None, "has no images", "list")]
    counts = Counter(record.path for record in dataset.images)
    return [DataProblem(path, None, f"is listed {count} times", "list") for path, count in counts.items() if count > 1]


def check_objects(objects: Objects, file: Path, classes: int | None, image: str = "") -> list[DataProblem]:
    """Finds class numbers beyond the head and boxes out of range.

    Args:
        objects: of one image.
        file: where they were read.
        classes: number of classes, None if unknown.
        image: name of the image, said where the objects have no lines of their own (COCO).
    """
    beyond = objects.classes < 0
    if classes is not None:
        beyond |= objects.classes >= classes
    boxes = objects.boxes
    centre, size = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore"):
        off = ~((centre > -_SLACK) & (centre <= 1 + _SLACK)).all(axis=1)
        flat = ~((size > 0).all(axis=1))
        large = ~((size <= 1 + _SLACK).all(axis=1)) & ~flat

    def each(wrong: npt.ArrayLike, message: Callable[[int], str], kind: ProblemKind = "label") -> Iterable[DataProblem]:
        for index in map(int, np.flatnonzero(wrong)):
            line = int(objects.lines[index])
            where = "" if line or not image else f"an object of {one_line(image, 80)}: "
            yield DataProblem(file, line or None, where + message(index), kind)

    highest = "" if classes is None else f" (0 to {classes - 1})"
    return [
        *each(beyond, lambda i: f"class {objects.classes[i]} is beyond the classes{highest}", "class"),
        *each(off, lambda i: f"centre {_pair(centre[i])} is outside the image (0 to 1)"),
        *each(flat, lambda i: f"box size {_pair(size[i])} is not positive"),
        *each(large, lambda i: f"box size {_pair(size[i])} is larger than the image (1)"),
    ]


def _check_image(record: ImageRecord, classes: int | None, decode: bool) -> tuple[list[DataProblem], set[int]]:
    """Returns the problems of an image and its labels, and its class numbers."""
    reading: LabelReading = record.labels.read()
    problems = [*reading.problems, *check_objects(reading.objects, record.labels.file, classes, record.path.name)]
    problems.sort(key=lambda problem: problem.line or 0)
    if decode:
        try:
            odd = check_image(record.path)
        except DataError as error:
            problems.append(DataProblem.of(error, record.path, "image"))
        else:
            problems += [DataProblem(record.path, None, odd, "image")] if odd else []
    elif not os.path.isfile(record.path):
        problems.append(DataProblem(record.path, None, "no such image", "image"))
    return problems, set(reading.objects.classes.tolist())


def _pair(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
