"""Marks per group, and the public mask of coupled convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from darkprune.graph.channels import BoolArray, ChannelMap, distinct
from darkprune.graph.groups import PruneGroup, group_of
from darkprune.layers.base import Floats, Indices
from darkprune.selection.importance import LayerScores

Merge = Literal["vote", "any", "all", "mean", "max"]
MERGES: tuple[str, ...] = get_args(Merge)
FAMILIES = ("gamma", "weights")


@dataclass(frozen=True)
class Members:
    """The ranked channels of a network: one entry per channel of every layer that has a score.

    Attributes:
        layer, channel: where it is.
        label: its class.
        pool: number of the pool it is ranked in: group x family; −1 for depthwise layers and others without a vote.
        score: its score, float64.
        threshold_pool: the pool whose threshold it is compared with: for depthwise layers, which have no vote, too;
            −1 for squeeze-and-excitation branches, whose scores say nothing about what they scale.
    """

    layer: Indices
    channel: Indices
    label: Indices
    pool: Indices
    score: Floats
    threshold_pool: Indices


@dataclass(frozen=True)
class Marks:
    """What the thresholds say about each member.

    Attributes:
        marked: per member whether its rank lies below the ratio.
        rank: per member its rank in its pool as a fraction of the pool (NaN without a pool).
        thresholds: per pool the score at the last marked rank; −inf if nothing is marked.
    """

    marked: BoolArray
    rank: Floats
    thresholds: Floats


def gather_members(
    channels: ChannelMap, scores: Mapping[int, LayerScores], groups: Sequence[PruneGroup], excluded: frozenset[int]
) -> Members:
    """Collects the prunable, unpinned, unexcluded channels of every scored layer.

    Args:
        groups: layers outside all of them are not pruned.
        excluded: layers whose channels stay, and so whatever is coupled with them.
    """
    free = prunable_classes(channels, groups, excluded)
    columns: list[tuple[Indices, ...]] = []
    values = []
    for scored in scores.values():
        group = group_of(groups, scored.layer)
        if group is None:
            continue
        classes = channels.of_layer[scored.layer]
        chosen = np.flatnonzero((classes >= 0) & free[classes])
        pool = groups.index(group) * len(FAMILIES) + FAMILIES.index(scored.family)
        full = np.full(len(chosen), pool)
        votes = full if scored.voting else np.full(len(chosen), -1)
        compared = np.full(len(chosen), -1) if scored.layer in channels.followers else full
        columns.append((np.full(len(chosen), scored.layer), chosen, classes[chosen], votes, compared))
        values.append(scored.values[chosen])
    if not columns:
        empty = np.zeros(0, np.intp)
        return Members(empty, empty, empty, empty, np.zeros(0), empty)
    layer, channel, label, pool_of, threshold = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Members(layer, channel, label, pool_of, np.concatenate(values), threshold)


def prunable_classes(channels: ChannelMap, groups: Sequence[PruneGroup], excluded: frozenset[int]) -> BoolArray:
    """Returns per class whether it may go: free, in no excluded layer, and produced inside the groups only."""
    free: BoolArray = channels.free.copy()
    for layer in channels.graph:
        outside = layer.index in channels.producers and group_of(groups, layer.index) is None
        if layer.index in excluded or outside:
            classes = channels.of_layer[layer.index]
            free[classes[classes >= 0]] = False
    return free


def mark(members: Members, ratios: Sequence[float], *, one_pool: bool = False) -> Marks:
    """Ranks every pool ascending by (score, layer, channel) and marks the first floor(g·n + 0.5).

    Args:
        ratios: per group.
        one_pool: rank all groups together (`global`).
    """
    pools = len(ratios) * len(FAMILIES)
    pool = members.pool if not one_pool else np.where(members.pool >= 0, members.pool % len(FAMILIES), -1)
    marked = np.zeros(len(pool), bool)
    rank = np.full(len(pool), np.nan)
    thresholds = np.full(pools, -np.inf)
    order = np.lexsort((members.channel, members.layer, members.score))
    for number in distinct(pool[pool >= 0]).tolist():
        ranked = order[pool[order] == number]
        count = math.floor(ratios[number // len(FAMILIES)] * len(ranked) + 0.5)
        marked[ranked[:count]] = True
        rank[ranked] = (np.arange(len(ranked)) + 0.5) / len(ranked)
        if count:
            thresholds[number] = members.score[ranked[count - 1]]
    if one_pool:
        thresholds = np.tile(thresholds[: len(FAMILIES)], len(ratios))
    return Marks(marked, rank, thresholds)


def merge(channels: ChannelMap, members: Members, marks: Marks, how: str) -> tuple[BoolArray, Floats]:
    """Decides per class, from what its members say.

    Voting members with batch normalisation decide; where a class has none, those without do.

    Args:
        how: `vote` (pruned if at least half marked it), `any`, `all`, or `mean`/`max` of the members' scores, depthwise
            layers included, against the same of their thresholds.

    Returns:
        keep: per class, True = kept.
        priority: per class, how dear it is: the mean rank of its voters as a fraction of their pools.
    """
    count = channels.count
    votes = members.pool >= 0
    gamma = votes & (members.pool % len(FAMILIES) == 0)
    has_gamma = np.bincount(members.label[gamma], minlength=count) > 0
    deciding = votes & (gamma | ~has_gamma[members.label])

    label = members.label[deciding]
    voters = np.bincount(label, minlength=count)
    against = np.bincount(label, marks.marked[deciding], minlength=count)
    safe = np.maximum(voters, 1)
    priority = np.where(voters > 0, np.bincount(label, marks.rank[deciding], minlength=count) / safe, np.inf)

    if how == "any":
        pruned = against >= 1
    elif how == "all":
        pruned = against >= voters
    else:
        pruned = against >= voters / 2
    if how in ("mean", "max"):
        pruned = _compare(members, marks, deciding, count, how, pruned)
    return ~(pruned & (voters > 0)), priority


def _compare(members: Members, marks: Marks, deciding: BoolArray, count: int, how: str, vote: BoolArray) -> BoolArray:
    """Compares mean or max of scores with that of the thresholds; the vote settles ties and classes of one member."""
    family = members.threshold_pool % len(FAMILIES)
    decided_by = np.zeros(count, np.intp)
    decided_by[members.label[deciding]] = family[deciding]
    depthwise = (members.pool < 0) & (members.threshold_pool >= 0)
    counted = deciding | (depthwise & (family == decided_by[members.label]))
    label, scores = members.label[counted], members.score[counted]
    limits = marks.thresholds[members.threshold_pool[counted]]
    size = np.bincount(label, minlength=count)
    if how == "mean":
        value = np.bincount(label, scores, minlength=count) / np.maximum(size, 1)
        limit = np.bincount(label, limits, minlength=count) / np.maximum(size, 1)
    else:
        value, limit = np.full(count, -np.inf), np.full(count, -np.inf)
        np.maximum.at(value, label, scores)
        np.maximum.at(limit, label, limits)
    return np.asarray(np.where((size > 1) & (value != limit), value < limit, vote))
