"""Measures the networks of a sweep: pruned, recovered, and the unpruned one at other input sizes.

Nothing here imports torch: recovery is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from darkprune.comparison.cliff import Point, Store
from darkprune.graph.graph import Graph
from darkprune.runners.base import load_with_any
from darkprune.runners.measure import Following, Measure
from darkprune.selection.decide import Ranking, decide
from darkprune.selection.settings import Selection
from darkprune.surgery.surgery import Surgery

#: rewrites the slim weights file of a decision so that it does better
Recover = Callable[[Surgery, Path], None]


class Bench:
    """Measures networks, unless the store has them already."""

    def __init__(self, store: Store, runner: str, measure: Measure, images: int, following: Following) -> None:
        """Takes what all measurements have in common.

        Args:
            store: earlier results of the same sweep.
            runner: program to run the networks in.
            measure: gives one number for a network.
            images: how many it looks at.
            following: shows progress.
        """
        self._store, self._runner, self._measure = store, runner, measure
        self._images, self._following = images, following

    def control(self, graph: Graph, weights: Path) -> Point:
        """Measures the unpruned network at some input size."""
        point = _point("control", 0.0, graph)
        what = f"unpruned {point.width}x{point.height}"
        return self._known(point) or self._measured(point, graph, weights, what)

    def pruned(self, ranking: Ranking, settings: Selection, recover: Recover | None) -> list[Point]:
        """Prunes and measures, and once more after recovery, if there is any."""
        decision = decide(ranking, settings)
        slim = decision.graph
        kinds = ["pruned", *(["recovered"] if recover else [])]
        points = [_point(kind, settings.ratio, slim) for kind in kinds]
        known = [self._known(point) for point in points]
        if None not in known:
            return [point for point in known if point is not None]
        with decision.temporary_weights() as path:
            found = []
            for point, before in zip(points, known, strict=True):
                if point.kind == "recovered" and recover is not None:
                    recover(decision, path)
                what = f"{point.kind}, ratio {settings.ratio:g}"
                found.append(before or self._measured(point, slim, path, what))
        return found

    def _known(self, point: Point) -> Point | None:
        return self._store.points.get(point.key)

    def _measured(self, point: Point, graph: Graph, weights: Path, what: str) -> Point:
        _, network = load_with_any(graph, weights, self._runner, taps=False)
        with self._following(self._images, what) as report:
            value = self._measure(network, report)
        point = replace(point, value=round(value, 7))
        self._store.add(point)
        return point


def _point(kind: str, ratio: float, graph: Graph) -> Point:
    return Point(kind, ratio, graph.net.input.w, graph.net.input.h, graph.params, graph.macs, 0.0)
