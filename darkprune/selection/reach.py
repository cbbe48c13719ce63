"""Where a budget is met: on the way from nothing to every layer at its floor, or with how many residual units less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from darkprune.errors import PlanError
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.selection.budget import HIGHEST, TOLERANCE, Budget, nearest_ratio, unreachable
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.selection.settings import Selection
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.units import UnitScorer, choose_units, find_units, score_units


def within_budget(ranking: Ranking, settings: Selection, budget: Budget) -> Selection:
    """Returns settings with which `decide` leaves what a budget says, or refuses.

    Args:
        ranking: from `rank`.
        settings: allocation `uniform`, `global`, `proportional`, or `sensitivity` with curves in the ranking.

    Raises:
        PlanError: no ratio comes down to the budget; says the nearest, and what stands in the way.
    """
    at = along(ranking, settings, budget.kind)

    def measure(place: float) -> Totals:
        return _totals_at(ranking, at(place))

    found, left = nearest_ratio(budget, measure, totals(ranking.weights.graph))
    if left > budget.target * (1 + TOLERANCE) and found == HIGHEST:
        least = {
            "--round-to": _totals_at(ranking, replace(at(HIGHEST), round_to=1)),
            "--min-channels": _totals_at(ranking, replace(at(HIGHEST), round_to=1, min_channels=1)),
        }
        raise PlanError(unreachable(budget, left, {flag: budget.of(found) for flag, found in least.items()}))
    return replace(at(found), budget=budget)


def along(ranking: Ranking, settings: Selection, by: str) -> Callable[[float], Selection]:
    """Returns the way from nothing (0) to every layer at its floor (`HIGHEST`), on which a budget is looked for.

    Args:
        ranking: from `rank`.
        settings: their ratio, or the groups' ratios where the ranking has curves, are replaced.
        by: kind of budget that the curves' way is the cheapest for.
    """
    if settings.allocation != "sensitivity" or ranking.curves is None:
        return lambda ratio: replace(settings, ratio=ratio, budget=None)
    path = ranking.curves.path(by)
    return lambda place: replace(settings, ratios=path(place / HIGHEST), budget=None)


def refuse_unreachable(weights: NetworkWeights, settings: Selection, budget: Budget) -> None:
    """Refuses a budget below what every layer at its floor leaves, before hours go into scores or training.

    Args:
        settings: floors, multiples, excluded layers and units are used.

    Raises:
        PlanError: no choice of channels meets it; says the nearest, and which floor stands in the way.
    """
    quick = _by_gamma(settings)
    ranking = rank(weights, quick)
    least = _totals_at(ranking, replace(quick, ratio=HIGHEST, budget=None))
    if budget.of(least) > budget.target * (1 + TOLERANCE):
        within_budget(ranking, quick, budget)  # says why


def uniform_ratio(weights: NetworkWeights, settings: Selection, budget: Budget) -> float:
    """Returns the ratio at which pruning by |γ|, alike in all groups, leaves what a budget says.

    Args: see `refuse_unreachable`, which raises the same.
    """
    quick = _by_gamma(settings)
    return within_budget(rank(weights, quick), quick, budget).ratio


def _by_gamma(settings: Selection) -> Selection:
    return replace(
        settings, criterion="bn_gamma", allocation="uniform", ratios=(), preset=None, similarity=0.0, compensate="fold"
    )


def units_within(weights: TensorSource, budget: Budget, by_unit: UnitScorer = score_units) -> int:
    """Returns the fewest units whose absence leaves no more than a budget says.

    Args:
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


def _totals_at(ranking: Ranking, settings: Selection) -> Totals:
    return totals(decide(ranking, settings).graph)
