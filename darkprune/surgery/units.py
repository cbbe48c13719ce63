"""Layer pruning: whole residual units are cut out (Jordao et al. 2020).

A unit is a linear [shortcut] with one `from` and the layers between the two. Without it, whatever read the shortcut
reads its `from`, which has the same shape: no width changes (see `darkprune.surgery.removed_units`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import TensorSource
from darkprune.json_types import JsonMapping, JsonObject
from darkprune.layers.activations import FUNCTIONS, activate
from darkprune.layers.convolution import Convolutional
from darkprune.layers.merge import Shortcut


@dataclass(frozen=True)
class Unit:
    """A residual unit, in the original's layer numbers.

    Attributes:
        first: its first layer.
        last: its shortcut.
        score: mean |γ| of its last batch-normalised convolution: the lower, the less it adds to the stream; or what
            another `UnitScorer` says.
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

    def to_json(self) -> JsonObject:
        """Returns what a plan holds."""
        return {"layers": [self.first, self.last], "score": self.score if math.isfinite(self.score) else None}

    @classmethod
    def from_json(cls, data: JsonMapping) -> Unit:
        """Reads what a plan holds; whether it is a unit of the network is checked by `check_units`."""
        first, last = (int(number) for number in data["layers"])
        score = data.get("score")
        return cls(first, last, math.nan if score is None else float(score))


#: scores the units of a network; the lowest go first
UnitScorer = Callable[[TensorSource, Sequence[Unit]], tuple[Unit, ...]]


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
    if getattr(graph[source].kind, "antialiasing", 0):  # the layer after it would see the blurred map
        return False
    inside = range(source + 1, last)
    for index in inside:
        layer = graph[index]
        if not layer.sources or any(not source <= read < index for read in layer.sources):
            return False
        readers = graph.consumers[index]
        if not readers or readers[-1] > last or pointed_at.get(index, index) not in inside:
            return False
    normed = any(_scores(graph[index]) for index in inside)
    return normed and last not in pointed_at and silencers(graph, Unit(source + 1, last)) is not None


def _scores(layer: Layer) -> bool:
    """Returns whether a layer has γ that score its unit."""
    return layer.name == "convolutional" and layer.is_normalised


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
    if layer.kind.zero_if is None:
        return None
    parts = [_silencers(graph, unit, source) for source in layer.sources[layer.kind.zero_if]]
    return None if None in parts else frozenset().union(*(part for part in parts if part is not None))


def score_units(weights: TensorSource, units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Scores units by mean |γ| of the last batch-normalised convolution.

    Raises:
        PlanError: a γ that is not a finite number.
    """
    graph, scored = weights.graph, []
    for unit in units:
        layer = next(graph[i] for i in reversed(range(unit.first, unit.last)) if _scores(graph[i]))
        score = float(np.abs(np.array(weights.read(layer, "scales"), np.float64)).mean())
        if not math.isfinite(score):
            raise PlanError(
                f"{weights.path}: layer {layer.index} ({layer.name}): a γ is NaN or infinite; repair or retrain "
                "the checkpoint"
            )
        scored.append(Unit(unit.first, unit.last, round(score, 7)))
    return tuple(scored)


def choose_units(
    weights: TensorSource, number: int = 0, ratio: float = 0.0, score: UnitScorer = score_units
) -> tuple[Unit, ...]:
    """Chooses the units with the lowest scores; of nested ones at most one.

    Args:
        number: how many.
        ratio: or which fraction of all.
        score: says which are lowest.

    Returns:
        The units in the order of their layers.

    Raises:
        PlanError: there are not so many units.
    """
    if not number and not ratio:
        return ()
    units = find_units(weights.graph)
    wanted = number or math.floor(ratio * len(units) + 0.5)
    chosen: list[Unit] = []
    for unit in sorted(score(weights, units), key=lambda unit: (unit.score, unit.first)):
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
