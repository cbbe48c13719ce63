"""A network without some of its residual units, over the original's tensors.

Whatever read a unit's shortcut reads its `from` instead; every layer index in the cfg is rewritten. Everything after
that (ranking, cutting, writing) starts from the reduced network as if it were the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.cfg import Cfg, parse_cfg
from darkprune.darknet.options import atoi
from darkprune.graph.graph import Graph, Layer, build_graph
from darkprune.graph.groups import PruneGroup
from darkprune.graph.weights import DerivedSource, NetworkWriter, TensorSource
from darkprune.layers.base import absolute
from darkprune.surgery.units import Unit, check_units, silencers

_NUMBER = re.compile(r"\s*(?:[+-]\s*)?\d+(?:\s+\d+)*")


def kept_layers(graph: Graph, units: Sequence[Unit]) -> tuple[int, ...]:
    """Returns the layers that stay, in the original's numbers; the position is the new number."""
    return tuple(layer.index for layer in graph if not any(layer.index in unit for unit in units))


def without_units(graph: Graph, units: Sequence[Unit]) -> Cfg:
    """Takes units out of the cfg's text and rewrites every layer index in it.

    Relative indices stay relative, absolute ones absolute; of a line only the digits that have to change do.
    """
    kept = kept_layers(graph, units)
    new = {old: number for number, old in enumerate(kept)}
    for unit in sorted(units, key=lambda unit: unit.first):  # a source may be an earlier unit's shortcut
        new[unit.last] = new[unit.source]
    lines = renumbered_lines(graph, kept, new)
    removed = {layer.section for layer in graph} - {graph[index].section for index in kept}
    return parse_cfg("".join(lines), graph.cfg.source).without_sections(removed)


def renumbered_lines(graph: Graph, layers: Iterable[int], new: Mapping[int, int]) -> list[str]:
    """Returns the lines of the cfg, with other layer indices in the sections of some layers.

    Args:
        layers: those whose sections are rewritten.
        new: number before -> number after; a layer that is not in it is not renamed.
    """
    lines = list(graph.cfg.lines)
    for index in layers:
        layer = graph[index]
        key, is_list = layer.kind.index_key or ("", False)
        option = graph.cfg.sections[layer.section].record(key)
        if option is not None and option.value is not None:
            lines[option.line - 1] = _renumber(lines[option.line - 1], index, new, is_list)
    return lines


def _renumber(line: str, own: int, new: Mapping[int, int], is_list: bool) -> str:
    """Rewrites the indices of one line; in a list darknet counts the items after a `#` as well."""
    head, equals, tail = line.partition("=")
    items = tail.split(",") if is_list else [tail]
    for place, item in enumerate(items):
        match = _NUMBER.match(item)
        value = atoi("".join(item.split()))
        target = absolute(value, own)
        if match is None or target not in new or target >= own:
            continue
        renewed = new[target] - new[own] if value < 0 else new[target]
        if renewed != value:
            lead = item[: len(item) - len(item.lstrip())]
            items[place] = f"{lead}{renewed}{item[match.end() :]}"
    return f"{head}{equals}{','.join(items)}"


class WithoutUnits(DerivedSource):
    """The tensors of a network without some units; nothing is copied.

    Attributes:
        kept: new layer number -> the original's.
    """

    def __init__(self, original: TensorSource, units: Sequence[Unit], graph: Graph | None = None) -> None:
        """Renumbers the layers.

        Args:
            original: the whole network, which must stay open.
            graph: of the reduced network, if it is known.
        """
        super().__init__(original, graph or build_graph(without_units(original.graph, units)))
        self.kept = kept_layers(original.graph, units)

    def read(self, layer: Layer, name: str) -> NDArray[np.float32]:
        """Reads a tensor; see `TensorSource`."""
        return self._source.read(self._in_original(layer), name)

    def chunks(self, layer: Layer, name: str, limit: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Reads a tensor in parts; see `TensorSource`."""
        return self._source.chunks(self._in_original(layer), name, limit)

    def _in_original(self, layer: Layer) -> Layer:
        return self._source.graph[self.kept[layer.index]]


def reduced(original: TensorSource, units: Sequence[Unit], graph: Graph | None = None) -> TensorSource:
    """Returns the network without units: itself where there are none.

    Args:
        graph: of the reduced network, if it is known already; then the units are not checked again.

    Raises:
        PlanError: they are not units of this network.
    """
    if not units:
        return original
    if graph is None:
        check_units(original.graph, units)
    return WithoutUnits(original, units, graph)


def regroup(groups: Sequence[PruneGroup], kept: Sequence[int]) -> tuple[PruneGroup, ...]:
    """Translates groups of the original's layers into the reduced network's; one that lost all its layers is empty.

    Args:
        groups: in the original's numbers.
        kept: from `kept_layers`.
    """
    first = np.searchsorted(kept, [group.first for group in groups]).tolist()
    end = np.searchsorted(kept, [group.last + 1 for group in groups]).tolist()
    return tuple(PruneGroup(group.name, a, b - 1) for group, a, b in zip(groups, first, end, strict=True))


def write_silenced(original: TensorSource, units: Sequence[Unit], stand_in: TensorSource, file: BinaryIO) -> None:
    """Writes the whole network with its units there but silent: what the reduced one must equal.

    Args:
        units: what the reduced network lacks.
        stand_in: tensors of the reduced network (masked or held).
        file: empty, open for writing in binary; its cfg is the original's.
    """
    silent = frozenset().union(*(silencers(original.graph, unit) or frozenset() for unit in units))
    new = {old: number for number, old in enumerate(kept_layers(original.graph, units))}
    writer = NetworkWriter(original.graph, file, original.header)
    for layer in original.graph:
        for blob in layer.stored:
            if layer.index in new:
                values = stand_in.read(stand_in.graph[new[layer.index]], blob.name)
            else:
                values = original.read(layer, blob.name)
                if layer.index in silent and blob.name in ("scales", "biases", "weights"):
                    values = np.zeros_like(values)
            writer.write(layer, blob.name, values)
    writer.finish()
