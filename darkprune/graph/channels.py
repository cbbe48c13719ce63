"""Channel labels: which channels of which layers are one and the same, and what holds them together.

Every feature map carries one label per channel. Producing layers make new ones, other kinds pass them on, concatenate
or slice them; what is added or multiplied is united. Labels that are united form a *class*: its channels are kept or
removed together, everywhere. Classes that may not go are pinned, with the reason; layers that read a map in blocks
(grouped convolutions, slices of a route) demand equal counts per block. All of it is known before any channel is
chosen, so that no choice ever has to be mended.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from darkprune.errors import GraphError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers import INPUT
from darkprune.layers.base import Indices, Labels

BoolArray = NDArray[np.bool_]
_Entry = TypeVar("_Entry")
MAX_CHANNELS = 2**20  #: of all layers together; the largest published networks have some 200 thousand


@dataclass(frozen=True)
class EqualSplit:
    """A demand that equal consecutive blocks of a map keep equally many channels.

    Attributes:
        layer: the layer that reads or makes the map in blocks.
        classes: (blocks, channels per block) class numbers.
        aligned_total: True where the total (convolution groups), False where the block (route slice) is what
            `round_to` makes a multiple.
    """

    layer: int
    classes: Indices
    aligned_total: bool


@dataclass(frozen=True)
class ChannelMap:
    """The channels of a network.

    Attributes:
        graph: the network.
        of_layer: for every layer the class of each output channel; negative for the network's input, never cut.
        producer: raw label -> layer that produces it.
        position: raw label -> output channel of that layer.
        class_of: raw label -> class; classes are numbered 0, 1, … in order of first appearance.
        pinned: class -> reasons (empty: free).
        splits: demands for equal counts.
        followers: producers without a vote of their own.
    """

    graph: Graph
    of_layer: tuple[Indices, ...]
    producer: Indices
    position: Indices
    class_of: Indices
    pinned: tuple[tuple[str, ...], ...]
    splits: tuple[EqualSplit, ...]
    followers: frozenset[int]

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.pinned)

    @cached_property
    def free(self) -> BoolArray:
        """Per class whether it may be removed."""
        return np.array([not reasons for reasons in self.pinned], bool)

    @cached_property
    def producers(self) -> tuple[int, ...]:
        """Layers that make channels of their own, in order."""
        return tuple(sorted(set(self.producer.tolist())))

    def inputs(self, layer: Layer) -> Indices:
        """Returns the classes of a layer's first input; −1 for channels of the network's input."""
        source = layer.sources[0]
        if source == INPUT:
            return np.full(self.graph.net.input.c, -1)
        return self.of_layer[source]

    def kept_channels(self, keep: BoolArray, classes: Indices) -> Indices:
        """Returns the positions whose class is kept (the network's input always is)."""
        return np.flatnonzero(np.where(classes < 0, True, keep[classes]))

    @cached_property
    def coupled_sets(self) -> tuple[tuple[int, ...], ...]:
        """Sets of producing layers that share classes, as sorted tuples of two or more layers."""
        members: _Lists[int] = _Lists(self.count)
        starts = np.searchsorted(self.producer, self.producers[1:])
        for layer, classes in zip(self.producers, np.split(self.class_of, starts), strict=False):
            members.add(classes, layer)
        return tuple(sorted(layers for layers in members.found().values() if len(layers) > 1))

    @cached_property
    def atoms(self) -> tuple[Indices, ...]:
        """Maximal sets of free classes in the same producers and blocks; every width is a sum of their sizes."""
        places: _Lists[object] = _Lists(self.count)
        for layer in self.producers:
            places.add(self.of_layer[layer], layer)
        for which, split in enumerate(self.splits):
            for block, row in enumerate(split.classes):
                places.add(row[row >= 0], (which, block))
        numbers = places.number_of[self.free]
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.append(True, np.diff(numbers[order]) != 0)[: len(order)])
        parts = np.split(np.flatnonzero(self.free)[order], starts[1:]) if len(order) else []
        return tuple(sorted(parts, key=lambda part: int(part[0])))


class _Lists(Generic[_Entry]):
    """A list of entries per class; classes with equal lists share one, so that a channel costs a few bytes.

    Attributes:
        number_of: class -> number of its list; 0 is the empty one.
    """

    def __init__(self, count: int) -> None:
        self.number_of = np.zeros(count, np.int64)
        self._nodes: list[tuple[int, _Entry]] = []  # list -> the list without its last entry, and that entry
        self._longer: dict[tuple[int, _Entry], int] = {}

    def add(self, classes: Indices, entry: _Entry) -> None:
        """Appends an entry to the lists of some classes that do not have it yet."""
        before = self.number_of[classes]
        after = before.copy()
        for number in distinct(before).tolist():
            if entry not in self._entries(number):
                key = (number, entry)
                if key not in self._longer:
                    self._nodes.append(key)
                    self._longer[key] = len(self._nodes)
                after[before == number] = self._longer[key]
        self.number_of[classes] = after

    def found(self) -> dict[int, tuple[_Entry, ...]]:
        """Returns the distinct lists of the classes by their number."""
        return {number: tuple(self._entries(number))[::-1] for number in distinct(self.number_of).tolist()}

    def of_classes(self) -> tuple[tuple[_Entry, ...], ...]:
        """Returns the list of every class."""
        found = self.found()
        return tuple(map(found.__getitem__, self.number_of.tolist()))

    def _entries(self, number: int) -> Iterator[_Entry]:
        """Yields the entries of a list, the last one first."""
        while number:
            number, entry = self._nodes[number - 1]
            yield entry


class _Builder:
    """Collects what the kinds say while the layers are walked through; a `ChannelRules`."""

    def __init__(self) -> None:
        self.parent = array("q")  # a list of Python's numbers would take five times as much
        self.producer = array("q")
        self.position = array("q")
        self.pins: list[tuple[Labels, str]] = []
        self.splits: list[tuple[int, Labels, int]] = []
        self.followed: list[Labels] = []
        self.references: tuple[Labels, ...] = ()
        self.reference_inputs: tuple[Labels, ...] = ()
        self.layer = INPUT

    def new(self, count: int) -> Labels:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        self.producer.extend(repeat(self.layer, count))
        self.position.extend(range(count))
        return np.arange(first, first + count)

    def find(self, label: int) -> int:
        root = label
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[label] != root:
            self.parent[label], label = root, self.parent[label]
        return root

    def roots(self) -> Labels:
        """Returns the representative of every label."""
        parent = np.array(self.parent, np.int64)
        while not np.array_equal(above := parent[parent], parent):
            parent = above
        return parent

    def unite(self, first: Labels, second: Labels) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self.parent[self.find(b)] = self.find(a)

    def pin(self, labels: Labels, reason: str) -> None:
        self.pins.append((labels, reason))

    def equal_split(self, labels: Labels, blocks: int) -> None:
        if len(labels) % blocks:
            self.pin(labels, f"read in {blocks} blocks that do not divide it")
        else:
            self.splits.append((self.layer, labels, blocks))

    def follow(self, labels: Labels) -> None:
        self.followed.append(labels)


def map_channels(graph: Graph) -> ChannelMap:
    """Labels the channels of a network.

    A network with maps only: layers without one (softmax, cost) have no channels.

    Raises:
        GraphError: more channels than any network has; nothing is allocated for them.
    """
    count = graph.net.input.c + sum(layer.output.c for layer in graph)
    if count > MAX_CHANNELS:
        raise GraphError(f"{graph.cfg.source}: has {count} channels in all its layers; {MAX_CHANNELS} are too many")
    builder = _Builder()
    input_labels = builder.new(graph.net.input.c)
    builder.pin(input_labels, "the network's input")
    labels: list[Labels] = []

    def of(source: int) -> Labels:
        return input_labels if source == INPUT else labels[source]

    for layer in graph:
        builder.layer = layer.index
        builder.references = tuple(of(reference) for reference in layer.references)
        builder.reference_inputs = tuple(of(source) for r in layer.references for source in graph[r].sources[:1])
        made = layer.kind.label([of(source) for source in layer.sources], layer.output, builder)
        if len(layer.stored) != len(layer.blobs):
            for touched in (made, *(of(source) for source in layer.sources)):
                builder.pin(touched, "read or made by a layer whose tensors are not in the file (dontload)")
        labels.append(made)
    for index in graph.outputs:
        builder.pin(labels[index], "an output of the network")
    return _finish(graph, builder, labels)


def _finish(graph: Graph, builder: _Builder, labels: Sequence[Labels]) -> ChannelMap:
    roots = builder.roots()
    inputs = graph.net.input.c
    # classes are numbered by first appearance among the producers' channels, the network's own input apart
    first = np.full(len(roots), len(roots))
    np.minimum.at(first, roots[inputs:], np.arange(inputs, len(roots)))
    appeared = np.sort(first[distinct(roots[inputs:])])
    rank = np.full(len(roots), -1)
    rank[roots[appeared]] = np.arange(len(appeared))
    number = np.concatenate([np.full(inputs, -1), rank[roots[inputs:]]])
    # a label united with the input's (a shortcut onto the image) is as fixed as the input
    with_input = np.isin(roots, roots[:inputs])
    reasons: _Lists[str] = _Lists(len(appeared))
    for pinned, reason in builder.pins:
        classes = number[pinned]
        reasons.add(classes[classes >= 0], reason)
    reasons.add(number[inputs:][with_input[inputs:]], "joined with the network's input")
    splits = [
        EqualSplit(layer, number[block].reshape(blocks, -1), graph[layer].name == "convolutional")
        for layer, block, blocks in builder.splits
    ]
    _pin_overlaps(splits, reasons)
    return ChannelMap(
        graph,
        tuple(number[made] for made in labels),
        np.array(builder.producer[inputs:], np.int64),
        np.array(builder.position[inputs:], np.int64),
        number[inputs:],
        reasons.of_classes(),
        tuple(splits),
        frozenset(builder.producer[label] for part in builder.followed for label in part.tolist()) - {INPUT},
    )


def _pin_overlaps(splits: Sequence[EqualSplit], reasons: _Lists[str]) -> None:
    """Pins what is divided twice in ways of which neither refines the other."""
    blocks = [[frozenset(row) - {-1} for row in split.classes.tolist()] for split in splits]
    of_class: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for which, rows in enumerate(blocks):
        for block, members in enumerate(rows):
            for number in members:
                of_class[number].append((which, block))
    checked: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    for places in of_class.values():
        for i, first in enumerate(places):
            for second in places[i + 1 :]:
                if (first, second) in checked:
                    continue
                checked.add((first, second))
                a, b = blocks[first[0]][first[1]], blocks[second[0]][second[1]]
                if first[0] == second[0] or not (a <= b or b <= a):
                    reason = (
                        f"divided into blocks by layers {splits[first[0]].layer} and {splits[second[0]].layer}, "
                        "whose blocks overlap without nesting"
                    )
                    reasons.add(np.array(sorted(a | b)), reason)


def distinct(values: Indices) -> Indices:
    """Returns the distinct values in rising order; `np.unique` would load numpy's masked arrays first (20 ms)."""
    ordered = np.sort(values)
    first = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return ordered.compress(first)


def depthwise_layers(channels: ChannelMap) -> tuple[Layer, ...]:
    """Returns the convolutions that pass their input's channels on."""
    return tuple(layer for layer in channels.graph if layer.is_depthwise)


def removed_in(channels: ChannelMap, keep: BoolArray, first: int, last: int) -> int:
    """Counts the width that a range of layers loses, apart from followers, which were never ranked."""
    layers = [index for index in channels.producers if first <= index <= last and index not in channels.followers]
    return sum(int((~keep[channels.of_layer[index]]).sum()) for index in layers)
