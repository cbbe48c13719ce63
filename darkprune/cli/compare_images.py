"""The images that cells of `darkprune compare` look at: those given, or those of the training split."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.compression.sources import Images, list_of
from darkprune.data import read_dataset
from darkprune.data.dataset import Dataset
from darkprune.errors import DataError, UsageError
from darkprune.runs.stages import FileSource


def images_for(args: Namespace, cells: Sequence[Cell]) -> FileSource | None:
    """Finds the images, without their labels, that cells look at.

    Returns:
        `--images`; else the training images of `--data`, where cells can make use of images and none of these is
        measured on; else nothing.

    Raises:
        UsageError: a cell cannot do without, and there are none.
        DataError: what is given cannot be read.
    """
    if args.images is not None:
        return Images("images", Path(args.images))
    if not any(cell.images or method_of(cell.method).settings.similarity > 0 for cell in cells):
        return None
    try:
        train, valid = splits(args)
        if not shared(train, valid):
            return list_of("images", Path(args.output) / "train.txt", (record.path for record in train.images))
        why = "its training images are measured on too"
    except DataError as error:
        read_dataset(args.data, args.split, args.names)  # if this fails too, the set is what is wrong
        why = str(error)
    for cell in cells:
        if cell.images:
            raise UsageError(
                f"{_told(cell)} looks at images: give some with --images DIR (labels are not needed), since of --data "
                f"none can be taken: {why}"
            )
    return None


def splits(args: Namespace) -> tuple[Dataset, Dataset]:
    """Reads the parts of `--data` that are trained on and measured on."""
    return read_dataset(args.data, "train", args.names), read_dataset(args.data, args.split, args.names)


def shared(train: Dataset, valid: Dataset) -> int:
    """Counts the images that two parts share."""
    return len({record.path for record in train.images} & {record.path for record in valid.images})


def _told(cell: Cell) -> str:
    """Names what looks: the recovery that was asked for, or the method."""
    return cell.method if method_of(cell.method).images else f"{cell.method} with recovery {cell.recovery}"
