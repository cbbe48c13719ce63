"""The control of a pruned network: the unpruned one at the input size with as many operations.

Shrinking the input costs nothing, so pruning has to do better than that. Input sizes come in steps; at a number of
operations between two of them the control is interpolated. It is measured by mAP or agreement: the output distance does
not compare networks of different input sizes well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from darkprune.errors import DarkpruneError
from darkprune.graph.graph import Graph, with_input_size

STEP = 32  #: input sides are multiples of it, as the stride of most networks' coarsest head is


def control_networks(graph: Graph, macs: Iterable[int]) -> list[Graph]:
    """Returns the unpruned network at the input sizes between which it costs as much as pruned ones do.

    Besides the network's own size these are multiples of 32 pixels that keep its aspect as closely as such steps can.

    Args:
        graph: the unpruned network at its own size.
        macs: multiply-adds of the pruned networks.

    Returns:
        The network at its own size, then at the smaller sizes next to each of `macs`, the largest first.
    """
    wanted = list(macs)
    networks = [graph]
    for smaller in smaller_inputs(graph) if wanted else ():
        if networks[-1].macs <= min(wanted):
            break
        networks.append(smaller)
    costs = [network.macs for network in networks]
    above = (max((i for i, cost in enumerate(costs) if cost >= each), default=None) for each in wanted)
    below = (next((i for i, cost in enumerate(costs) if cost <= each), None) for each in wanted)
    return [networks[i] for i in sorted({0, *(i for i in (*above, *below) if i is not None)})]


def control_at(points: Sequence[tuple[float, float]], macs: float) -> float | None:
    """Returns the control's value at a number of operations, interpolated between its two nearest sizes.

    Args:
        points: (multiply-adds, value) of the unpruned network at its sizes.

    Returns:
        The value; None below the smallest size.
    """
    costs, values = zip(*sorted(points), strict=True)
    return None if macs < costs[0] else float(np.interp(macs, costs, values))


def smaller_inputs(graph: Graph) -> Iterator[Graph]:
    """Yields the network at smaller inputs: the longer side in steps of 32, the shorter one to the nearest step."""
    shape = graph.net.input
    longer = max(shape.w, shape.h)
    for side in range((longer - 1) // STEP * STEP, 0, -STEP):
        width, height = (max(STEP, round(length * side / longer / STEP) * STEP) for length in (shape.w, shape.h))
        try:
            yield with_input_size(graph, width, height)
        except DarkpruneError:  # too small for the network, or its branches no longer meet at one size
            continue
