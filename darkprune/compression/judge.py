"""Measures networks of a run without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from darkprune.compression.network import RunNetwork
from darkprune.data.image_files import images_of
from darkprune.graph.graph import Graph
from darkprune.progress import say
from darkprune.runners.base import FAST_FIRST, LoadedNetwork, load_with_any
from darkprune.runners.measure import Measure, without_labels


class Judge:
    """Compares networks with the original on held-out images.

    By agreement with its detections, at its input size and at smaller ones (see `agreement_with`); by the distance
    of the outputs where it detects nothing in these images.
    """

    def __init__(self, original: RunNetwork, smaller: Sequence[Graph], images: Path) -> None:
        """Takes the original, which is run when it is first needed.

        Args:
            smaller: it at the other input sizes that are tried, or that the control has.
            images: a folder or a list.
        """
        self._original, self._smaller, self._images = original, smaller, images
        self._measure: tuple[str, Measure] | None = None

    def measure(self, graph: Graph, weights: Path) -> Mapping[str, float]:
        """Returns the `agreement` or the `distance` of a network.

        Raises:
            RunnerError: no program takes it.
            DataError: no image can be read.
        """
        if self._measure is None:
            self._measure = self._prepared()
        name, measure = self._measure
        return {name: measure(_loaded(graph, weights))}

    def _prepared(self) -> tuple[str, Measure]:
        weights = self._original.weights
        original = _loaded(self._original.pair().graph, weights)
        smaller = (_loaded(graph, weights) for graph in self._smaller)
        metric, measure, problem = without_labels(original, images_of(self._images), smaller=smaller)
        if problem:
            say(f"warning: {problem}")
        return metric, measure


def _loaded(graph: Graph, weights: Path) -> LoadedNetwork:
    return load_with_any(graph, weights, None, taps=False, order=FAST_FIRST)[1]
