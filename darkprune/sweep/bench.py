"""Measures the networks of a sweep: pruned, recovered, and the unpruned one at other input sizes.

Nothing here imports torch: recovery is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from darkprune.graph.graph import Graph
from darkprune.runners.base import load_with_any
from darkprune.runners.measure import Measure
from darkprune.runs.record import Origin, Record
from darkprune.runs.record_file import RecordFile
from darkprune.selection.decide import Ranking, decide
from darkprune.selection.settings import Selection
from darkprune.surgery.surgery import Surgery
from darkprune.sweep.points import Point, name_of, origin_of, read_point

#: repairs the slim weights file of a surgery in place
Recover = Callable[[Surgery, Path], None]


@dataclass(frozen=True, kw_only=True)
class SweepBench:
    """Measures networks, unless their records are there.

    Attributes:
        records: of the sweep.
        origin: what all its points have in common.
        runner: program to run the networks in.
        measure: gives one number for a network.
    """

    records: RecordFile
    origin: Origin
    runner: str
    measure: Measure

    def control(self, graph: Graph, weights: Path) -> Point:
        """Measures the unpruned network at some input size."""
        return self._known("control", 0.0, graph) or self._measured("control", 0.0, graph, weights)

    def pruned(
        self, ranking: Callable[[], Ranking], selection: Selection, original: Graph, recover: Recover | None
    ) -> list[Point]:
        """Prunes and measures, and once more after recovery, if there is any.

        Args:
            ranking: gives the ranked channels; not called where everything is known.
        """
        kinds = ("pruned", "recovered") if recover is not None else ("pruned",)
        known = [self._known(kind, selection.ratio, original) for kind in kinds]
        if None not in known:
            return [point for point in known if point is not None]
        surgery = decide(ranking(), selection)
        found = []
        with surgery.temporary_weights() as path:
            for kind, earlier in zip(kinds, known, strict=True):
                if kind == "recovered" and recover is not None:
                    recover(surgery, path)
                found.append(earlier or self._measured(kind, selection.ratio, surgery.graph, path))
        return found

    def _known(self, kind: str, ratio: float, graph: Graph) -> Point | None:
        name = name_of(kind, ratio, graph.net.input.w, graph.net.input.h)
        record = self.records.find(name, origin_of(self.origin, name).key)
        return None if record is None else read_point(record)

    def _measured(self, kind: str, ratio: float, graph: Graph, weights: Path) -> Point:
        _, network = load_with_any(graph, weights, self.runner, taps=False)
        point = Point(
            kind=kind,
            ratio=ratio,
            width=graph.net.input.w,
            height=graph.net.input.h,
            params=graph.params,
            macs=graph.macs,
            value=round(self.measure(network), 7),
        )
        self.records.keep(point.name, Record(origin=origin_of(self.origin, point.name), result=asdict(point)))
        return point
