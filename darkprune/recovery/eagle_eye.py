"""EagleEye: the best of many random allocations, each with new batch statistics (METHODS §6).

A candidate is a vector of random ratios, one per convolution, scaled until the budget is met; within a convolution the
criterion chooses, in the paper the l1 norm of the filters. A pruned network's batch statistics no longer fit, and
without new ones candidates cannot be told apart; the quick evaluation behind them is the output distance here, which
needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.graph import build_graph
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import NetworkWeights
from darkprune.pruning.apply import slim_cfg
from darkprune.pruning.budget import Budget, solve_ratio
from darkprune.pruning.filter_moments import MomentsFrom, filter_moments
from darkprune.pruning.prune import Decision, Ranking, decide, rank
from darkprune.pruning.settings import PruneSettings
from darkprune.recovery.batch_norm import reestimate
from darkprune.recovery.distance import Reference
from darkprune.recovery.loading import load_network
from darkprune.recovery.recover import cut_and_pair
from darkprune.recovery.samples import Samples

CANDIDATES = 30
IMAGES = 128  #: for the batch statistics of a candidate
HIGHEST = 0.95  #: of a convolution's channels, at most


@dataclass(frozen=True)
class Candidate:
    """One allocation.

    Attributes:
        ratios: per convolution, in the order of the ranking's groups.
        distance: output distance on held-out images, after new batch statistics.
    """

    ratios: tuple[float, ...]
    distance: float


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        ranking, settings: give the best plan (`decide`).
        candidates: all that were tried, the best first.
    """

    ranking: Ranking
    settings: PruneSettings
    candidates: tuple[Candidate, ...]


def search(
    weights: NetworkWeights,
    settings: PruneSettings,
    budget: Budget,
    samples: Samples,
    *,
    candidates: int = CANDIDATES,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
    moments: MomentsFrom = filter_moments,
) -> Search:
    """Searches for an allocation.

    Args:
        weights: the original pair.
        settings: criterion, limits and compensation; its groups and ratios are replaced.
        budget: what shall remain.
        samples: unlabelled images.
        candidates: how many allocations to try.
        seed: of the allocations: candidate i is the same whichever are tried.
        progress: called after each candidate.
        moments: what similarity starts from.

    Raises:
        PlanError: no candidate meets the budget.
    """
    settings = replace(settings, groups=",".join(f"{i}-{i}" for i in range(len(weights.graph))), allocation="explicit")
    ranking = rank(weights, settings, moments=moments)
    original = load_network(weights.graph, weights, samples.fit.device)
    reference = Reference(original, samples.held_out)
    found: list[Candidate] = []
    trouble: PlanError | None = None
    for number in range(candidates):
        try:
            ratios = draw(ranking, settings, budget, np.random.default_rng([seed, number]))
        except PlanError as error:
            trouble = error
        else:
            decision = decide(ranking, replace(settings, ratios=ratios), ("", ""))
            found.append(Candidate(ratios, _distance(weights, decision, reference, samples)))
        progress()
    if not found:
        raise trouble if trouble is not None else PlanError("no candidates were asked for")
    found.sort(key=lambda candidate: candidate.distance)
    return Search(ranking, replace(settings, ratios=found[0].ratios), tuple(found))


def draw(ranking: Ranking, settings: PruneSettings, budget: Budget, random: np.random.Generator) -> tuple[float, ...]:
    """Draws one ratio per layer, uniformly, and scales them together until the budget is met.

    Raises:
        PlanError: no scale meets it.
    """
    shape = random.uniform(0, 1, len(ranking.groups))

    def scaled(scale: float) -> tuple[float, ...]:
        # at scale s a layer with u in [0, 1] loses u·s/(1 − s): all of them up to the highest where s approaches 1
        return tuple(np.minimum(HIGHEST, shape * scale / max(1 - scale, 1e-3)).tolist())

    def measure(scale: float) -> Totals:
        decision = decide(ranking, replace(settings, ratios=scaled(scale)), ("", ""))
        return totals(build_graph(slim_cfg(decision.cut)))

    return scaled(solve_ratio(budget, measure, totals(ranking.weights.graph)))


def _distance(weights: NetworkWeights, decision: Decision, reference: Reference, samples: Samples) -> float:
    network = cut_and_pair(weights, decision, samples.fit.device).slim
    reestimate(network, samples.fit.first(IMAGES))
    return reference.distance(network)
