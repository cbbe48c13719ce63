"""What became of each group, and what the user should know about a choice of channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from darkprune.graph.channels import BoolArray, ChannelMap, removed_in
from darkprune.graph.groups import PruneGroup
from darkprune.layers.base import Floats
from darkprune.selection.voting import FAMILIES, Marks, Members
from darkprune.surgery.plan import GroupResult


def voters_of(members: Members, groups: Sequence[PruneGroup]) -> list[int]:
    """Counts the ranked channels of each group."""
    voting = members.pool[members.pool >= 0] // len(FAMILIES)
    return [int(number) for number in np.bincount(voting, minlength=len(groups))]


def group_results(
    channels: ChannelMap,
    groups: Sequence[PruneGroup],
    ratios: Sequence[float],
    members: Members,
    marks: Marks,
    keep: BoolArray,
) -> tuple[GroupResult, ...]:
    """Says of each group what was asked of it, what was marked and what went."""
    results = []
    for number, (group, ratio) in enumerate(zip(groups, ratios, strict=True)):
        family = number * len(FAMILIES)
        voting = (members.pool >= 0) & (members.pool // len(FAMILIES) == number)
        gamma = members.pool == family
        threshold = marks.thresholds[family]
        results.append(
            GroupResult(
                group.name,
                group.first,
                group.last,
                float(ratio),
                float(threshold) if np.isfinite(threshold) else None,
                _median(members.score[gamma]),
                int(voting.sum()),
                int(marks.marked[voting].sum()),
                removed_in(channels, keep, group.first, group.last),
            )
        )
    return tuple(results)


def _median(values: Floats) -> float | None:
    """Returns the median, None of nothing; numpy's own would load its masked arrays first (20 ms)."""
    if not len(values):
        return None
    ordered, half = np.sort(values), len(values) // 2
    return float((ordered[half] + ordered[-half - 1]) / 2)


def floor_warnings(layers: Sequence[int]) -> list[str]:
    """Returns which layers the floor kept from losing what was asked."""
    if not layers:
        return []
    shown = ", ".join(map(str, layers[:8])) + (" …" if len(layers) > 8 else "")
    many = f"{len(layers)} layers ({shown}) are at their" if len(layers) > 1 else f"layer {shown} is at its"
    return [f"{many} floor: the ratio asked for would leave fewer channels than --min-channels or 1 %"]


def describe_sparsity(results: Sequence[GroupResult]) -> str:
    """Describes the first group that loses channels nearly as strong as the others; empty where γ is sparse."""
    for group in results:
        if group.threshold is not None and group.median is not None and group.threshold > 0.25 * group.median:
            return f"cuts |γ| up to {group.threshold:.2g}, median {group.median:.2g}"
    return ""
