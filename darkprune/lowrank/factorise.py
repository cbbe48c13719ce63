"""From moments and a budget to the surgery that factorises convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import Layer, build_graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.json_types import JsonObject
from darkprune.layers.base import Floats
from darkprune.lowrank.directions import Directions
from darkprune.lowrank.moments import Moments
from darkprune.lowrank.ranks import Choices, choices_of, choose_ranks
from darkprune.progress import track
from darkprune.selection.budget import Budget
from darkprune.surgery.apply import Cut
from darkprune.surgery.factors.network import factorisable, factorised_cfg, parts_of
from darkprune.surgery.factors.projection import Factors
from darkprune.surgery.plan import Plan, make_layers
from darkprune.surgery.surgery import Surgery


@dataclass(frozen=True, kw_only=True)
class RankGoal:
    """What a factorisation has to reach.

    Attributes:
        budget: what to keep of the network.
        multiple: ranks are multiples of this number.
        exclude: layers that stay as they are.
    """

    budget: Budget
    multiple: int = 1
    exclude: tuple[int, ...] = ()


@dataclass(frozen=True)
class FactorisedLayer:
    """What became of a convolution.

    Attributes:
        layer: its number in the original.
        size: of its window.
        channels, filters: its inputs and outputs.
        inputs, outputs: ranks of the two projections; None where there is none.
        macs_before, macs_after: multiply-adds for one image.
        lost: what it loses, as a share of what it would lose if nothing of it were left.
    """

    layer: int
    size: int
    channels: int
    filters: int
    inputs: int | None
    outputs: int | None
    macs_before: int
    macs_after: int
    lost: float

    def to_json(self) -> JsonObject:
        """Returns the fields."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Candidate:
    layer: Layer
    mean: Floats
    outputs: Directions
    inputs: Directions | None
    choices: Choices

    def factors(self, number: int) -> Factors:
        a, b = int(self.choices.inputs[number]), int(self.choices.outputs[number])
        inputs = self.inputs.first(a) if a and self.inputs is not None else None
        return Factors(inputs, self.outputs.first(b) if b else None)

    def describe(self, number: int) -> FactorisedLayer:
        choices = self.choices
        everything = float(self.outputs.losses[0]) or 1.0
        return FactorisedLayer(
            layer=self.layer.index,
            size=self.layer.blob("weights").shape[-1],
            channels=self.layer.inputs[0].c,
            filters=self.layer.output.c,
            inputs=int(choices.inputs[number]) or None,
            outputs=int(choices.outputs[number]) or None,
            macs_before=int(choices.macs[0]),
            macs_after=int(choices.macs[number]),
            lost=float(choices.losses[number]) / everything,
        )


def factorise(
    weights: NetworkWeights,
    goal: RankGoal,
    moments: Callable[[Layer], Moments],
    described: Mapping[str, object],
) -> Surgery:
    """Decides which convolutions become products, and of which rank.

    Args:
        moments: gives those of a layer; asked once for each layer that can be factorised.
        described: settings for the reader of the plan.

    Raises:
        PlanError: nothing in the network can be factorised, or not by so much.
    """
    graph = weights.graph
    layers = [layer for layer in graph if factorisable(graph, layer) and layer.index not in goal.exclude]
    step = track("finding subspaces", len(layers), "layer")
    candidates: dict[int, _Candidate] = {}
    for layer in layers:
        found = moments(layer)
        outputs, inputs = found.of_outputs(), found.of_inputs()
        choices = choices_of(layer, outputs, inputs, goal.multiple)
        if len(choices.losses) > 1:
            candidates[layer.index] = _Candidate(layer, found.mean, outputs, inputs, choices)
        step()
    if not candidates:
        raise PlanError(f"{graph.cfg.source}: no convolution of it has fewer operations as a product of two or three")
    kind, budget = goal.budget.kind, goal.budget
    fixed = budget.of(totals(graph, weights.header.size)) - sum(
        float(candidate.choices.costs(kind)[0]) for candidate in candidates.values()
    )
    chosen = choose_ranks({i: c.choices for i, c in candidates.items()}, kind, budget.target - fixed)
    factors = {i: candidates[i].factors(number) for i, number in chosen.items() if number}
    rows = [candidates[i].describe(number).to_json() for i, number in chosen.items() if number]
    means = {index: candidates[index].mean for index in factors}
    plan, cut = plan_factors(weights, factors, means, described)
    return Surgery(original=weights, plan=plan, cut=cut, findings={"factors": rows})


def plan_factors(
    weights: NetworkWeights,
    factors: Mapping[int, Factors],
    means: Mapping[int, Floats],
    described: Mapping[str, object],
) -> tuple[Plan, Cut]:
    """Makes the plan of a factorisation: inner channels that the projections leave out are cut.

    Args:
        factors: layer -> what it becomes.
        means: layer -> means of its sums, without its bias: what is left out of them on average goes into the bias.
        described: settings for the reader of the plan.

    Returns:
        The plan, without the hashes of its pair, and the same as a cut of the factorised network.

    Raises:
        PlanError: a layer cannot be factorised.
    """
    graph = build_graph(factorised_cfg(weights.graph, factors))
    channels = map_channels(graph)
    keep = np.ones(channels.count, bool)
    measured: dict[int, Floats] = {}
    for number, part in enumerate(parts_of(weights.graph, factors)):
        found = factors.get(part.layer)
        if found is None or part.role == "expand":
            continue
        projection = found.inputs if part.role == "reduce" else found.outputs
        if projection is None:
            continue
        keep[channels.of_layer[number][projection.rank :]] = False
        mean = means[part.layer] if part.role == "core" else np.zeros(projection.width)
        measured[number] = np.round(projection.whole.coordinates @ mean, 7)  # as the plan's file holds them
    none = np.zeros_like(keep)
    plan = Plan(
        cfg_sha256="",
        weights_sha256="",
        names=(Path(weights.graph.cfg.source).name, weights.path.name),
        settings={**described, "compensate": "fold", "constant": "mean"},
        groups=(),
        layers=make_layers(channels, keep, none),
        measured=measured,
        factors=dict(factors),
    )
    return plan, Cut(channels, keep, none, "fold", "mean", measured)
