"""The entrance to labelled images for all that measures or trains on them: read, and checked against the head."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darkprune.data.check import check_dataset, check_names
from darkprune.data.dataset import DataProblem, Dataset, ImageRecord
from darkprune.data.reading import read_dataset
from darkprune.errors import DataError
from darkprune.settings import PathLike

SHOWN_SORTS = 5  #: of problems that a command names


@dataclass(frozen=True)
class Labelled:
    """Labelled images that fit a network.

    Attributes:
        dataset: the images.
        warnings: problems of some of them.
    """

    dataset: Dataset
    warnings: tuple[str, ...]


def open_labelled(
    source: PathLike,
    split: str,
    names: PathLike | None,
    classes: int,
    *,
    network_names: Path | None = None,
    strict: bool = False,
) -> Labelled:
    """Reads labelled images and checks them: names, labels, class numbers; the images themselves are not decoded.

    Args:
        source, split, names, network_names: see `read_dataset`.
        classes: number of classes of the network's head.
        strict: any problem is an error.

    Raises:
        DataError: the set cannot be read, has another number of names than the head has classes, none of its images is
            there, or none has an object; `strict` and anything is wrong.
    """
    dataset = read_dataset(Path(source), split, names, network_names)
    if dataset.class_names and len(dataset.class_names) != classes:
        problem = str(check_names(dataset.class_names, classes, dataset)[-1])
        own = next((problem for problem in dataset.problems if problem.kind == "names"), None)
        if own is not None:  # the set does not fit itself: its names may be the fault
            problem = f"{own}; the network's head has {classes} classes"
        raise DataError(f"{problem} (darkprune train --classes {len(dataset.class_names)} rewrites the heads)")
    problems = check_dataset(dataset, classes, decode=False, workers=8)
    if problems and strict:
        raise DataError(f"{problems[0]} (one of {len(problems)} problems; --strict stops at any)")
    absent = sum(problem.kind == "image" for problem in problems)
    if absent and absent == len(dataset.distinct()):
        reason = min((p for p in problems if p.kind in ("list", "image")), key=lambda p: p.kind == "image")
        raise DataError(f"{dataset.source}: not one of its {absent} images is there; {reason}")
    if not any(_counted(record, classes) for record in dataset.distinct()):
        cause = "" if not problems or problems[0].kind == "list" else f"; {problems[0]}"
        raise DataError(f"{dataset.source}: has no labelled objects of the network's {classes} classes{cause}")
    return Labelled(dataset, _summary(problems, len(dataset.images)))


def _counted(record: ImageRecord, classes: int) -> bool:
    """Returns whether an image has an object that counts, and that a box can overlap."""
    objects = record.objects()
    centre, size = objects.boxes[:, :2], objects.boxes[:, 2:]
    inside = ((size > 0) & (np.abs(centre - 0.5) < (1 + size) / 2)).all(axis=1)
    return bool(((objects.classes >= 0) & (objects.classes < classes) & ~objects.difficult & inside).any())


def _summary(problems: list[DataProblem], images: int) -> tuple[str, ...]:
    """Returns the first problem of each sort, and how many more there are of it."""
    missing = sum(problem.kind == "missing" for problem in problems)
    text = f"labels of {missing} of {images} images are missing: they count as images without objects"
    shown = [text] if missing else []
    sorts: dict[str, list[DataProblem]] = {}
    for problem in problems:
        if problem.kind != "missing":
            sorts.setdefault(re.sub(r"'.*?'|-?[0-9][0-9.e+-]*", "#", problem.message), []).append(problem)
    for first, *more in list(sorts.values())[:SHOWN_SORTS]:
        shown.append(f"{first} (and {len(more)} more like it; `darkprune check` lists them)" if more else f"{first}")
    if len(sorts) > SHOWN_SORTS:
        shown.append(f"{len(sorts) - SHOWN_SORTS} more sorts of problems; `darkprune check` lists them")
    return tuple(shown)
