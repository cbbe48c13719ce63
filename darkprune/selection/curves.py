"""What pruning a group costs, measured, and the ratios that meet a budget at the least summed loss.

A curve says for some ratios of one group, all others whole, which part of the network's ability is retained. What
several groups retain is taken as the product of what each does alone, so that their losses −log(retained) add up.
Unlike the retained part itself a loss has no upper end, and a group that is broken already is not free to prune.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise

import numpy as np

from darkprune.json_types import JsonObject
from darkprune.layers.base import Floats
from darkprune.selection.budget import HIGHEST

#: ratios that a curve is measured at; dense where networks begin to fall
RATIOS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LOST = 0.05  #: below this nothing worth measuring is left
_SMALLEST = 1e-3
#: (from ratio, to ratio, what that saves, loss per saving)
_Segment = tuple[float, float, float, float]


@dataclass(frozen=True)
class Curve:
    """What is left of a network when one group is pruned.

    Attributes:
        group: its name.
        channels: how many of its channels have a rank.
        ratios: ascending, above 0; the last is `HIGHEST`.
        retained: per ratio the part of the ability that is left, 0 to 1: mAP over the unpruned one's, or 1 − distance²,
            the share of the outputs' power that is still explained.
        left: kind of budget -> per ratio what remains of the whole network.
    """

    group: str
    channels: int
    ratios: tuple[float, ...]
    retained: tuple[float, ...]
    left: Mapping[str, tuple[float, ...]]

    @property
    def losses(self) -> Floats:
        """−log(retained) per ratio; never falling, for what noise gives back is no gain."""
        return np.maximum.accumulate(-np.log(np.clip(self.retained, _SMALLEST, 1)))


@dataclass(frozen=True)
class Curves:
    """The curves of all groups, in their order.

    Attributes:
        metric: `mAP@0.5` or `distance`.
        unpruned: kind of budget -> of the whole network.
        curves: one per group.
    """

    metric: str
    unpruned: Mapping[str, float]
    curves: tuple[Curve, ...]

    def to_json(self) -> JsonObject:
        """Returns the curves for a report."""
        curves = [asdict(curve) for curve in self.curves]
        return {"metric": self.metric, "unpruned": dict(self.unpruned), "groups": curves}

    def path(self, by: str) -> Callable[[float], tuple[float, ...]]:
        """Returns the way from nothing to everything on which each saving costs the least.

        The lower convex hull of every curve is walked segment by segment, the cheapest of all groups first: any place
        on the way has the least summed loss of what saves as much.

        Args:
            by: `channels`, or a kind of budget: what counts as saved.

        Returns:
            Function from a place (0: nothing is pruned; 1: everything, as far as it goes) to the groups' ratios. The
            place is the fraction of all that can be saved.
        """
        steps = [(number, part) for number, curve in enumerate(self.curves) for part in self._hull(curve, by)]
        steps.sort(key=lambda step: step[1][3])  # stable: within a group slopes rise already
        savings = [part[2] for _, part in steps]
        ends = [end / max(sum(savings), 1e-12) for end in accumulate(savings, initial=0.0)]

        def ratios(place: float) -> tuple[float, ...]:
            found = [0.0] * len(self.curves)
            for (number, (low, high, _, _)), start, end in zip(steps, ends[:-1], ends[1:], strict=True):
                done = (place - start) / (end - start) if end > start else float(place >= end)
                if done > 0:
                    found[number] = low + (high - low) * min(1.0, done)
            return tuple(found)

        return ratios

    def at_ratio(self, ratio: float) -> tuple[float, ...]:
        """Returns the groups' ratios that together mark a fraction of all channels."""
        return self.path("channels")(ratio / HIGHEST)

    def _hull(self, curve: Curve, by: str) -> list[_Segment]:
        """Returns the segments of the lower convex hull of a group's loss over its saving."""
        if not curve.channels:
            return []
        saved = [0.0, *(curve.channels * r if by == "channels" else self.unpruned[by] - left for r, left in
                        zip(curve.ratios, curve.left.get(by, curve.ratios), strict=True))]  # fmt: skip
        points = list(zip((0.0, *curve.ratios), saved, (0.0, *curve.losses.tolist()), strict=True))
        hull = points[:1]
        for point in points[1:]:
            if point[1] <= hull[-1][1]:  # rounding or another group's vote kept it
                continue
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) > _slope(hull[-1], point):
                hull.pop()
            hull.append(point)
        parts = [(a[0], b[0], b[1] - a[1], _slope(a, b)) for a, b in pairwise(hull)]
        if hull[-1][0] < HIGHEST:  # what saves nothing by itself may, together with other groups
            parts.append((hull[-1][0], HIGHEST, 1e-9 * self.unpruned.get(by, curve.channels), math.inf))
        return parts


def _slope(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    return (b[2] - a[2]) / (b[1] - a[1])
