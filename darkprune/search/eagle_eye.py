"""EagleEye (Li et al. 2020): the best of many random allocations, each with re-estimated batch statistics.

A candidate is a vector of random ratios, one per convolution, scaled until the budget is met; within a convolution the
criterion chooses, in the paper the l1 norm of the filters. A pruned network's batch statistics no longer fit, and
without new ones candidates cannot be compared. The quick evaluation after it is the output distance here, which needs
no labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from darkprune.data.samples import Samples
from darkprune.errors import PlanError
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import NetworkWeights
from darkprune.network.loading import load_network, run_of
from darkprune.processes import in_processes
from darkprune.progress import Progress, silent, track
from darkprune.refit.batch_norm import reestimate
from darkprune.refit.recover import cut_and_align
from darkprune.selection.budget import Budget, solve_ratio
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.selection.filter_moments import MomentsFrom, filter_moments
from darkprune.selection.settings import Selection

CANDIDATES = 30
IMAGES = 128  #: for the batch statistics of a candidate
HIGHEST = 0.95  #: of a convolution's channels, at most


@dataclass(frozen=True)
class Candidate:
    """One allocation.

    Attributes:
        ratios: per convolution, in the order of the ranking's groups.
        distance: output distance on held-out images, with new batch statistics.
        number: its number, which decides the random ratios.
    """

    ratios: tuple[float, ...]
    distance: float
    number: int


@dataclass(frozen=True)
class AllocationSearch:
    """Result of a search for an allocation.

    Attributes:
        ranking, settings: of the best plan (`decide`).
        candidates: all that were tried, the best first.
    """

    ranking: Ranking
    settings: Selection
    candidates: tuple[Candidate, ...]


def search(
    weights: NetworkWeights,
    settings: Selection,
    budget: Budget,
    samples: Samples,
    *,
    candidates: int = CANDIDATES,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress = silent,
    moments: MomentsFrom = filter_moments,
) -> AllocationSearch:
    """Searches for an allocation.

    Args:
        weights: the original pair.
        settings: criterion, limits and compensation; its groups and ratios are replaced.
        budget: what shall remain.
        samples: unlabelled images.
        candidates: number of allocations to try.
        seed: of the allocations: candidate i is the same whichever are tried.
        jobs: processes to try them in; several with the filters' moments only.
        progress: gets a step per candidate.
        moments: means and covariances that similarity starts from.

    Raises:
        PlanError: no candidate meets the budget.
    """
    evaluation = _CandidateEvaluation(weights, settings, budget, samples, seed, moments)
    work: Callable[[int], Candidate | PlanError] = evaluation.candidate
    if min(jobs, candidates) > 1:  # else this process does it, with the files that are open
        pair = Path(weights.graph.cfg.source), weights.path
        work = partial(_in_process, pair, settings, budget, samples, seed)
    found: list[Candidate] = []
    trouble: PlanError | None = None
    step = track(progress, "trying allocations", candidates, "candidate")
    for tried in in_processes(work, range(candidates), jobs):
        if isinstance(tried, PlanError):
            trouble = tried
        else:
            found.append(tried)
        step()
    if not found:
        raise trouble if trouble is not None else PlanError("no candidates were asked for")
    found.sort(key=lambda candidate: (candidate.distance, candidate.number))
    return AllocationSearch(evaluation.ranking, replace(evaluation.settings, ratios=found[0].ratios), tuple(found))


class _CandidateEvaluation:
    """Draws candidates and measures them.

    Attributes:
        ranking, settings: what a candidate's ratios go with.
    """

    def __init__(
        self,
        weights: NetworkWeights,
        settings: Selection,
        budget: Budget,
        samples: Samples,
        seed: int,
        moments: MomentsFrom = filter_moments,
    ) -> None:
        each = ",".join(f"{index}-{index}" for index in range(len(weights.graph)))
        self.settings = replace(settings, groups=each, allocation="explicit")
        self.ranking = rank(weights, self.settings, moments=moments)
        self._weights, self._budget, self._samples, self._seed = weights, budget, samples, seed
        self._distance: OutputDistance | None = None

    def candidate(self, number: int) -> Candidate | PlanError:
        """Draws and measures a candidate; returns why not where the budget cannot be met."""
        try:
            ratios = draw(self.ranking, self.settings, self._budget, np.random.default_rng([self._seed, number]))
        except PlanError as error:
            return error
        surgery = decide(self.ranking, replace(self.settings, ratios=ratios))
        if self._distance is None:
            original = run_of(load_network(self._weights))
            self._distance = OutputDistance(original, self._weights.graph, self._samples.held_out)
        network = cut_and_align(surgery).slim
        reestimate(network, self._samples.fit.first(IMAGES))
        return Candidate(ratios, self._distance.of(run_of(network)), number)


@lru_cache(maxsize=1)
def _evaluation_of(
    cfg: Path, weights: Path, settings: Selection, budget: Budget, samples: Samples, seed: int
) -> _CandidateEvaluation:
    """Returns the evaluation of this process, made once: the weights stay open as long as the process lives."""
    return _CandidateEvaluation(NetworkWeights(read_graph(cfg), weights), settings, budget, samples, seed)


def _in_process(
    pair: tuple[Path, Path], settings: Selection, budget: Budget, samples: Samples, seed: int, number: int
) -> Candidate | PlanError:
    return _evaluation_of(*pair, settings, budget, samples, seed).candidate(number)


def draw(ranking: Ranking, settings: Selection, budget: Budget, random: np.random.Generator) -> tuple[float, ...]:
    """Draws one ratio per layer, uniformly, and scales them together until the budget is met.

    Raises:
        PlanError: no scale meets it.
    """
    shape = random.uniform(0, 1, len(ranking.groups))

    def scaled(scale: float) -> tuple[float, ...]:
        # at scale s a layer with u in [0, 1] loses u·s/(1 − s): close to s = 1 all reach the highest ratio
        return tuple(np.minimum(HIGHEST, shape * scale / max(1 - scale, 1e-3)).tolist())

    def measure(scale: float) -> Totals:
        return totals(decide(ranking, replace(settings, ratios=scaled(scale))).graph)

    return scaled(solve_ratio(budget, measure, totals(ranking.weights.graph)))
