"""The structure of a network for drawing: layers, groups and couplings, beside those of a slimmer network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from darkprune.errors import GraphError
from darkprune.graph.channels import ChannelMap, map_channels
from darkprune.graph.graph import Graph, Layer, read_graph
from darkprune.graph.groups import PruneGroup, group_of
from darkprune.surgery.apply import Cut
from darkprune.surgery.plan import Plan
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import base_graph, layers_before


@dataclass(frozen=True)
class Slim:
    """The result of cutting a network.

    Attributes:
        graph: the slim network.
        number: layer of the original -> layer of the slim one; those of units that were cut out are missing.
    """

    graph: Graph
    number: Mapping[int, int]


@dataclass(frozen=True)
class Structure:
    """A network as it is drawn.

    Attributes:
        graph: the network, before pruning.
        groups: its division.
        slim: the result of cutting it, if that is shown.
    """

    graph: Graph
    groups: tuple[PruneGroup, ...]
    slim: Slim | None = None

    @cached_property
    def channels(self) -> ChannelMap:
        """Labels of its channels."""
        return map_channels(self.graph)

    @cached_property
    def group_numbers(self) -> tuple[int | None, ...]:
        """For every layer the position of its group, None outside all."""
        found = (group_of(self.groups, layer.index) for layer in self.graph)
        return tuple(None if group is None else self.groups.index(group) for group in found)

    @cached_property
    def set_names(self) -> tuple[str, ...]:
        """A, B, … Z, AA, … for every coupled set."""
        return tuple(_letters(number) for number in range(len(self.channels.coupled_sets)))

    def after(self, layer: Layer) -> Layer | None:
        """Returns the layer of the slim network that corresponds to a layer; None where there is none."""
        if self.slim is None or layer.index not in self.slim.number:
            return None
        return self.slim.graph[self.slim.number[layer.index]]

    def sets_of(self, layer: int) -> list[str]:
        """Returns the names of the coupled sets that a layer belongs to."""
        return [
            name for name, members in zip(self.set_names, self.channels.coupled_sets, strict=True) if layer in members
        ]

    def pins_of(self, layer: int) -> list[str]:
        """Returns why channels that a layer makes may not go."""
        if layer not in self.channels.producers:
            return []
        pinned = (self.channels.pinned[number] for number in self.channels.of_layer[layer].tolist())
        return list(dict.fromkeys(reasons[0] for reasons in pinned if reasons))


def read_slim(graph: Graph, path: Path) -> Slim:
    """Reads the result of cutting a network: the slim cfg, or the plan (.json).

    Raises:
        CfgError, PlanError, GraphError: it cannot be read, or belongs to another network.
    """
    if path.suffix == ".json":
        return slim_of_plan(graph, read_plan(path))
    slim = read_graph(path)
    plan = path.with_name("plan.json")
    if len(slim) != len(graph) and plan.is_file():
        return pair_graphs(graph, slim, read_plan(plan))
    return pair_graphs(graph, slim, None)


def slim_of_plan(graph: Graph, plan: Plan) -> Slim:
    """Works out the network that a plan leaves.

    Raises:
        PlanError: the plan is for another network.
    """
    channels = map_channels(base_graph(graph, plan))
    keep, carriers = plan.classes(channels)
    return pair_graphs(graph, Cut(channels, keep, carriers, "none", "mean").slim, plan)


def pair_graphs(graph: Graph, slim: Graph, plan: Plan | None) -> Slim:
    """Finds the corresponding layers of two networks.

    Args:
        graph, slim: the networks.
        plan: of the cut; needed where units were cut out, or convolutions factorised.

    Raises:
        GraphError: they do not belong together.
    """
    kept = layers_before(graph, plan) if plan is not None else tuple(range(len(graph)))
    names = f"{graph.cfg.source} and {slim.cfg.source}"
    if len(kept) != len(slim):
        raise GraphError(
            f"{names} have {len(graph)} and {len(slim)} layers; after --units or factorize give the plan.json instead"
        )
    for place, index in enumerate(kept):
        if index is not None and slim[place].name != graph[index].name:
            raise GraphError(
                f"{names}: layer {index} is {graph[index].name} in one and {slim[place].name} in the other; "
                "give a network and the result of cutting it"
            )
    return Slim(slim, {index: place for place, index in enumerate(kept) if index is not None})


def _letters(number: int) -> str:
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text
