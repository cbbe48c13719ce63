"""Training examples: the labelled images of a run, and how one example is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darkprune.data.dataset import DataProblem, Dataset, ImageRecord
from darkprune.data.images import Pixels, read_image
from darkprune.errors import DataError, TrainingError
from darkprune.training.data.augment import (
    NO_LABELS,
    Augmentation,
    Labels,
    cut_out,
    disturb,
    draw_colours,
    draw_cutout,
    move_labels,
    shift_colours,
    usable,
)
from darkprune.training.data.mixing import Tile, draw_seams, mixup, mosaic

TRIES = 16  #: how many other images are tried in place of one that cannot be read
READERS = 8


@dataclass(eq=False)
class ImageSet:
    """The images of a run.

    Attributes:
        paths: image files.
        labels: objects of image i at i; NO_LABELS for all where there are no labels.
        channels: 3 or 1.
        cached: decoded images by position, kept in memory.
    """

    paths: tuple[Path, ...]
    labels: tuple[Labels, ...]
    channels: int
    cached: dict[int, Pixels]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Pixels:
        """Decodes an image.

        Raises:
            DataError: it cannot be read.
        """
        kept = self.cached.get(index)
        return kept if kept is not None else read_image(self.paths[index], self.channels)

    def keep_in_memory(self, limit: int) -> bool:
        """Decodes everything ahead if it fits into `limit` bytes, so that small sets are decoded only once.

        Returns:
            Whether it fits.
        """
        sample = range(0, len(self), max(1, len(self) // 16))
        sizes = [pixels.nbytes for pixels in map(self._read_or_none, sample) if pixels is not None]
        if not sizes or len(self) * sum(sizes) / len(sizes) > limit:
            return False
        with ThreadPoolExecutor(READERS) as pool:
            for index, pixels in enumerate(pool.map(self._read_or_none, range(len(self)))):
                if pixels is not None:
                    self.cached[index] = pixels
        return True

    def _read_or_none(self, index: int) -> Pixels | None:
        try:
            return self.read(index)
        except DataError:
            return None  # reported when training needs it


def image_set(dataset: Dataset, classes: int, channels: int) -> ImageSet:
    """Reads a set's labels.

    Objects of classes that the head does not have, difficult ones (as darknet's voc_label.py) and those with no size
    or a centre outside the image are left out.

    Raises:
        TrainingError: no image, or not one object that can be learned.
    """
    if not dataset.images:
        raise TrainingError(f"{dataset.source}: has no images to train on")
    with ThreadPoolExecutor(READERS) as pool:
        labels = tuple(pool.map(lambda record: _labels_of(record, classes), dataset.images))
    if not any(map(len, labels)):
        raise TrainingError(
            f"{dataset.source}: not one object that could be learned in {len(labels)} images; "
            "`darkprune check` says what is wrong with the labels"
        )
    return ImageSet(tuple(record.path for record in dataset.images), labels, channels, {})


def unlabelled_set(paths: Sequence[Path], channels: int) -> ImageSet:
    """Makes a set of images without labels."""
    return ImageSet(tuple(paths), (NO_LABELS,) * len(paths), channels, {})


def _labels_of(record: ImageRecord, classes: int) -> Labels:
    objects = record.objects()
    with np.errstate(invalid="ignore"):
        good = (objects.classes >= 0) & (objects.classes < classes) & ~objects.difficult
        good &= (objects.boxes[:, 2:] > 0).all(axis=1) & (
            (objects.boxes[:, :2] >= 0) & (objects.boxes <= 1)[:, :2]
        ).all(axis=1)
    rows = np.concatenate([objects.classes[:, None].astype(np.float32), objects.boxes], axis=1)
    return np.asarray(rows[good], np.float32)


@dataclass(frozen=True, eq=False)
class Example:
    """One training example.

    Attributes:
        pixels: (h, w, c) uint8.
        labels: (n, 5).
        sources: positions of the images that it is made of.
        problems: images that could not be read, for which others were taken.
    """

    pixels: Pixels
    labels: Labels
    sources: tuple[int, ...]
    problems: tuple[DataProblem, ...]


class ExampleMaker:
    """Makes examples; the same random numbers give the same example in every process."""

    def __init__(self, images: ImageSet, what: Augmentation, strict: bool) -> None:
        """Takes the images and the augmentation; `strict` stops at the first image that cannot be read."""
        self.images = images
        self.what = what
        self.strict = strict

    def make(self, index: int, width: int, height: int, random: np.random.Generator) -> Example:
        """Makes an example around an image.

        Args:
            width, height: of the network's input, in pixels.

        Raises:
            DataError: no image can be read, or `strict` and one cannot.
        """
        what = self.what
        problems: list[DataProblem] = []
        mixed = (what.mosaic or what.mixup) and bool(random.integers(2))
        count = 1 if not mixed else 4 if what.mosaic else 2
        seams = draw_seams(random, width, height)
        sources: list[int] = []
        tiles: list[Tile] = []
        for corner in range(count):
            first = index if corner == 0 else int(random.integers(len(self.images)))
            source, pixels = self._read(first, random, problems)
            sources.append(source)
            tiles.append(self._tile(source, pixels, corner if count == 4 else None, width, height, random))
        if count == 4:
            pixels, labels = mosaic(tiles, seams, what.mosaic_bound, what.limit)
        elif count == 2:
            pixels, labels = mixup(tiles[0], tiles[1], what.limit)
        else:
            pixels, labels = shift_colours(tiles[0].pixels, *tiles[0].colours), tiles[0].labels
        return Example(disturb(pixels, labels, what, random), labels, tuple(sources), tuple(problems))

    def _tile(
        self, source: int, pixels: Pixels, corner: int | None, width: int, height: int, random: np.random.Generator
    ) -> Tile:
        image = (pixels.shape[1], pixels.shape[0])
        cutout = draw_cutout(random, *image, self.what, width / height)
        if corner is not None and random.integers(2):
            cutout = cutout.to_corner(corner)
        cutout = usable(cutout, *image)
        labels = move_labels(self.images.labels[source], cutout, image, (width, height), self.what.limit, random)
        sized = cut_out(pixels, cutout, width, height)
        return Tile(sized, draw_colours(random, self.what), labels, cutout, image)

    def _read(self, index: int, random: np.random.Generator, problems: list[DataProblem]) -> tuple[int, Pixels]:
        """Reads an image, or another one where it cannot be read."""
        for _ in range(TRIES):
            try:
                return index, self.images.read(index)
            except DataError as error:
                if self.strict:
                    raise
                problems.append(DataProblem.of(error, self.images.paths[index], "image"))
                index = int(random.integers(len(self.images)))
        raise DataError(f"{problems[-1].file}: {problems[-1].message}; {TRIES} images in a row could not be read")
