"""How far a pruned network's statements are from the original's, on images without labels (METHODS §7).

The distance is ‖s − s₀‖ / ‖s₀‖ over s = σ(obj)·σ(cls) of all anchors and images: 0 for the same network, 1 for one that
says nothing. It follows mAP closely enough to compare plans of one network; networks of different input sizes have
different anchors, and it cannot compare those.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from darkprune.network import Network
from darkprune.network.readout import read_out
from darkprune.network.samples import Sample


def output_distance(
    original: Network, slim: Network, sample: Sample, progress: Callable[[], object] = lambda: None
) -> float:
    """Measures the distance of two networks with the same heads.

    Args:
        original: the network before.
        slim: the network after.
        sample: images that nothing was fitted on.
        progress: called after each batch.

    Returns:
        The distance; infinite where the slim network gives something that is no number.
    """
    return Reference(original, sample).distance(slim, progress)


class Reference:
    """The original's statements about a sample, computed once, to compare many plans with."""

    def __init__(self, original: Network, sample: Sample) -> None:
        self._sample = sample
        original.eval()
        with torch.inference_mode():
            self._scores = [read_out(original.graph, original(images)).scores for images in sample.batches()]
        self._size = sum(float(scores.double().square().sum()) for scores in self._scores)

    def distance(self, slim: Network, progress: Callable[[], object] = lambda: None) -> float:
        """Measures the distance of a network; see the module."""
        slim.eval()
        apart = 0.0
        with torch.inference_mode():
            for images, wanted in zip(self._sample.batches(), self._scores, strict=True):
                scores = read_out(slim.graph, slim(images)).scores
                apart += float((scores.double() - wanted.double()).square().sum())
                progress()
        if not math.isfinite(apart):
            return math.inf
        return math.sqrt(apart / self._size) if self._size else math.sqrt(apart)
