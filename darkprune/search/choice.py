"""From settings, a budget and perhaps images to one decision, by whichever way the settings ask for.

What `darkprune prune` and `darkprune compare` both do before anything is cut. Nothing here imports torch: without
images there is no session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darkprune.graph.weights import NetworkWeights
from darkprune.selection.budget import Budget
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.selection.filter_moments import filter_moments
from darkprune.selection.importance import IMAGE_CRITERIA
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.surgery.surgery import Surgery
from darkprune.surgery.units import UnitScorer, score_units

if TYPE_CHECKING:
    from darkprune.data.dataset import Dataset
    from darkprune.search.session import Session


Adjust = Callable[[Ranking, Selection], tuple[Ranking, Selection]]


@dataclass(frozen=True)
class Effort:
    """How much is tried within a budget.

    Attributes:
        candidates: EagleEye's random allocations; 0: none, the settings' allocation is taken.
        rounds: how often channels are scored anew on the way.
        minutes: how long the plan is improved against the output distance; 0: not at all.
        seed: of everything random.
        jobs: processes that candidates are tried in.
        labelled: images that candidates are compared on, by mAP; without them by the output distance.
    """

    candidates: int = 0
    rounds: int = 1
    minutes: float = 0.0
    seed: int = 0
    jobs: int = 1
    labelled: Dataset | None = None


def choose(
    weights: NetworkWeights,
    settings: Selection,
    session: Session | None = None,
    budget: Budget | None = None,
    effort: Effort | None = None,
    by_unit: UnitScorer = score_units,
    adjust: Adjust | None = None,
) -> Surgery:
    """Ranks and decides.

    Args:
        weights: the original pair.
        settings: how to choose; with a budget its ratio is found here.
        session: the user's images, which a criterion of `IMAGE_CRITERIA`, candidates, rounds and a search need.
        budget: what shall remain.
        effort: candidates, rounds and minutes count only with images and a budget.
        by_unit: scores residual units, where some are to go; not with candidates and rounds.
        adjust: has a word between ranking and deciding: puts measured curves into the ranking, or finds the ratio.

    Raises:
        UsageError, PlanError: settings that make no sense for this network; a budget that cannot be met.
    """
    effort = effort or Effort()
    if session and budget and effort.candidates:
        search = session.search(weights, settings, budget, effort)
        return decide(search.ranking, search.settings)
    if session and budget and effort.rounds > 1:
        ranking = session.rank_in_rounds(weights, settings, budget, effort.rounds)
    else:
        by_images = session.scorer(settings.criterion) if session and settings.criterion in IMAGE_CRITERIA else None
        moments = session.moments if session else filter_moments
        ranking = rank(weights, settings, by_images=by_images, moments=moments, by_unit=by_unit)
    if adjust is not None:
        ranking, settings = adjust(ranking, settings)
    if session and budget and effort.minutes:
        ranking = session.improve(weights, settings, ranking, budget, effort.minutes, effort.seed)
    return decide(ranking, within_budget(ranking, settings, budget) if budget else settings)
