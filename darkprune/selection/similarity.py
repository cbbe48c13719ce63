"""The second stage of [SIM]: a channel that another explains well is replaced by it.

Where y_i ≈ a·y_j + b, every consumer takes w_j ← w_j + a·w_i and Σ w_i·b, and i goes. a and b belong to a *tap*:
the map that a consumer reads. Candidates are channels of one atom, which occur in the same producers and blocks, so
that wherever i is read j is too, through coupled sets, concatenations and slices.

Whatever gives means and covariances of the maps can be the source (`MomentsOf`): the filters (`filter_moments`), or the
maps themselves, measured on images. What is done with a choice stands in `replacement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkprune.graph.channels import BoolArray, ChannelMap
from darkprune.graph.weights import TensorSource
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.selection.constraints import Limits, settle
from darkprune.selection.filter_moments import MomentsOf
from darkprune.surgery.replaced_channels import Tap


@dataclass(frozen=True)
class Relations:
    """Channels of one atom that explain each other.

    Attributes:
        classes: (n,).
        first, second: (p,) pairs of them, as positions in `classes`.
        strength: (p,) the least |correlation| of a pair over all taps.
        taps: (layer, positions (n,), mean (n,), variance (n,), covariance (p,)) for every occurrence that is read.
    """

    classes: Indices
    first: Indices
    second: Indices
    strength: Floats
    taps: tuple[tuple[int, Indices, Floats, Floats, Floats], ...]


@dataclass(frozen=True)
class Replacement:
    """A class that goes and the one that explains it: `pair` of `relations`, `gone` and `by` its two ends."""

    relations: Relations
    pair: int
    gone: int
    by: int

    @property
    def gone_class(self) -> int:
        """The class that goes."""
        return int(self.relations.classes[self.gone])

    @property
    def by_class(self) -> int:
        """The class that explains it."""
        return int(self.relations.classes[self.by])


def relate(
    weights: TensorSource, channels: ChannelMap, allowed: BoolArray, threshold: float, moments: MomentsOf
) -> list[Relations]:
    """Finds all pairs of channels that explain each other at every tap; which of them go is decided later.

    Args:
        allowed: per class whether it may go.
        threshold: least |correlation|.
    """
    found = []
    for atom in channels.atoms:
        classes = np.sort(atom[allowed[atom]])
        read = _layers_read(weights, channels, classes) if len(classes) > 1 else None
        known = moments(classes) if read else None
        if not read or known is None:
            continue
        parts = [(layer, part) for layer in read for part in known[layer]]
        correlations = [_correlation(part.covariance) for _, part in parts]
        least = np.min([np.abs(matrix) for matrix in correlations], axis=0)
        first, second = np.nonzero(np.triu(least >= threshold, 1))
        if len(first):
            taps = tuple(
                (layer, p.positions, p.mean, np.diag(p.covariance).copy(), p.covariance[first, second])
                for layer, p in parts
            )
            found.append(Relations(classes, first, second, least[first, second], taps))
    return found


def _correlation(covariance: Floats) -> Floats:
    variance = np.diag(covariance)
    scale = np.sqrt(np.maximum(variance, 1e-30))
    alive = variance > 1e-12  # a channel that does not vary is no one's double: importance deals with it
    return np.asarray(np.where(np.outer(alive, alive), covariance / np.outer(scale, scale), 0))


def _layers_read(weights: TensorSource, channels: ChannelMap, classes: Indices) -> list[int] | None:
    """Returns the layers whose output convolutions read some classes from; None where something else consumes them."""
    shared = {reference for layer in channels.graph for reference in layer.references}
    read: dict[int, None] = {}
    for layer in channels.graph:
        for source in layer.sources:
            if source < 0 or not np.isin(channels.of_layer[source], classes).any():
                continue
            kind = layer.kind
            if isinstance(kind, Convolutional) and layer.is_dense:
                plain = layer.stored and not kind.flipped and layer.index not in shared
                if not plain or weights.header.transposed:
                    return None
                read[source] = None
            elif layer.name != "route" and not np.isin(channels.of_layer[layer.index], classes).any():
                return None
    return list(read)


def replace_similar(
    channels: ChannelMap, keep: BoolArray, priority: Floats, relations: Sequence[Relations], limits: Limits
) -> list[Replacement]:
    """Chooses who goes: of the most similar pair left, the less important, unless it already stands for another.

    Args:
        keep: per class, what importance left.
        priority: per class, how dear it is.
        relations: from `relate`.
        limits: floors and multiples, which hold afterwards too.
    """
    chosen: dict[int, Replacement] = {}
    dear = np.full(channels.count, -1.0)
    for group in relations:
        needed: set[int] = set()
        for pair in np.argsort(-group.strength, kind="stable").tolist():
            ends = int(group.first[pair]), int(group.second[pair])
            numbers = [int(group.classes[end]) for end in ends]
            if not keep[numbers].all() or any(number in chosen for number in numbers):
                continue
            order = sorted((0, 1), key=lambda end: (priority[numbers[end]], -numbers[end]))
            goes = next((end for end in order if numbers[end] not in needed), None)
            if goes is None:
                continue
            needed.add(numbers[1 - goes])
            chosen[numbers[goes]] = Replacement(group, pair, ends[goes], ends[1 - goes])
            dear[numbers[goes]] = 2 - group.strength[pair]  # the least similar are given back first
    left = keep.copy()
    left[list(chosen)] = False
    settled = settle(channels, left, dear, limits).keep
    return [replacement for number, replacement in sorted(chosen.items()) if not settled[number]]


def taps_of(replacements: Sequence[Replacement], gone: BoolArray) -> dict[int, Tap]:
    """Works out a and b at every tap, to seven digits, as a plan stores them.

    Args:
        gone: per class whether it goes in the end; a replacement that was taken back is left out.
    """
    rows: dict[int, list[tuple[int, int, float, float, float]]] = {}
    for chosen in replacements:
        if not gone[chosen.gone_class]:
            continue
        i, j = chosen.gone, chosen.by
        for layer, positions, mean, variance, covariance in chosen.relations.taps:
            gain = float(f"{covariance[chosen.pair] / variance[j]:.7g}")
            offset = float(f"{mean[i] - gain * mean[j]:.7g}")
            correlation = float(f"{covariance[chosen.pair] / np.sqrt(variance[i] * variance[j]):.7g}")
            rows.setdefault(layer, []).append((int(positions[i]), int(positions[j]), gain, offset, correlation))
    return {layer: _tap(entries) for layer, entries in sorted(rows.items())}


def _tap(entries: list[tuple[int, int, float, float, float]]) -> Tap:
    entries.sort()
    channels, by, gain, offset, correlation = zip(*entries, strict=True)
    return Tap(np.array(channels), np.array(by), np.array(gain), np.array(offset), np.array(correlation))
