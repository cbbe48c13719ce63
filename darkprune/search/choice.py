"""From a selection, a goal and perhaps images to one surgery, by whichever way they ask for.

What `darkprune prune` and `darkprune compare` both do before anything is cut. torch and OpenCV are imported only where
there are images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from darkprune.graph.channels import ChannelMap
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.base import Floats
from darkprune.search.goal import Goal
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.selection.importance import IMAGE_CRITERIA
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.surgery.surgery import Surgery
from darkprune.surgery.units import UnitScorer, score_units

if TYPE_CHECKING:  # reading images needs OpenCV
    from darkprune.data.samples import Samples
    from darkprune.scores.sensitivity import ClassPrice

Adjust = Callable[[Ranking, Selection], tuple[Ranking, Selection]]


def choose(
    weights: NetworkWeights,
    selection: Selection,
    goal: Goal | None = None,
    samples: Samples | None = None,
    *,
    by_unit: UnitScorer = score_units,
    adjust: Adjust | None = None,
) -> Surgery:
    """Ranks the channels of a pair and decides which ones go.

    Args:
        selection: how to choose; with a budget its ratio is found here.
        goal: what to keep; candidates, rounds and minutes count only with images and a budget.
        samples: unlabelled images, which a criterion of `IMAGE_CRITERIA`, candidates, rounds and a search need.
        by_unit: scores residual units, where some are to go; not with candidates and rounds.
        adjust: changes the ranking or the selection before the decision: adds measured curves, or finds the ratio.

    Raises:
        UsageError, PlanError: settings that make no sense for this network; a budget that cannot be met.
    """
    goal = goal or Goal()
    if samples is None:
        return _decide(rank(weights, selection, by_unit=by_unit), selection, goal, adjust)
    from darkprune.scores.criteria import scorer
    from darkprune.scores.map_moments import moments_on

    moments = moments_on(samples)
    if goal.budget and goal.candidates:
        from darkprune.search.eagle_eye import search_allocation

        found = search_allocation(weights, selection, samples, goal, moments)
        return decide(found.ranking, found.selection)
    if goal.budget and goal.rounds > 1:
        from darkprune.search.rounds import rank_in_rounds

        ranking = rank_in_rounds(weights, selection, samples, goal, moments)
    else:
        by_images = None
        if selection.criterion in IMAGE_CRITERIA:
            by_images = scorer(selection.criterion, samples, goal.recover, _price(goal))
        ranking = rank(weights, selection, by_images=by_images, moments=moments, by_unit=by_unit)
    if not (goal.budget and goal.minutes):
        return _decide(ranking, selection, goal, adjust)
    from darkprune.search.plan_search import improve

    if adjust is not None:
        ranking, selection = adjust(ranking, selection)
    improved = improve(weights, ranking, selection, samples, goal)
    surgery = _decide(improved.ranking, selection, goal)
    return replace(surgery, findings={**surgery.findings, "search": improved.to_json()})


def _price(goal: Goal) -> ClassPrice:
    """Returns what a class of channels costs: in multiply-adds, or in nanoseconds where a latency is the goal."""
    from darkprune.scores.sensitivity import class_macs, class_shares

    times = goal.layer_times
    if times is None:
        return class_macs

    def nanoseconds(channels: ChannelMap) -> Floats:
        return 1e6 * class_shares(channels, times.prices(channels.graph).shares)

    return nanoseconds


def _decide(ranking: Ranking, selection: Selection, goal: Goal, adjust: Adjust | None = None) -> Surgery:
    if adjust is not None:
        ranking, selection = adjust(ranking, selection)
    return decide(ranking, within_budget(ranking, selection, goal.budget) if goal.budget else selection)
