"""Layer pruning within a budget: how many residual units have to go."""

from __future__ import annotations

from darkprune.errors import PlanError
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import TensorSource
from darkprune.selection.budget import Budget
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.units import UnitScorer, choose_units, find_units, score_units


def units_within(weights: TensorSource, budget: Budget, by_unit: UnitScorer = score_units) -> int:
    """Returns the fewest units whose absence leaves no more than a budget says.

    Args:
        weights: the original pair.
        budget: what to keep.
        by_unit: scores the units; those of lowest score go first.

    Raises:
        PlanError: the network has no units, or all of them are too few; says what remains without them.
    """
    left: Totals | None = None
    for number in range(1, len(find_units(weights.graph)) + 1):
        try:
            units = choose_units(weights, number, score=by_unit)
        except PlanError:  # of nested units only one can go
            break
        left = totals(reduced(weights, units).graph)
        if budget.of(left) <= budget.target:
            return number
    source = weights.graph.cfg.source
    if left is None:
        raise PlanError(f"{source}: has no residual unit that can be cut out, so layer pruning meets no budget")
    raise PlanError(
        f"the budget of {budget.target:,.0f} ({budget.kind}) cannot be met with whole units: without any of them "
        f"{budget.of(left):,.0f} remain; take channels too (layer+group)"
    )


def units_above(weights: TensorSource, budget: Budget, by_unit: UnitScorer = score_units) -> int:
    """Returns the most units that leave at least what a budget says: what is over is left to channels."""
    try:
        return units_within(weights, budget, by_unit) - 1
    except PlanError:
        return _all_units(weights)


def _all_units(weights: TensorSource) -> int:
    number = len(find_units(weights.graph))
    while number:
        try:
            return len(choose_units(weights, number))
        except PlanError:
            number -= 1
    return 0
