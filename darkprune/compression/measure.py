"""Measurements that no command makes by itself: the distance of two pairs' outputs, the input sizes of the control."""

from __future__ import annotations

from pathlib import Path

from darkprune.data.image_files import images_of
from darkprune.evaluation.control import control_networks
from darkprune.graph.graph import Graph, read_graph
from darkprune.progress import Progress
from darkprune.runners.base import FAST_FIRST, load_with_any
from darkprune.runners.measure import distance_to


def distance_of(original: tuple[Path, Path], slim: tuple[Path, Path], images: Path, progress: Progress) -> float:
    """Measures how far a pair's scores are from the original's; see `OutputDistance`.

    Args:
        original, slim: cfg and weights.
        images: a folder or a list.
        progress: gets an event per batch of images.

    Raises:
        RunnerError: no program takes one of them.
        DataError: no image can be read.
    """
    (_, before), (_, after) = (load_with_any(read_graph(cfg), weights, None, taps=False, order=FAST_FIRST)
                               for cfg, weights in (original, slim))  # fmt: skip
    return distance_to(before, images_of(images))(after, progress)


def control_for(original: Path, slim: Path) -> tuple[int, list[Graph]]:
    """Returns a slim network's multiply-adds, and the unpruned network at the input sizes that cost about as much."""
    macs = read_graph(slim).macs
    return macs, control_networks(read_graph(original), [macs])
