"""Channels replaced by others (Zhang, Han, Wang 2024): consumers take w_j + a·w_i for w_j, and Σ w_i·b.

b is folded, or given to a carrier, by the same code as the constants of pruned channels (`with_offsets`); the new
weights are computed while they are read (`WithReplacements`), so that nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from darkprune.errors import PlanError
from darkprune.graph.channels import BoolArray
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import DerivedSource, TensorSource
from darkprune.json_types import JsonMapping, JsonObject
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

    def to_json(self) -> JsonObject:
        """Returns what a plan holds."""
        numbers = {"a": self.gain, "b": self.offset, "correlation": self.correlation}
        return {
            "channels": self.channels.tolist(),
            "by": self.by.tolist(),
            **{name: values.tolist() for name, values in numbers.items()},
        }

    @classmethod
    def from_json(cls, data: JsonMapping) -> Tap:
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


class WithReplacements(DerivedSource):
    """The tensors of a network whose consumers of replaced channels have their new weights; nothing is copied."""

    def __init__(self, source: TensorSource, similar: Similar) -> None:
        """Finds the consumers.

        Args:
            source: the network as it is, which must stay open.

        Raises:
            PlanError: replacements that this network cannot have.
        """
        _check(source.graph, similar)
        super().__init__(source, source.graph)
        self._similar = similar
        self._readers = {
            layer.index
            for layer in source.graph
            if layer.is_dense and layer.name == "convolutional" and layer.sources[0] in similar
        }

    def read(self, layer: Layer, name: str) -> NDArray[np.float32]:
        """Reads a tensor; see `TensorSource`."""
        values = self._source.read(layer, name)
        self._add(layer, name, values, 0)
        return values

    def chunks(self, layer: Layer, name: str, limit: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Reads a tensor in parts; see `TensorSource`."""
        for first, rows in self._source.chunks(layer, name, limit):
            self._add(layer, name, rows, first)
            yield first, rows

    def _add(self, layer: Layer, name: str, rows: NDArray[np.float32], first: int) -> None:
        """Adds a·w_i to w_j in some filters of a convolution."""
        if name != "weights" or layer.index not in self._readers:
            return
        tap, width, blocks = self._similar[layer.sources[0]], rows.shape[1], layer.blob(name).groups
        block_of = (first + np.arange(len(rows))) // (layer.output.c // blocks)
        for channel, by, gain in zip(tap.channels.tolist(), tap.by.tolist(), tap.gain.tolist(), strict=True):
            here = slice(None) if blocks == 1 else block_of == channel // width
            rows[here, by % width] += np.float32(gain) * rows[here, channel % width]


def with_similar(source: TensorSource, similar: Similar) -> TensorSource:
    """Returns the network whose consumers do without the replaced channels: itself where there are none.

    Raises:
        PlanError: replacements that this network cannot have.
    """
    return WithReplacements(source, similar) if similar else source


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


def with_offsets(constants: Constants, similar: Similar) -> Constants:
    """Puts b in the place of a replaced channel's constant: the rest of it is in the consumers' weights."""
    if not similar:
        return constants
    removed = [values.copy() if layer in similar else values for layer, values in enumerate(constants.removed)]
    for layer, tap in similar.items():
        removed[layer][tap.channels] = tap.offset
    return replace(constants, removed=removed)


def without_replacements(cut: Cut, similar: Similar) -> Cut:
    """Returns the cut that leaves the replaced channels as they are; it applies to the network as it was."""
    if not similar:
        return cut
    replaced = replaced_classes(cut, similar)
    return replace(cut, keep=cut.keep | replaced, carriers=cut.carriers & ~replaced)


def replaced_classes(cut: Cut, similar: Similar) -> BoolArray:
    """Returns per class whether it was replaced."""
    replaced = np.zeros(cut.channels.count, bool)
    for layer, tap in similar.items():
        replaced[cut.channels.of_layer[layer][tap.channels]] = True
    return replaced
