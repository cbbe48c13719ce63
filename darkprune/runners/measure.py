"""One number for a loaded network: mAP where there are labels, else its agreement with, or distance from, another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from darkprune.data.dataset import Dataset
from darkprune.data.samples import Sample
from darkprune.errors import DataError
from darkprune.evaluation.agreement import Agreement
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.progress import Progress, silent
from darkprune.runners.base import LoadedNetwork

#: measures a loaded network
Measure = Callable[[LoadedNetwork, Progress], float]
BATCH = 8  #: images at a time
MAP = "mAP@0.5"  #: more is better
DISTANCE = "distance"  #: less is better
AGREEMENT = "agreement"  #: more is better


def map_of(dataset: Dataset, batch: int = BATCH, task: str = "evaluating") -> Measure:
    """Measures mAP@0.5 as a fraction; `task` is the name of the work in events."""

    def measure(network: LoadedNetwork, progress: Progress) -> float:
        detector = Detector.of(network.graph, network.head_maps)
        loading = Loading(max(1, batch))
        figures, _ = evaluate_detector(detector, dataset, loading=loading, coco=False, task=task, progress=progress)
        return figures.map50

    return measure


def agreement_with(
    original: LoadedNetwork, paths: Sequence[Path], batch: int = BATCH, progress: Progress = silent
) -> Measure:
    """Measures how well a network finds what another one finds, see `Agreement`.

    Raises:
        DataError: no image can be read, or the original finds nothing.
    """
    agreement = Agreement(Detector.of(original.graph, original.head_maps), paths, Loading(max(1, batch)), progress)

    def measure(network: LoadedNetwork, progress: Progress) -> float:
        return agreement.of(Detector.of(network.graph, network.head_maps), progress)

    return measure


def distance_to(original: LoadedNetwork, paths: Sequence[Path], batch: int = BATCH) -> Measure:
    """Measures the distance from the outputs of a network, see `OutputDistance`."""
    graph = original.graph
    heads_of(graph)  # without one there is nothing to measure
    distance = OutputDistance(original.head_maps, graph, Sample(tuple(paths), input_shape(graph), max(1, batch)))
    return lambda network, progress: distance.of(network.head_maps, input_shape(network.graph), progress)


def without_labels(
    original: LoadedNetwork, paths: Sequence[Path], batch: int = BATCH, progress: Progress = silent
) -> tuple[str, Measure, str]:
    """Chooses how networks are compared with their original without labels.

    Args:
        original: the network to compare with.
        paths: images that were not used to make the others.
        batch: images at a time.
        progress: gets the events of the original's run.

    Returns:
        `agreement`, or `distance` where the original detects nothing in these images; what measures it; and in the
        second case why.

    Raises:
        DataError: no image can be read.
    """
    try:
        return AGREEMENT, agreement_with(original, paths, batch, progress), ""
    except DataError as error:
        problem = f"{error}; compared by the distance of the outputs instead"
        return DISTANCE, distance_to(original, paths, batch), problem
