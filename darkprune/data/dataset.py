"""The common form of a labelled image set, whatever files it came from.

Boxes are darknet's everywhere: centre x, centre y, width, height, relative to the image (0 to 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from darkprune.errors import DataError, one_line
from darkprune.runs.digests import digest_if_readable, digest_of_images, digest_of_lines

ProblemKind = Literal["list", "names", "missing", "label", "class", "image"]


@dataclass(frozen=True)
class DataProblem:
    """One thing that is wrong with a data set.

    Attributes:
        file: the file to look into.
        line: 1-based line, None where the file has none or the whole file is meant.
        message: the problem and its consequence, on one line.
        kind: of the problem, for counting: a list of images, the names, a missing label file, a label line, a class
            number, an image.
    """

    file: Path
    line: int | None
    message: str
    kind: ProblemKind = "label"

    def __str__(self) -> str:
        where = one_line(str(self.file), 200) if self.line is None else f"{one_line(str(self.file), 200)}:{self.line}"
        return f"{where}: {self.message}"

    @classmethod
    def of(cls, error: DataError, file: Path, kind: ProblemKind) -> DataProblem:
        """Turns an error, whose message begins with the file, into a problem of the set."""
        return cls(file, None, str(error).removeprefix(f"{file}: "), kind)


@dataclass(frozen=True, eq=False)
class Objects:
    """The labelled objects of one image.

    Attributes:
        boxes: (n, 4) float32, cx, cy, w, h relative to the image, as written in the file (not clipped).
        classes: (n,) int64, not checked against any network.
        difficult: (n,) bool; neither missed nor found objects of this kind count (VOC `difficult`, COCO `iscrowd`).
        lines: (n,) int64, 1-based line in the label file, 0 where the form has no lines.
    """

    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]
    lines: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    def select(self, keep: npt.NDArray[np.bool_]) -> Objects:
        """Returns the objects where `keep`, (n,) bool, is true."""
        return Objects(self.boxes[keep], self.classes[keep], self.difficult[keep], self.lines[keep])


def make_objects(
    boxes: npt.ArrayLike,
    classes: npt.ArrayLike,
    difficult: npt.ArrayLike | None = None,
    lines: npt.ArrayLike | None = None,
) -> Objects:
    """Builds `Objects` from anything array-like; empty lists are fine."""
    numbers = np.asarray(classes, np.int64).reshape(-1)
    with np.errstate(over="ignore"):
        relative = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Objects(
        relative,
        numbers,
        np.zeros(len(numbers), np.bool_) if difficult is None else np.asarray(difficult, np.bool_).reshape(-1),
        np.zeros(len(numbers), np.int64) if lines is None else np.asarray(lines, np.int64).reshape(-1),
    )


def join_objects(first: Objects, second: Objects) -> Objects:
    """Returns the objects of both, in order."""
    return Objects(
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.classes, second.classes]),
        np.concatenate([first.difficult, second.difficult]),
        np.concatenate([first.lines, second.lines]),
    )


@dataclass(frozen=True, eq=False)
class LabelReading:
    """The usable objects of one image, and the problems of its label file."""

    objects: Objects = field(default_factory=lambda: make_objects([], []))
    problems: tuple[DataProblem, ...] = ()


class LabelSource(Protocol):
    """Where one image's labels come from; small and picklable, so that worker processes can carry it."""

    @property
    def file(self) -> Path:
        """The file that holds the labels (it may not exist)."""
        ...

    def read(self) -> LabelReading:
        """Reads them; never raises for bad content, which becomes a `DataProblem`."""
        ...


@dataclass(frozen=True)
class StoredLabels:
    """Labels that were read together with the whole set, or that do not exist (images without labels)."""

    file: Path
    reading: LabelReading

    def read(self) -> LabelReading:
        """Returns the stored labels."""
        return self.reading


@dataclass(frozen=True)
class ImageRecord:
    """One image of a set.

    Attributes:
        path: the image file.
        labels: where its labels come from; `labels.read()` loads them.
        width, height: size in pixels where the annotations say it, else None.
    """

    path: Path
    labels: LabelSource
    width: int | None = None
    height: int | None = None

    def objects(self) -> Objects:
        """Reads the labels without their problems (`check_dataset` lists those)."""
        return self.labels.read().objects


@dataclass(frozen=True)
class Dataset:
    """A labelled image set.

    Attributes:
        name: a short name for tables and errors.
        class_names: the name of class i at position i; may be empty where no names are known.
        images: in the order of the list.
        problems: found while the set was recognised.
        source: the file or folder that it was read from.
        form: what it was taken for ("Pascal VOC"), for messages.
        has_splits: whether the form tells training and validation images apart; else every split is the whole set.
        also: other forms that the same folder could be read in.
        labels_name_classes: whether labels hold names of classes, not numbers, so that these can have another order.
    """

    name: str
    class_names: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    problems: tuple[DataProblem, ...] = ()
    source: Path = Path()
    form: str = ""
    has_splits: bool = False
    also: tuple[str, ...] = ()
    labels_name_classes: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def distinct(self) -> tuple[ImageRecord, ...]:
        """Returns the images, those once that a list names more often."""
        return tuple({id(record): record for record in self.images}.values())


def digest_of_labels(*sets: Dataset, content: bool = False) -> str:
    """Returns the digest of labelled sets: the images, the content of their label files, the names of the classes.

    Args:
        sets: such as the training and the validation images.
        content: see `digest_of_images`; labels count by content in any case.
    """
    lines: list[str] = []
    for dataset in sets:
        lines += ["names", *dataset.class_names]
        lines += ["images", digest_of_images((image.path for image in dataset.images), content)]
        lines += ["labels", *map(digest_if_readable, dict.fromkeys(image.labels.file for image in dataset.images))]
    return digest_of_lines(lines)
