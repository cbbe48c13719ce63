"""Whether a budget can be met at all: asked before hours go into scores or training."""

from __future__ import annotations

from dataclasses import replace

from darkprune.graph.graph import build_graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.pruning.apply import slim_cfg
from darkprune.pruning.budget import HIGHEST, TOLERANCE, Budget
from darkprune.pruning.prune import PruneSettings, decide, rank, within_budget


def refuse_unreachable(weights: NetworkWeights, settings: PruneSettings, budget: Budget) -> None:
    """Refuses a budget below what every layer at its floor leaves, whatever the channels are worth.

    Args:
        weights: the original pair.
        settings: floors, multiples, excluded layers and units are used.
        budget: what shall remain.

    Raises:
        PlanError: no choice of channels meets it; says the nearest, and which floor stands in the way.
    """
    quick = replace(
        settings, criterion="bn_gamma", allocation="uniform", ratios=(), preset=None, similarity=0.0, compensate="fold"
    )
    ranking = rank(weights, quick)
    least = decide(ranking, replace(quick, ratio=HIGHEST, budget=None), ("", ""))
    if budget.of(totals(build_graph(slim_cfg(least.cut)))) > budget.target * (1 + TOLERANCE):
        within_budget(ranking, quick, budget)  # says why
