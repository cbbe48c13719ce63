"""One number for a loaded network: mAP where there are labels, else its agreement with, or distance from, another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from darkprune.data.dataset import Dataset
from darkprune.data.samples import Sample
from darkprune.errors import DataError
from darkprune.evaluation.agreement import Agreement
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.runners.base import LoadedNetwork

#: measures a loaded network
Measure = Callable[[LoadedNetwork], float]
BATCH = 8  #: images at a time
MAP = "mAP@0.5"  #: more is better
DISTANCE = "distance"  #: less is better
AGREEMENT = "agreement"  #: more is better


def map_of(dataset: Dataset, batch: int = BATCH, task: str = "evaluating") -> Measure:
    """Measures mAP@0.5 as a fraction; `task` is the name of the work in events."""

    def measure(network: LoadedNetwork) -> float:
        loading = Loading(max(1, batch))
        figures, _ = evaluate_detector(_detector(network), dataset, loading=loading, coco=False, task=task)
        return figures.map50

    return measure


def agreement_with(
    original: LoadedNetwork,
    paths: Sequence[Path],
    batch: int = BATCH,
    smaller: Iterable[LoadedNetwork] = (),
) -> Measure:
    """Measures how well a network finds what another one finds, see `Agreement`.

    Args:
        paths: images that were not used to make the others.
        smaller: the original at other input sizes. What is measured is then the mean over all sizes: the original finds
            other objects at each of them, and a network that agrees with one size alone is not the better for it. Each
            size counts as much as the original there agrees with what it finds with confidence at its own size.

    Raises:
        DataError: no image can be read, or the original finds nothing.
    """
    loading = Loading(max(1, batch))
    first = Agreement(_detector(original), paths, loading)
    weighted = [(1.0, first)]
    for each in smaller:
        resized = _detector(each)
        with suppress(DataError):  # it finds nothing at this size
            weight = first.score(first.find(resized), confident=True)
            weighted.append((weight, Agreement(resized, paths, loading)))
    total = sum(weight for weight, _ in weighted)

    def measure(network: LoadedNetwork) -> float:
        found = first.find(_detector(network))
        return sum(weight * agreement.score(found) for weight, agreement in weighted) / total

    return measure


def _detector(network: LoadedNetwork) -> Detector:
    return Detector.of(network.graph, network.head_maps)


def distance_to(original: LoadedNetwork, paths: Sequence[Path], batch: int = BATCH) -> Measure:
    """Measures the distance from the outputs of a network, see `OutputDistance`."""
    graph = original.graph
    heads_of(graph)  # without one there is nothing to measure
    distance = OutputDistance(original.head_maps, graph, Sample(tuple(paths), input_shape(graph), max(1, batch)))
    return lambda network: distance.of(network.head_maps, input_shape(network.graph))


def without_labels(
    original: LoadedNetwork,
    paths: Sequence[Path],
    batch: int = BATCH,
    smaller: Iterable[LoadedNetwork] = (),
) -> tuple[str, Measure, str]:
    """Chooses how networks are compared with their original without labels.

    Args: see `agreement_with`.

    Returns:
        `agreement`, or `distance` where the original detects nothing in these images; what measures it; and in the
        second case why.

    Raises:
        DataError: no image can be read.
    """
    try:
        return AGREEMENT, agreement_with(original, paths, batch, smaller), ""
    except DataError as error:
        problem = f"{error}; compared by the distance of the outputs instead"
        return DISTANCE, distance_to(original, paths, batch), problem
