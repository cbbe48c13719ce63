"""Budgets of `darkprune prune`, and of `compress`: read, and refused before hours go into what cannot be met."""

from __future__ import annotations

from argparse import Namespace

from darkprune.graph.graph import Graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.budget import UNITS, Budget, parse_budget
from darkprune.selection.reach import refuse_unreachable
from darkprune.selection.settings import PruneSettings


def budget_of(args: Namespace, graph: Graph) -> Budget | None:
    """Reads the budget, if one is asked for.

    Raises:
        UsageError: it cannot be read, or is not below the network.
    """
    targets = {kind: text for kind in UNITS if (text := getattr(args, f"target_{kind}")) is not None}
    return next((parse_budget(kind, text, totals(graph)) for kind, text in targets.items()), None)


def refuse_early(args: Namespace, weights: NetworkWeights, settings: PruneSettings, budget: Budget | None) -> None:
    """Refuses a budget that cannot be met, where scoring comes before the decision.

    Raises:
        PlanError: it is below what floors leave.
    """
    if budget is not None and args.unit_score == "gamma":  # units that are chosen on images are not known yet
        refuse_unreachable(weights, settings, budget)
