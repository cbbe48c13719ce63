"""Channels replaced by others: the consumers take w_j + a·w_i for w_j, and Σ w_i·b (METHODS §4).

b is folded, or given to a carrier, by the same code as the constants of pruned channels (`with_offsets`); the new
weights are read through a view of the original file (`with_similar`), so that nothing is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.weights import WeightsFile
from darkprune.errors import PlanError
from darkprune.graph.channels import BoolArray
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.surgery.apply import Constants, Cut


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


class _SimilarFile(WeightsFile):
    """A weights file in which consumers of replaced channels already have their new weights.

    Attributes:
        owner: the network as it is.
        plain: its file.
        similar: what is replaced.
        readers: convolution -> (layer that it reads, its groups, its filters).
    """

    owner: NetworkWeights
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
    file.owner, file.plain, file.similar = weights, weights.file, similar
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


def plain_of(weights: NetworkWeights) -> NetworkWeights:
    """Returns the network in which nothing is replaced."""
    return weights.file.owner if isinstance(weights.file, _SimilarFile) else weights


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
    replaced = replaced_classes(cut, weights.file.similar)
    return weights.file.owner, replace(cut, keep=cut.keep | replaced, carriers=cut.carriers & ~replaced)


def replaced_classes(cut: Cut, similar: Similar) -> BoolArray:
    """Returns per class whether it was replaced."""
    replaced = np.zeros(cut.channels.count, bool)
    for layer, tap in similar.items():
        replaced[cut.channels.of_layer[layer][tap.channels]] = True
    return replaced
