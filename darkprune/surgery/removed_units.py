"""A network without some of its residual units, over the original's file (METHODS §6 [LP]).

Whoever read a unit's shortcut reads its `from`; every layer index in the cfg is rewritten. What is left
(`ReducedWeights`) is what every later stage starts from, as if it were the original.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from darkprune.darknet.cfg import Cfg, parse_cfg
from darkprune.darknet.options import atoi
from darkprune.darknet.weights import WeightsWriter
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.groups import PruneGroup
from darkprune.graph.weights import NetworkWeights, stored_tensors
from darkprune.layers.base import absolute
from darkprune.surgery.units import Unit, check_units, silencers

_NUMBER = re.compile(r"\s*[+-]?[\d\s]*\d")


def kept_layers(graph: Graph, units: Sequence[Unit]) -> tuple[int, ...]:
    """Returns the layers that stay, in the original's numbers: position in it is the new number."""
    return tuple(layer.index for layer in graph if not any(layer.index in unit for unit in units))


def without_units(graph: Graph, units: Sequence[Unit]) -> Cfg:
    """Takes units out of the cfg's text and rewrites every layer index in it.

    Relative indices stay relative, absolute ones absolute; of a line only the digits that have to change do.
    """
    kept = kept_layers(graph, units)
    new = {old: number for number, old in enumerate(kept)}
    for unit in sorted(units, key=lambda unit: unit.first):  # a source may be an earlier unit's shortcut
        new[unit.last] = new[unit.source]
    lines = list(graph.cfg.lines)
    for index in kept:
        layer = graph[index]
        key, is_list = layer.kind.index_key or ("", False)
        option = graph.cfg.sections[layer.section].record(key)
        if option is not None and option.value is not None:
            lines[option.line - 1] = _renumber(lines[option.line - 1], index, new, is_list)
    gone = {layer.section for layer in graph} - {graph[index].section for index in kept}
    return parse_cfg("".join(lines), graph.cfg.source).without_sections(gone)


def _renumber(line: str, own: int, new: dict[int, int], is_list: bool) -> str:
    """Rewrites the indices of one line; in a list darknet counts items behind a `#` as well."""
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


class ReducedWeights(NetworkWeights):
    """A network without some units, over the original's file: nothing is copied or written.

    Attributes:
        original: the pair that it comes from, which must stay open.
        units: what is missing.
        kept: new layer number -> the original's.
    """

    def __init__(self, original: NetworkWeights, units: Sequence[Unit]) -> None:
        self.original = original
        self.units = tuple(units)
        self.kept = kept_layers(original.graph, units)
        self.graph = build_graph(without_units(original.graph, units))
        self.file = copy.copy(original.file)
        new = {old: number for number, old in enumerate(self.kept)}
        self.file.blobs = {
            (new[layer], name): blob._replace(layer=new[layer])
            for (layer, name), blob in original.file.blobs.items()
            if layer in new
        }

    def regroup(self, groups: Sequence[PruneGroup]) -> tuple[PruneGroup, ...]:
        """Translates groups of the original's layers; one that lost all of its layers is empty."""
        before = np.searchsorted(self.kept, [group.first for group in groups]).tolist()
        behind = np.searchsorted(self.kept, [group.last + 1 for group in groups]).tolist()
        return tuple(
            PruneGroup(group.name, first, end - 1) for group, first, end in zip(groups, before, behind, strict=True)
        )


def reduced(weights: NetworkWeights, units: Sequence[Unit]) -> NetworkWeights:
    """Returns the network without units: itself where there are none.

    Raises:
        PlanError: they are not units of this network.
    """
    if not units:
        return weights
    check_units(weights.graph, units)
    return ReducedWeights(weights, units)


def original_of(weights: NetworkWeights) -> NetworkWeights:
    """Returns the pair that a network without some units comes from; itself where nothing was taken out."""
    return weights.original if isinstance(weights, ReducedWeights) else weights


def write_silenced(weights: ReducedWeights, stand_in: NetworkWeights, file: BinaryIO) -> None:
    """Writes the original at full depth, its units there but silent: what the reduced network must equal.

    Args:
        weights: the reduced network.
        stand_in: tensors for the layers that stay (masked or held), under the reduced network's cfg.
        file: empty, open for writing in binary; its cfg is the original's.
    """
    original = weights.original
    silent = frozenset().union(*(silencers(original.graph, unit) or frozenset() for unit in weights.units))
    new = {old: number for number, old in enumerate(weights.kept)}
    header = original.file.header
    writer = WeightsWriter(file, header, stored_tensors(original.graph, header.transposed))
    for layer in original.graph:
        for blob in layer.stored:
            if layer.index in new:
                values = stand_in.file.read(new[layer.index], blob.name)
            else:
                values = original.file.read(layer.index, blob.name)
                if layer.index in silent and blob.name in ("scales", "biases", "weights"):
                    values = np.zeros_like(values)
            writer.write(layer.index, blob.name, values)
    writer.finish()
