"""What a comparison reads: checked as a whole before any cell begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darkprune.comparison.amounts import parse_amount
from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.comparison.settings import CompareSettings
from darkprune.comparison.setup import Setup
from darkprune.darknet.output import atomic_file
from darkprune.data.class_names import network_names
from darkprune.data.dataset import Dataset, digest_of_labels
from darkprune.data.image_files import images_of
from darkprune.data.labelled import open_labelled
from darkprune.data.reading import read_dataset
from darkprune.errors import DataError, UsageError
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import totals
from darkprune.runners.base import FAST_FIRST, load_with_any
from darkprune.runs.digests import digest_of_images, digest_of_lines
from darkprune.runs.record import Input, file_input


@dataclass(frozen=True)
class Images:
    """Unlabelled images that cells look at.

    Attributes:
        path: a folder, or a list.
        paths: the images.
        to_write: whether the list is yet to be written.
    """

    path: Path
    paths: tuple[Path, ...]
    to_write: bool = False

    def write(self) -> None:
        """Writes the list, where it is one of the comparison's own.

        Raises:
            OutputError: it cannot be written.
        """
        if self.to_write:
            with atomic_file(self.path, overwrite=True) as file:
                file.write(("\n".join(map(os.path.abspath, self.paths)) + "\n").encode("utf-8", "surrogateescape"))


def prepare(
    cfg: Path, weights: Path, folder: Path, settings: CompareSettings, cells: Sequence[Cell]
) -> tuple[Setup, Images | None, tuple[str, ...]]:
    """Checks what all cells have in common; nothing is written.

    Returns:
        What the cells start from; the unlabelled images where any are looked at; what is wrong with the labelled ones.

    Raises:
        UsageError: a budget that cannot be read; a cell needs images that are not given, or trains on those that are
            measured on.
        DarkpruneError: network or data cannot be used.
    """
    images = _images_for(settings, folder, cells)
    graph = read_graph(cfg)
    classes = heads_of(graph)[-1].classes
    for cell in cells:
        parse_amount(settings.budget_of, cell.budget, totals(graph))
    runner, _ = load_with_any(graph, weights, settings.runner, taps=False, order=FAST_FIRST)
    inputs = {"cfg": file_input(cfg), "weights": file_input(weights)}
    order = network_names(graph)
    labelled = open_labelled(settings.data or "", settings.split, settings.names, classes, network_names=order)
    valid = labelled.dataset
    inputs["valid"] = Input(str(valid.source), digest_of_labels(valid))
    train = _training_labels(settings, valid, cells, order)
    if train is not None:
        inputs["train"] = Input(str(train.source), digest_of_labels(train))
    if settings.teacher is not None:
        parts = [file_input(Path(path)) for path in settings.teacher]
        inputs["teacher"] = Input(parts[1].path, digest_of_lines(part.sha256 for part in parts))
    if images is not None:
        inputs["images"] = Input(str(images.path), digest_of_images(images.paths))
    setup = Setup(
        cfg=cfg,
        weights=weights,
        folder=folder,
        settings=settings,
        images=images.path if images else None,
        runner=runner,
        inputs=inputs,
    )
    return setup, images, labelled.warnings


def _training_labels(
    settings: CompareSettings, valid: Dataset, cells: Sequence[Cell], order: Path | None
) -> Dataset | None:
    """Reads the labelled images that cells train on or choose by; None where they do without.

    `order` as `network_names` of `read_dataset`.

    Raises:
        UsageError: some of them are measured on too, and a cell cannot do without.
        DataError: they cannot be read, and a cell cannot do without.
    """
    needing = any(cell.needs_labels for cell in cells)
    if not (needing or any(method_of(cell.method).searches for cell in cells)):
        return None
    try:
        train = read_dataset(settings.data or "", "train", settings.names, order)
    except DataError:
        if needing:
            raise
        return None
    count = _shared(train, valid)
    if count and needing:
        raise UsageError(
            f"{train.source}: {count} of its training images are measured on too; what trains on labels, or chooses by "
            "them, needs a set with two splits (of recoveries, distill-unlabelled with --images does without)"
        )
    return None if count else train


def _images_for(settings: CompareSettings, folder: Path, cells: Sequence[Cell]) -> Images | None:
    """Finds the images, without their labels, that cells look at.

    Returns:
        Those given; else the training images, where cells can make use of images and none of these is measured on;
        else None.

    Raises:
        UsageError: a cell cannot do without, and there are none.
        DataError: what is given cannot be read.
    """
    if settings.images is not None:
        return Images(Path(settings.images), images_of(Path(settings.images)))
    if not any(cell.needs_images or method_of(cell.method).settings.similarity > 0 for cell in cells):
        return None
    try:
        train, valid = (read_dataset(settings.data or "", split, settings.names) for split in ("train", settings.split))
        if not _shared(train, valid):
            return Images(folder / "train.txt", tuple(record.path for record in train.images), to_write=True)
        why = "its training images are measured on too"
    except DataError as error:
        read_dataset(settings.data or "", settings.split, settings.names)  # if this fails too, the set is what is wrong
        why = str(error)
    for cell in cells:
        if cell.needs_images:
            recovery = "" if method_of(cell.method).images else f" with recovery {cell.recovery}"
            raise UsageError(
                f"{cell.method}{recovery} looks at images: give some with --images DIR (labels are not needed), since "
                f"of --data none can be taken: {why}"
            )
    return None


def _shared(train: Dataset, valid: Dataset) -> int:
    """Counts the images that two parts share."""
    return len({record.path for record in train.images} & {record.path for record in valid.images})
