"""Batches of images for the network, decoded ahead of time by threads (OpenCV and numpy let go of the GIL)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.data.dataset import DataProblem
from darkprune.data.images import Pixels, Planes, letterbox, read_image, resize
from darkprune.errors import DataError
from darkprune.processes import usable_cores


@dataclass(frozen=True, eq=False)
class Batch:
    """Images ready for the network.

    Attributes:
        images: (b, c, h, w) float32 in 0…1.
        indices: (b,) int64, position of each image in the list that was loaded.
        sizes: (b, 2) int64, width and height of the image file in pixels.
        problems: images of this stretch of the list that could not be read; they are not in the batch.
    """

    images: Planes
    indices: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    problems: tuple[DataProblem, ...]


@dataclass(frozen=True)
class InputShape:
    """What the network takes, from [net].

    Attributes:
        width, height: in pixels.
        channels: 3 (RGB) or 1 (grey).
        letterbox: keep the aspect and fill with grey (`letter_box=1`), else stretch.
    """

    width: int
    height: int
    channels: int = 3
    letterbox: bool = False


def load_image(
    path: Path, shape: InputShape, out: Planes | None = None, view: Callable[[Pixels], Pixels] | None = None
) -> tuple[Planes, tuple[int, int]]:
    """Reads one image and fits it to the network, into `out` (c, h, w) if given.

    `view` gives what of the decoded image is to be seen; all of it without.

    Returns:
        The planes (c, h, w) float32, and width and height of the file's image.

    Raises:
        DataError: the image cannot be read.
    """
    pixels = read_image(path, shape.channels)
    seen = view(pixels) if view else pixels
    fit = letterbox if shape.letterbox else resize
    return fit(seen, shape.width, shape.height, out), (pixels.shape[1], pixels.shape[0])


def batch_of(frames: Sequence[Pixels], shape: InputShape) -> Batch:
    """Makes a batch of images that are decoded already, such as the frames of a video.

    Args:
        frames: (h, w, c) uint8 each, RGB or grey as the network takes.
        shape: input of the network.
    """
    images = np.empty((len(frames), shape.channels, shape.height, shape.width), np.float32)
    fit = letterbox if shape.letterbox else resize
    for frame, out in zip(frames, images, strict=True):
        fit(frame, shape.width, shape.height, out)
    sizes = np.array([(frame.shape[1], frame.shape[0]) for frame in frames], np.int64).reshape(-1, 2)
    return Batch(images, np.arange(len(frames)), sizes, ())


def load_batches(
    paths: Sequence[Path],
    shape: InputShape,
    batch: int,
    *,
    workers: int | None = None,
    ahead: int = 2,
    strict: bool = False,
    view: Callable[[int, Pixels], Pixels] | None = None,
) -> Iterator[Batch]:
    """Loads images in order, in batches, some batches ahead of the consumer.

    Args:
        paths: image files.
        shape: input of the network.
        batch: images per batch; the last may have fewer, and so has any with unreadable images (even none).
        workers: threads; by default one per core, at most 16.
        ahead: batches that are prepared while one is in use; bounds the memory.
        strict: raise at the first unreadable image instead of leaving it out.
        view: called with an image's position in `paths` and the decoded image, gives what of it is to be seen.

    Yields:
        Batches in the order of `paths`.

    Raises:
        DataError: `strict` and an image cannot be read.
    """
    if batch < 1 or ahead < 0:
        raise ValueError(f"batch={batch} must be at least 1 and ahead={ahead} at least 0")
    count = max(1, workers if workers is not None else min(16, usable_cores()))
    pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix="images")
    waiting: deque[Callable[[], Batch]] = deque()
    try:
        for start in range(0, len(paths), batch):
            waiting.append(_start(pool, paths[start : start + batch], start, shape, strict, view))
            if len(waiting) > ahead:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(
    pool: ThreadPoolExecutor,
    paths: Sequence[Path],
    start: int,
    shape: InputShape,
    strict: bool,
    view: Callable[[int, Pixels], Pixels] | None,
) -> Callable[[], Batch]:
    """Hands a batch to the pool; the result, when called, waits for it."""
    images = np.empty((len(paths), shape.channels, shape.height, shape.width), np.float32)
    futures: list[Future[tuple[int, int] | DataError]] = [
        pool.submit(_fill, path, shape, images[position], partial(view, start + position) if view else None)
        for position, path in enumerate(paths)
    ]

    def finish() -> Batch:
        results = [future.result() for future in futures]
        errors = [(path, found) for path, found in zip(paths, results, strict=True) if isinstance(found, DataError)]
        if errors and strict:
            raise errors[0][1]
        good = [position for position, found in enumerate(results) if not isinstance(found, DataError)]
        sizes = np.array([found for found in results if not isinstance(found, DataError)], np.int64).reshape(-1, 2)
        kept = images if len(good) == len(results) else images[good]
        problems = tuple(DataProblem.of(error, path, "image") for path, error in errors)
        return Batch(kept, np.array(good, np.int64) + start, sizes, problems)

    return finish


def _fill(
    path: Path, shape: InputShape, out: Planes, view: Callable[[Pixels], Pixels] | None
) -> tuple[int, int] | DataError:
    try:
        return load_image(path, shape, out, view)[1]
    except DataError as error:
        return error
