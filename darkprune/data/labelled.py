"""The entrance to labelled images for all that measures or trains on them: read, and checked against the head."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from darkprune.data.check import check_dataset, check_names
from darkprune.data.dataset import DataProblem, Dataset, ImageRecord
from darkprune.data.reading import read_dataset
from darkprune.errors import DataError
from darkprune.settings import PathLike

SHOWN_PROBLEMS = 5


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
    source: PathLike, split: str, names: PathLike | None, classes: int, *, strict: bool = False
) -> Labelled:
    """Reads labelled images and checks them: names, labels, class numbers; the images themselves are not decoded.

    Args:
        source, split, names: see `read_dataset`.
        classes: number of classes of the network's head.
        strict: any problem is an error.

    Raises:
        DataError: the set cannot be read, has another number of names than the head has classes, none of its images is
            there, or none has an object; `strict` and anything is wrong.
    """
    dataset = read_dataset(Path(source), split, names)
    duplicates = check_names(dataset.class_names, None, dataset)
    for problem in check_names(dataset.class_names, classes, dataset):
        if problem not in duplicates:  # another number of names than of classes
            hint = f"darkprune train --classes {len(dataset.class_names)} rewrites the heads"
            raise DataError(f"{problem} ({hint})")
    problems = check_dataset(dataset, classes, decode=False, workers=8)
    if problems and strict:
        raise DataError(f"{problems[0]} (one of {len(problems)} problems; --strict stops at any)")
    absent = sum(problem.kind == "image" for problem in problems)
    if dataset.images and absent == len(dataset.images):
        reason = next((problem for problem in problems if problem.kind == "list"), problems[0])
        raise DataError(f"{dataset.source}: not one of its {absent} images is there; {reason}")
    if not any(_counted(record, classes) for record in dataset.images):
        cause = f"; {problems[0]}" if problems else ""
        raise DataError(f"{dataset.source}: has no labelled objects of the network's {classes} classes{cause}")
    return Labelled(dataset, _summary(problems, len(dataset.images)))


def _counted(record: ImageRecord, classes: int) -> bool:
    """Returns whether an image has an object that counts."""
    objects = record.objects()
    return bool(((objects.classes >= 0) & (objects.classes < classes) & ~objects.difficult).any())


def _summary(problems: list[DataProblem], images: int) -> tuple[str, ...]:
    """Returns the first problems, and how many there are of every kind."""
    missing = sum(problem.kind == "missing" for problem in problems)
    others = [problem for problem in problems if problem.kind != "missing"]
    shown = [f"labels of {missing} of {images} images are missing: they count as images without objects"] * bool(
        missing
    )
    shown += map(str, others[:SHOWN_PROBLEMS])
    if len(others) > SHOWN_PROBLEMS:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(p.kind for p in others).most_common())
        shown.append(f"{len(others)} problems in all ({kinds}); `darkprune check` lists them")
    return tuple(shown)
