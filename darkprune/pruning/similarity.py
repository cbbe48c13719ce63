"""The second stage of [SIM]: a channel that another explains well is replaced by it (METHODS §4).

Where y_i ≈ a·y_j + b, every consumer takes w_j ← w_j + a·w_i and Σ w_i·b, and i goes. a and b belong to a *tap*:
the map that a consumer reads. Candidates are channels of one atom, which occur in the same producers and blocks, so
that wherever i is read j is too, through coupled sets, concatenations and slices.

Whatever gives means and covariances of the maps can be the source (`MomentsOf`): the filters (`filter_moments`), or the
maps themselves, measured on images. b is folded, or given to a carrier, by the same code as the constants of pruned
channels (`with_offsets`); the consumers' new weights are read through a view of the original file (`with_similar`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.weights import WeightsFile
from darkprune.errors import PlanError, UsageError
from darkprune.graph.channels import BoolArray, ChannelMap
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.pruning.apply import Constants, Cut
from darkprune.pruning.filter_moments import MomentsOf
from darkprune.pruning.settle import Limits, settle


@dataclass(frozen=True)
class Tap:
    """Replacements in the output of one layer, as its consumers read it.

    Attributes:
        channels: positions of the channels that go.
        by: positions of those that explain them.
        gain, offset: a and b.
        correlation: between the two.
    """

    channels: Indices
    by: Indices
    gain: Floats
    offset: Floats
    correlation: Floats

    def to_json(self) -> dict[str, Any]:
        """Returns what a plan holds."""
        numbers = {"a": self.gain, "b": self.offset, "correlation": self.correlation}
        return {
            "channels": self.channels.tolist(),
            "by": self.by.tolist(),
            **{name: values.tolist() for name, values in numbers.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tap:
        """Reads what a plan holds.

        Raises:
            ValueError: lists of unequal lengths, or values that are not finite numbers.
        """
        channels, by = (np.array([int(n) for n in data[name]], np.intp) for name in ("channels", "by"))
        numbers = [np.array(data[name], np.float64) for name in ("a", "b", "correlation")]
        if any(values.shape != channels.shape or not np.isfinite(values).all() for values in (*numbers, by)):
            raise ValueError("the lists of a replacement differ in length, or hold values that are not finite")
        return cls(channels, by, *numbers)


#: layer whose output is read -> what is replaced in it
Similar = Mapping[int, Tap]


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
    weights: NetworkWeights, channels: ChannelMap, allowed: BoolArray, threshold: float, moments: MomentsOf
) -> list[Relations]:
    """Finds all pairs of channels that explain each other at every tap; which of them go is decided later.

    Args:
        weights: the network.
        channels: its labels.
        allowed: per class whether it may go.
        threshold: least |correlation|.
        moments: where means and covariances come from.

    Raises:
        UsageError: a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"--similarity {threshold:g}: the |correlation| from which channels are alike is 0 to 1")
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


def _layers_read(weights: NetworkWeights, channels: ChannelMap, classes: Indices) -> list[int] | None:
    """Returns the layers whose output convolutions read some classes from; None where something else consumes them."""
    shared = {reference for layer in channels.graph for reference in layer.references}
    read: dict[int, None] = {}
    for layer in channels.graph:
        for source in layer.sources:
            if source < 0 or not np.isin(channels.of_layer[source], classes).any():
                continue
            kind = layer.kind
            if isinstance(kind, Convolutional) and not kind.depthwise(layer.inputs[0].c):
                plain = layer.stored and not kind.flipped and layer.index not in shared
                if not plain or weights.file.header.transposed:
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
        channels: labels and constraints.
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
        replacements: what was chosen.
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


class _SimilarFile(WeightsFile):
    """A weights file in which consumers of replaced channels already have their new weights.

    Attributes:
        plain: the file as it is.
        similar: what is replaced.
        readers: convolution -> (layer that it reads, its groups, its filters).
    """

    plain: WeightsFile
    similar: Similar
    readers: dict[int, tuple[int, int, int]]

    def read(self, layer: int, name: str) -> NDArray[np.float32]:
        """Reads one tensor."""
        values = self.plain.read(layer, name)
        self._add(layer, name, values, 0)
        return values

    def chunks(self, layer: int, name: str, limit: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Reads one tensor in parts."""
        for first, rows in self.plain.chunks(layer, name, limit):
            self._add(layer, name, rows, first)
            yield first, rows

    def _add(self, layer: int, name: str, rows: NDArray[np.float32], first: int) -> None:
        if name != "weights" or layer not in self.readers:
            return
        source, groups, filters = self.readers[layer]
        tap, width = self.similar[source], rows.shape[1]
        block_of = (first + np.arange(len(rows))) // (filters // groups)
        for channel, by, gain in zip(tap.channels.tolist(), tap.by.tolist(), tap.gain.tolist(), strict=True):
            here = slice(None) if groups == 1 else block_of == channel // width
            rows[here, by % width] += np.float32(gain) * rows[here, channel % width]


def with_similar(weights: NetworkWeights, similar: Similar) -> NetworkWeights:
    """Returns the network whose consumers do without the replaced channels; nothing is copied or written.

    Raises:
        PlanError: replacements that this network cannot have.
    """
    if not similar:
        return weights
    _check(weights.graph, similar)
    view = copy.copy(weights)
    file = _SimilarFile.__new__(_SimilarFile)
    file.__dict__.update(weights.file.__dict__)
    file.plain, file.similar = weights.file, similar
    file.readers = {
        layer.index: (layer.sources[0], layer.kind.geometry.groups, layer.kind.geometry.filters)
        for layer in weights.graph
        if isinstance(layer.kind, Convolutional)
        and layer.sources[0] in similar
        and not layer.kind.depthwise(layer.inputs[0].c)
    }
    view.file = file
    return view


def _check(graph: Graph, similar: Similar) -> None:
    for layer, tap in similar.items():
        width = graph[layer].output.c if 0 <= layer < len(graph) else 0
        if any(len(part) and not 0 <= part.min() <= part.max() < width for part in (tap.channels, tap.by)):
            raise PlanError(f"plan: replacements at layer {layer} name channels that it does not have")
        for index in graph.consumers[layer]:
            kind = graph[index].kind
            blocks = kind.geometry.groups if isinstance(kind, Convolutional) else 1
            size = max(1, width // blocks)
            if blocks < width and (tap.channels // size != tap.by // size).any():
                raise PlanError(f"plan: replacements at layer {layer} cross the blocks that layer {index} reads")


def check_similar(cut: Cut, similar: Similar) -> None:
    """Checks that a plan's replacements agree with what it keeps.

    Raises:
        PlanError: a replaced channel stays, or one that replaces it goes.
    """
    for layer, tap in similar.items():
        gone = np.append(cut.gone, False)[cut.channels.of_layer[layer]]
        if not gone[tap.channels].all() or gone[tap.by].any():
            raise PlanError(f"plan: replacements at layer {layer}: a replaced channel stays, or its substitute goes")


def similar_of(weights: NetworkWeights) -> Similar:
    """Returns what is replaced in a view; nothing elsewhere."""
    return weights.file.similar if isinstance(weights.file, _SimilarFile) else {}


def with_offsets(weights: NetworkWeights, constants: Constants) -> Constants:
    """Puts b in the place of a replaced channel's constant: the rest of it is in the consumers' weights."""
    similar = similar_of(weights)
    if not similar:
        return constants
    removed = [values.copy() if layer in similar else values for layer, values in enumerate(constants.removed)]
    for layer, tap in similar.items():
        removed[layer][tap.channels] = tap.offset
    return replace(constants, removed=removed)


def without_similar(weights: NetworkWeights, cut: Cut) -> tuple[NetworkWeights, Cut]:
    """Undoes the replacements: returns the plain network, and the cut that leaves the replaced channels as they are."""
    if not isinstance(weights.file, _SimilarFile):
        return weights, cut
    plain = copy.copy(weights)
    plain.file = weights.file.plain
    replaced = replaced_classes(cut, weights.file.similar)
    return plain, replace(cut, keep=cut.keep | replaced, carriers=cut.carriers & ~replaced)


def replaced_classes(cut: Cut, similar: Similar) -> BoolArray:
    """Returns per class whether it was replaced."""
    replaced = np.zeros(cut.channels.count, bool)
    for layer, tap in similar.items():
        replaced[cut.channels.of_layer[layer][tap.channels]] = True
    return replaced
