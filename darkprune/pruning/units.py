"""Layer pruning: whole residual units are cut out (METHODS §6 [LP]).

A unit is a linear [shortcut] with one `from` and the layers between the two. Without it, whoever read the shortcut
reads its `from`, which has the same shape: no width changes, and what is left is a smaller network with tensors of the
same file. That network (`ReducedWeights`) is what every later stage starts from, as if it were the original.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np

from darkprune.darknet.cfg import Cfg, parse_cfg
from darkprune.darknet.options import atoi
from darkprune.darknet.weights import WeightsWriter
from darkprune.errors import PlanError, UsageError
from darkprune.graph.graph import Graph, Layer, build_graph
from darkprune.graph.weights import NetworkWeights, stored_tensors
from darkprune.layers.activations import FUNCTIONS, activate
from darkprune.layers.base import absolute
from darkprune.layers.convolution import Convolutional
from darkprune.layers.merge import Shortcut
from darkprune.pruning.groups import PruneGroup

#: section -> (key that holds layer indices, whether it is a list); DARKNET §6. Negative ones count back from the layer
#: itself; what points at no layer before it (999999, unset) means "none".
INDEX_KEYS: dict[str, tuple[str, bool]] = {
    "route": ("layers", True),
    "shortcut": ("from", True),
    "scale_channels": ("from", False),
    "sam": ("from", False),
    "convolutional": ("share_index", False),
    "yolo": ("embedding_layer", False),
    "contrastive": ("yolo_layer", False),
}
#: kinds that give 0 where all that they read is 0, whatever else they do
_ZERO_KEEPING = frozenset(["dropout", "empty", "maxpool", "avgpool", "local_avgpool", "upsample", "reorg", "reorg3d"])
_NUMBER = re.compile(r"\s*[+-]?[\d\s]*\d")


@dataclass(frozen=True)
class Unit:
    """A residual unit, in the original's layer numbers.

    Attributes:
        first: its first layer.
        last: its shortcut.
        score: mean |γ| of its last batch-normalised convolution; the lower, the less it adds to the stream.
    """

    first: int
    last: int
    score: float = math.nan

    @property
    def source(self) -> int:
        """The layer that the unit adds to: what its readers read without it."""
        return self.first - 1

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.first <= layer <= self.last

    def to_json(self) -> dict[str, Any]:
        """Returns what a plan holds."""
        return {"layers": [self.first, self.last], "score": self.score if math.isfinite(self.score) else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Unit:
        """Reads what a plan holds; whether it is a unit of the network is checked by `check_units`."""
        first, last = (int(number) for number in data["layers"])
        score = data.get("score")
        return cls(first, last, math.nan if score is None else float(score))


def find_units(graph: Graph) -> tuple[Unit, ...]:
    """Lists the residual units that can be cut out without touching anything else; nested ones are listed too."""
    pointed_at = {reference: layer.index for layer in graph for reference in layer.references}
    return tuple(
        Unit(layer.sources[1] + 1, layer.index)
        for layer in graph
        if isinstance(layer.kind, Shortcut) and _is_unit(graph, layer, pointed_at)
    )


def _is_unit(graph: Graph, shortcut: Layer, pointed_at: dict[int, int]) -> bool:
    kind = shortcut.kind
    assert isinstance(kind, Shortcut)
    if len(kind.layers) != 1 or kind.activation != "linear" or kind.weights_type != "none":
        return False
    last, source = shortcut.index, shortcut.sources[1]
    if not 0 <= source < last - 1 or graph[source].output != shortcut.output or not graph.consumers[last]:
        return False
    if getattr(graph[source].kind, "antialiasing", 0):  # the layer behind it would see the blurred map
        return False
    inside = range(source + 1, last)
    for index in inside:
        layer = graph[index]
        if not layer.sources or any(not source <= read < index for read in layer.sources):
            return False
        readers = graph.consumers[index]
        if not readers or readers[-1] > last or pointed_at.get(index, index) not in inside:
            return False
    normed = any(_normalised(graph[index]) for index in inside)
    return normed and last not in pointed_at and silencers(graph, Unit(source + 1, last)) is not None


def _normalised(layer: Layer) -> bool:
    return layer.name == "convolutional" and any(blob.name == "scales" for blob in layer.stored)


def silencers(graph: Graph, unit: Unit) -> frozenset[int] | None:
    """Returns the convolutions of a unit that, all weights 0, make its branch give 0; None where there are none."""
    return _silencers(graph, unit, unit.last - 1)


def _silencers(graph: Graph, unit: Unit, index: int) -> frozenset[int] | None:
    if index not in unit:
        return None
    layer = graph[index]
    activation = getattr(layer.kind, "activation", "linear")
    if activation not in FUNCTIONS or activate(activation, np.zeros(1))[0] != 0:
        return None
    if isinstance(layer.kind, Convolutional):
        return frozenset([index]) if layer.stored else None
    if layer.name in _ZERO_KEEPING or layer.name == "activation":
        return _silencers(graph, unit, layer.sources[0])
    if layer.name in ("scale_channels", "sam"):  # a product is 0 where the map that is scaled is
        return _silencers(graph, unit, layer.sources[1])
    if layer.name in ("route", "shortcut"):
        parts = [_silencers(graph, unit, source) for source in layer.sources]
        return None if None in parts else frozenset().union(*(part for part in parts if part is not None))
    return None


def score_units(weights: NetworkWeights, units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Scores units by mean |γ| of the last batch-normalised convolution.

    Raises:
        PlanError: a γ that is not a finite number.
    """
    graph, scored = weights.graph, []
    for unit in units:
        layer = next(graph[i] for i in range(unit.last - 1, unit.first - 1, -1) if _normalised(graph[i]))
        score = float(np.abs(np.float64(weights.read(layer, "scales"))).mean())
        if not math.isfinite(score):
            raise PlanError(
                f"{weights.file.path}: layer {layer.index} ({layer.name}): a γ is NaN or infinite; repair or retrain "
                "the checkpoint"
            )
        scored.append(Unit(unit.first, unit.last, round(score, 7)))
    return tuple(scored)


def choose_units(weights: NetworkWeights, number: int = 0, ratio: float = 0.0) -> tuple[Unit, ...]:
    """Chooses the units with the lowest scores; of nested ones at most one.

    Args:
        weights: the original pair.
        number: how many.
        ratio: or which fraction of all.

    Returns:
        The units in the order of their layers.

    Raises:
        UsageError: a number below 0, a ratio outside [0, 1].
        PlanError: there are not so many units.
    """
    if number < 0 or not 0 <= ratio <= 1:
        raise UsageError("--units must be at least 0, and --unit-ratio between 0 and 1")
    if not number and not ratio:
        return ()
    units = find_units(weights.graph)
    wanted = number or math.floor(ratio * len(units) + 0.5)
    chosen: list[Unit] = []
    for unit in sorted(score_units(weights, units), key=lambda unit: (unit.score, unit.first)):
        apart = all(unit.last < other.first or other.last < unit.first for other in chosen)
        if apart and len(chosen) < wanted:
            chosen.append(unit)
    if number > len(chosen):
        raise PlanError(
            f"--units {number}: {weights.graph.cfg.source} has {len(chosen)} residual units that can be cut out "
            "(a linear [shortcut] with one from=, and layers that nobody else reads)"
        )
    return tuple(sorted(chosen, key=lambda unit: unit.first))


def check_units(graph: Graph, units: Sequence[Unit]) -> None:
    """Checks that a plan's units are units of a network.

    Raises:
        PlanError: they are not, or two overlap.
    """
    known = {(unit.first, unit.last) for unit in find_units(graph)}
    for unit in units:
        if (unit.first, unit.last) not in known:
            raise PlanError(f"plan: layers {unit.first}-{unit.last} are no residual unit that can be cut out")
    ordered = sorted(units, key=lambda unit: unit.first)
    for before, after in pairwise(ordered):
        if after.first <= before.last:
            raise PlanError(
                f"plan: units {before.first}-{before.last} and {after.first}-{after.last} overlap; name one of them"
            )


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
        key, is_list = INDEX_KEYS.get(layer.name, ("", False))
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
