"""How far a network's answers are from another's, without labels (METHODS §7).

What is compared is σ(objectness)·σ(class) at every anchor of every cell of every head: the scores that detections are
made of. In the measurements of METHODS §7 it followed mAP closely enough to search plans by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.data.loading import InputShape, load_batches
from darkprune.errors import DataError
from darkprune.evaluation.heads import Head

Maps = npt.NDArray[np.float32]
#: takes images (b, c, h, w), gives per head the map that it takes
Run = Callable[[Maps], Sequence[Maps]]


def scores_of(head: Head, raw: Maps) -> Maps:
    """Computes objectness times class probability.

    Args:
        head: a detection head.
        raw: (b, channels, h, w), what it takes.

    Returns:
        (b, anchors · classes, h, w).
    """
    batch, _, height, width = raw.shape
    values = raw.reshape(batch, len(head.anchors), head.features, height, width)
    place = head.features - head.classes - 1
    objectness, classes = values[:, :, place : place + 1], values[:, :, place + 1 :]
    if head.kind == "region" and head.softmax:
        exponents = np.exp(classes - classes.max(axis=2, keepdims=True))
        scores = _sigmoid(objectness) * exponents / exponents.sum(axis=2, keepdims=True)
    elif head.new_coords:  # the values went through a logistic convolution already
        scores = objectness * classes
    else:
        scores = _sigmoid(objectness) * _sigmoid(classes)
    return np.asarray(scores, np.float32).reshape(batch, -1, height, width)


class OutputDistance:
    """Distance from one network's scores on some images: RMS of the difference over RMS of the scores.

    0 is the same answer everywhere; 1 is as far away as giving no answer at all. A network of another input size gives
    maps of another size, which are interpolated to the reference's; that costs it something.
    """

    def __init__(self, run: Run, heads: Sequence[Head], paths: Sequence[Path], shape: InputShape, batch: int) -> None:
        """Takes the reference; it is run when it is first needed.

        Args:
            run: the reference network.
            heads: its heads.
            paths: image files; the scores of all of them are kept in memory (as 16-bit floats).
            shape: input of the reference network.
            batch: images at a time.
        """
        self._run, self._heads, self._paths, self._shape, self._batch = run, heads, paths, shape, max(1, batch)
        self._wanted: list[list[npt.NDArray[np.float16]]] | None = None

    def measure(
        self, run: Run, shape: InputShape, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> float:
        """Returns the distance of a network.

        Args:
            run: the network; its heads are those of the reference.
            shape: what it takes.
            progress: called with (images done, images in all).

        Raises:
            DataError: no image can be read, or the images' list changed.
        """
        if self._wanted is None:
            self._wanted = [[m.astype(np.float16) for m in maps] for maps in self._scores(self._run, self._shape)]
        error = power = 0.0
        done = 0
        for wanted, found in zip(self._wanted, self._scores(run, shape), strict=True):
            for a, b in zip(wanted, found, strict=True):
                reference = a.astype(np.float32)
                difference = np.nan_to_num(_resized(b, a.shape[2], a.shape[3]), nan=1.0) - reference
                error += float(np.square(difference, dtype=np.float64).sum())
                power += float(np.square(reference, dtype=np.float64).sum())
            done += len(wanted[0])
            progress(done, len(self._paths))
        if not done:
            raise DataError(f"not one of the {len(self._paths)} images can be read; the first is {self._paths[0]}")
        return float(np.sqrt(error / max(power, 1e-30)))

    def _scores(self, run: Run, shape: InputShape) -> Iterator[list[Maps]]:
        for batch in load_batches(self._paths, shape, self._batch):
            if len(batch.indices):
                maps = run(batch.images)
                yield [scores_of(head, raw) for head, raw in zip(self._heads, maps, strict=True)]


def _resized(maps: Maps, height: int, width: int) -> Maps:
    """Interpolates linearly between the centres of cells."""
    if maps.shape[2:] == (height, width):
        return maps
    rows, columns = _taps(maps.shape[2], height), _taps(maps.shape[3], width)
    return np.asarray(rows @ maps @ columns.T, np.float32)


def _taps(old: int, new: int) -> Maps:
    """Returns the matrix (new, old) that interpolates a row."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(old))), np.float32)


def _sigmoid(x: Maps) -> Maps:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 80))), np.float32)
