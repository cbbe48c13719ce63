"""`--unit-score distance`: what the outputs lose without a residual unit, on unlabelled images.

The squared output distance of the network without the unit, divided by the share of the operations that it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from darkprune.data.samples import Sample
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.graph.weights import TensorSource
from darkprune.network.loading import load_network, run_of
from darkprune.progress import Progress, silent, track
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.units import Unit

IMAGES = 64


def score_by_distance(
    weights: TensorSource, units: Sequence[Unit], sample: Sample, progress: Progress = silent
) -> tuple[Unit, ...]:
    """Scores units by the output distance that the loss of each alone makes, per operation; the lowest go first.

    Args:
        units: of its network.
        sample: unlabelled images; at most `IMAGES` are used.

    Raises:
        DataError: no image can be read.
    """
    macs = weights.graph.macs
    distance = OutputDistance(run_of(load_network(weights)), weights.graph, sample.first(IMAGES))
    step = track(progress, "trying without units", len(units), "unit")
    scored = []
    for unit in units:
        left = reduced(weights, [unit])
        lost = distance.of(run_of(load_network(left))) ** 2
        scored.append(replace(unit, score=round(lost * macs / (macs - left.graph.macs), 7)))
        step()
    return tuple(scored)
