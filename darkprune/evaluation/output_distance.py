"""Distance of a network's outputs from another's, without labels.

‖s − s₀‖ / ‖s₀‖ over s = σ(objectness)·σ(class) of all anchors and images, the scores that detections are made of: 0 for
the same network, 1 for one that detects nothing. It follows mAP closely enough to compare plans of one network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from darkprune.data.loading import InputShape
from darkprune.data.samples import Sample
from darkprune.errors import DataError
from darkprune.graph.graph import Graph
from darkprune.layers.heads import Head, Region, Yolo
from darkprune.progress import track

Maps = npt.NDArray[np.float32]
#: takes images (b, c, h, w); returns the map that each head reads, or without heads the network's output
Run = Callable[[Maps], Sequence[Maps]]


class OutputDistance:
    """Measures the distance of networks from an original on some images; its scores are computed once."""

    def __init__(self, original: Run, graph: Graph, sample: Sample) -> None:
        """Takes the original, which is run when it is first needed.

        Args:
            sample: the images; the scores of all of them are kept in memory.
        """
        self._original, self._sample = original, sample
        self._heads = [layer.kind for layer in graph.heads if isinstance(layer.kind, Head)]
        self._wanted: list[list[Maps]] | None = None

    def of(self, run: Run, shape: InputShape | None = None) -> float:
        """Returns the distance of a network; infinite where its outputs are not finite numbers.

        A network of another input size has maps of another size, which are interpolated to the original's; that adds
        to its distance.

        Args:
            run: the network, with the original's heads.
            shape: its input, where that is not the original's.

        Raises:
            DataError: no image can be read.
        """
        if self._wanted is None:
            self._wanted = [self._scores(self._original, images) for images in self._sample.batches()]
            if not self._wanted:
                first = next(iter(self._sample.paths), None)
                raise DataError(f"none of the {len(self._sample)} images can be read; the first is {first}")
        sample = self._sample if shape is None else replace(self._sample, shape=shape)
        step = track("output distance", len(self._wanted), "batch")
        error = power = 0.0
        for wanted, images in zip(self._wanted, sample.batches(), strict=True):
            for reference, scores in zip(wanted, self._scores(run, images), strict=True):
                difference = resized(scores, reference.shape[2:]).astype(np.float64) - reference
                error += float(np.square(difference).sum())
                power += float(np.square(reference, dtype=np.float64).sum())
            step()
        if not math.isfinite(error):
            return math.inf
        return math.sqrt(error / power) if power else math.sqrt(error)

    def _scores(self, run: Run, images: Maps) -> list[Maps]:
        maps = run(images)
        if not self._heads:
            return [np.asarray(values, np.float32) for values in maps]
        return [scores_of(head, raw) for head, raw in zip(self._heads, maps, strict=True)]


def scores_of(head: Head, raw: Maps) -> Maps:
    """Computes objectness times class probability: (b, anchors · classes, h, w).

    Args:
        raw: (b, channels, h, w), its input.
    """
    batch, _, height, width = raw.shape
    values, layout = raw.reshape(batch, len(head.anchors), -1, height, width), head.layout
    objectness, classes = values[:, :, layout.objectness, None], values[:, :, layout.class_values]
    if isinstance(head, Region) and head.softmax:
        exponents = np.exp(classes - classes.max(axis=2, keepdims=True))
        scores = _sigmoid(objectness) * exponents / exponents.sum(axis=2, keepdims=True)
    elif isinstance(head, Yolo) and head.new_coords:  # the convolution before is logistic
        scores = objectness * classes
    else:
        scores = _sigmoid(objectness) * _sigmoid(classes)
    return np.asarray(scores, np.float32).reshape(batch, -1, height, width)


def resized(maps: Maps, size: Sequence[int]) -> Maps:
    """Interpolates maps (b, c, h, w) linearly between the centres of cells to another height and width."""
    if maps.shape[2:] == tuple(size):
        return maps
    rows, columns = (_interpolation(old, new) for old, new in zip(maps.shape[2:], size, strict=True))
    return np.asarray(rows @ maps @ columns.T, np.float32)


def _interpolation(old: int, new: int) -> Maps:
    """Returns the matrix (new, old) that interpolates a row."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(old))), np.float32)


def _sigmoid(x: Maps) -> Maps:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 80))), np.float32)
