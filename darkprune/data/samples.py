"""Unlabelled images: a folder or a list, divided into images to fit on and images held out, streamed in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from darkprune.data.image_files import HELD_OUT, divide_images, images_of
from darkprune.data.images import Pixels, Planes
from darkprune.data.loading import InputShape, load_batches
from darkprune.errors import DataError
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.graph import Graph

FEWEST = 2  #: one image to fit on, one to hold out; a useful number is more like a hundred
MAP_BYTES = 256 << 20  #: what the maps of one batch may take, all layers together
MAX_BATCH = 8
VIEWS = 4  #: of an image: as it is, mirrored, two parts
SMALLEST_PART = 0.4  #: of the image's sides
ENOUGH = 64  #: images to fit on
MAX_MESSAGES = 5  #: about single images that cannot be read


@dataclass(frozen=True)
class Sample:
    """Images for one network, decoded again each time that they are read.

    Attributes:
        paths: image files.
        shape: what the network takes.
        batch: images at a time.
        further: number of additional views after the images: a mirrored one of each, then random parts of each.
    """

    paths: tuple[Path, ...]
    shape: InputShape
    batch: int
    further: int = 0

    def __len__(self) -> int:
        return len(self.paths) + self.further

    def first(self, count: int) -> Sample:
        """Returns a sample of the first images."""
        return replace(self, paths=self.paths[:count], further=0)

    def filled(self, count: int) -> Sample:
        """Returns the first images; where there are fewer, additional views of them too, at most `VIEWS` of each."""
        first = self.first(count)
        images = len(first.paths)
        return replace(first, further=min(count - images, (VIEWS - 1) * images))

    @property
    def batch_count(self) -> int:
        """Number of batches if all images can be read."""
        return sum(-(-len(paths) // self.batch) for paths in self._passes())

    def batches(self) -> Iterator[Planes]:
        """Yields (b, c, h, w) float32, RGB, 0 to 1; unreadable images are left out, the same ones each time."""
        for number, paths in enumerate(self._passes()):
            for loaded in load_batches(paths, self.shape, self.batch, view=partial(_view, number)):
                if len(loaded.images):
                    yield loaded.images

    def _passes(self) -> Iterator[tuple[Path, ...]]:
        """Yields the images that are read a first, a second … time."""
        left = len(self)
        while left > 0:
            yield self.paths[:left]
            left -= len(self.paths)


def _view(number: int, image: int, pixels: Pixels) -> Pixels:
    """Returns a view of an image: number 0 is all of it, 1 mirrored, others a random part, the same every time."""
    if number == 0:
        return pixels
    if number > 1:
        random = np.random.default_rng((number, image))
        share = random.uniform(SMALLEST_PART, 1.0)
        height, width = (max(1, round(side * share)) for side in pixels.shape[:2])
        top = int(random.integers(pixels.shape[0] - height + 1))
        left = int(random.integers(pixels.shape[1] - width + 1))
        pixels = pixels[top : top + height, left : left + width]
        if random.random() < 0.5:
            return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels[:, ::-1])


@dataclass(frozen=True)
class Samples:
    """A user's unlabelled images.

    Attributes:
        fit: to score and fit on, in random order.
        held_out: never fitted on.
        unreadable: what is wrong with the files that were left out.
        most: number of images to fit on that can be used at all; 0 for any number.
    """

    fit: Sample
    held_out: Sample
    unreadable: tuple[str, ...]
    most: int = 0

    def warnings(self) -> list[str]:
        """Lists the images that were left out, and says where there are few."""
        more = len(self.unreadable) - MAX_MESSAGES
        found = [*self.unreadable[:MAX_MESSAGES], *([f"… and {more} more images cannot be read"] if more > 0 else [])]
        if len(self.fit) < ENOUGH:
            found.append(
                f"{len(self.fit)} images to fit on and {len(self.held_out)} to measure on are few; "
                f"up to {self.most or 'any number'} and {HELD_OUT} are used"
            )
        return found


def read_samples(source: Path, graph: Graph, *, most: int = 0, seed: int = 0) -> Samples:
    """Finds images and divides them: a quarter, at most 64, is held out.

    Args:
        source: a folder (searched with its subfolders) or a list of images (.txt, .list).
        graph: the network.
        most: number of images to fit on; 0 for all.
        seed: of the division.

    Raises:
        DataError: there are no images, or too few that can be read.
    """
    rest, first = divide_images(images_of(source), seed)
    chosen = [*first, *rest[: most or len(rest)]]
    shape, batch = input_shape(graph), batch_size(graph)
    good, unreadable = _readable(chosen, shape, batch)
    if len(good) < FEWEST:
        reason = f" ({unreadable[0]})" if unreadable else ""
        raise DataError(f"{source}: holds {len(good)} images that can be read, at least {FEWEST} are needed{reason}")
    held = min(len(first), len(good) // 2)
    fit, held_out = (Sample(tuple(part), shape, batch) for part in (good[held:], good[:held]))
    return Samples(fit, held_out, unreadable, most)


def batch_size(graph: Graph) -> int:
    """Returns the number of images whose maps, of all layers together, fit into `MAP_BYTES`; at most `MAX_BATCH`."""
    per_image = 4 * sum(layer.output.outputs for layer in graph)
    return max(1, min(MAX_BATCH, MAP_BYTES // max(1, per_image)))


def _readable(paths: Sequence[Path], shape: InputShape, batch: int) -> tuple[list[Path], tuple[str, ...]]:
    """Decodes everything once, so that every later pass reads the same images."""
    good: list[Path] = []
    problems: list[str] = []
    for loaded in load_batches(paths, shape, batch):
        good += [paths[index] for index in loaded.indices.tolist()]
        problems += [str(problem) for problem in loaded.problems]
    return good, tuple(problems)
