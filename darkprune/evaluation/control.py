"""The control beside every pruned network: the unpruned one at a smaller input with as many operations (METHODS §7).

Pruning has to beat it. The output distance cannot compare networks of different input sizes, so that the control has a
figure only where labels are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from darkprune.errors import DarkpruneError
from darkprune.graph.graph import Graph, with_input_size

STEP = 32  #: input sides are multiples of it, as the coarsest head's stride is


@dataclass(frozen=True)
class Figure:
    """One network in the comparison.

    Attributes:
        name: `original`, `pruned`, `recovered` or `control`.
        width, height: of the input, in pixels.
        macs: multiply-adds for one image.
        distance: output distance to the original on held-out images; None where it was not measured or says nothing.
        map50: mAP@0.5 as a fraction; None without labels.
    """

    name: str
    width: int
    height: int
    macs: int
    distance: float | None = None
    map50: float | None = None

    @classmethod
    def of(cls, name: str, graph: Graph, distance: float | None = None, map50: float | None = None) -> Figure:
        """Takes size and operations from a graph."""
        return cls(name, graph.net.input.w, graph.net.input.h, graph.macs, distance, map50)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


def control_of(graph: Graph, macs: int) -> Graph | None:
    """Returns the network at the input size that costs closest to `macs`; None if only its own size does.

    Args:
        graph: the unpruned network.
        macs: multiply-adds of the pruned one.
    """
    sizes = [candidate for candidate in _smaller(graph) if candidate.macs < graph.macs]
    if not sizes or macs >= graph.macs:
        return None
    return min(sizes, key=lambda candidate: abs(candidate.macs - macs))


def _smaller(graph: Graph) -> Iterator[Graph]:
    """Yields the network at smaller sizes: both sides in proportion, or one of them a step ahead."""
    shape = graph.net.input
    tried: set[tuple[int, int]] = set()
    for width in range(shape.w // STEP * STEP, 0, -STEP):
        height = max(STEP, round(shape.h * width / shape.w / STEP) * STEP)
        for size in ((width, height), (width, height - STEP), (width - STEP, height)):
            if size in tried or min(size) < STEP:
                continue
            tried.add(size)
            try:
                yield with_input_size(graph, *size)
            except DarkpruneError:  # too small for the network, or not for any other size
                continue
