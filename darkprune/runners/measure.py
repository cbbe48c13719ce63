"""One number for a loaded network: mAP where there are labels, else the distance from the unpruned one's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from darkprune.data.dataset import Dataset
from darkprune.evaluation.evaluate import evaluate
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.runners.base import LoadedNetwork

#: measures a loaded network; the callback is called with (images done, images in all)
Measure = Callable[[LoadedNetwork, Callable[[int, int], None]], float]
#: called with (number of steps, what is done) gives a context with a function (done, total) that shows progress
Following = Callable[[int, str], AbstractContextManager[Callable[[int, int], None]]]
BATCH = 8  #: images at a time
MAP = "mAP@0.5"  #: more is better
DISTANCE = "distance"  #: less is better


def map_of(dataset: Dataset, batch: int = BATCH) -> Measure:
    """Measures mAP@0.5 as a fraction."""

    def measure(network: LoadedNetwork, report: Callable[[int, int], None]) -> float:
        figures, _ = evaluate(
            network.head_maps,
            heads_of(network.graph),
            dataset,
            input_shape(network.graph),
            coco=False,
            batch=max(1, batch),
            progress=report,
        )
        return figures.map50

    return measure


def distance_to(original: LoadedNetwork, paths: Sequence[Path], batch: int = BATCH) -> Measure:
    """Measures the distance from the outputs of a network, see `OutputDistance`."""
    graph = original.graph
    distance = OutputDistance(original.head_maps, heads_of(graph), paths, input_shape(graph), batch)
    return lambda network, report: distance.measure(network.head_maps, input_shape(network.graph), report)
