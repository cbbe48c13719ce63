"""EagleEye (Li et al. 2020): the best of many random allocations, each with re-estimated batch statistics.

A candidate is a vector of random ratios, one per convolution, scaled until the budget is met; within a convolution the
criterion chooses, in the paper the l1 norm of the filters. A pruned network's batch statistics no longer fit, and
without new ones candidates cannot be compared. The quick evaluation after it is mAP where labels are given, else the
output distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from darkprune.data.samples import Samples
from darkprune.errors import PlanError
from darkprune.evaluation.detector import Detector
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network
from darkprune.network.loading import load_network, run_of
from darkprune.processes import in_processes
from darkprune.progress import reporting, silent, track
from darkprune.refit.batch_norm import reestimate
from darkprune.refit.recover import cut_and_align
from darkprune.search.goal import Goal
from darkprune.selection.budget import solve_ratio
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.selection.filter_moments import MomentsFrom, filter_moments
from darkprune.selection.settings import Selection

IMAGES = 128  #: for the batch statistics of a candidate
HIGHEST = 0.95  #: of a convolution's channels, at most


@dataclass(frozen=True)
class Candidate:
    """One allocation.

    Attributes:
        ratios: per convolution, in the order of the ranking's groups.
        loss: with new batch statistics: 1 − mAP@0.5 on labelled images, or the output distance on held-out ones.
        number: its number, which decides the random ratios.
    """

    ratios: tuple[float, ...]
    loss: float
    number: int


@dataclass(frozen=True)
class AllocationSearch:
    """Result of a search for an allocation.

    Attributes:
        ranking, selection: of the best plan (`decide`).
        candidates: all that were tried, the best first.
    """

    ranking: Ranking
    selection: Selection
    candidates: tuple[Candidate, ...]


def search_allocation(
    weights: NetworkWeights,
    selection: Selection,
    samples: Samples,
    goal: Goal,
    moments: MomentsFrom = filter_moments,
) -> AllocationSearch:
    """Searches for an allocation.

    Args:
        selection: criterion, limits and compensation; its groups and ratios are replaced.
        goal: budget, number of candidates, labelled images that they are compared on, and processes: several with the
            filters' moments only. The seed decides candidate i, whichever are tried.

    Raises:
        PlanError: no candidate meets the budget.
    """
    evaluation = _CandidateEvaluation(weights, selection, samples, goal, moments)
    work: Callable[[int], Candidate | PlanError] = evaluation.candidate
    if min(goal.jobs, goal.candidates) > 1:  # else this process does it, with the files that are open
        pair = Path(weights.graph.cfg.source), weights.path
        work = partial(_in_process, pair, selection, samples, goal)
    found: list[Candidate] = []
    trouble: PlanError | None = None
    step = track("trying allocations", goal.candidates, "candidate")
    for tried in in_processes(work, range(goal.candidates), goal.jobs):
        if isinstance(tried, PlanError):
            trouble = tried
        else:
            found.append(tried)
        step()
    if not found:
        raise trouble if trouble is not None else PlanError("no candidates were asked for")
    found.sort(key=lambda candidate: (candidate.loss, candidate.number))
    return AllocationSearch(evaluation.ranking, replace(evaluation.selection, ratios=found[0].ratios), tuple(found))


class _CandidateEvaluation:
    """Draws candidates and measures them.

    Attributes:
        ranking, selection: what a candidate's ratios go with.
    """

    def __init__(
        self,
        weights: NetworkWeights,
        selection: Selection,
        samples: Samples,
        goal: Goal,
        moments: MomentsFrom = filter_moments,
    ) -> None:
        each = ",".join(f"{index}-{index}" for index in range(len(weights.graph)))
        self.selection = replace(selection, groups=each, allocation="explicit")
        self.ranking = rank(weights, self.selection, moments=moments)
        self._weights, self._samples, self._goal = weights, samples, goal
        self._distance: OutputDistance | None = None

    @reporting(silent)
    def candidate(self, number: int) -> Candidate | PlanError:
        """Draws and measures a candidate; returns why not where the budget cannot be met."""
        try:
            ratios = draw(self.ranking, self.selection, self._goal, number)
        except PlanError as error:
            return error
        surgery = decide(self.ranking, replace(self.selection, ratios=ratios))
        network = cut_and_align(surgery).slim
        reestimate(network, self._samples.fit.first(IMAGES))
        return Candidate(ratios, self._loss(network), number)

    def _loss(self, network: Network) -> float:
        labelled = self._goal.labelled
        if labelled is not None:
            found, _ = evaluate_detector(Detector.of(network.graph, run_of(network)), labelled, coco=False)
            return 1 - found.map50
        if self._distance is None:
            original = run_of(load_network(self._weights))
            self._distance = OutputDistance(original, self._weights.graph, self._samples.held_out)
        return self._distance.of(run_of(network))


@lru_cache(maxsize=1)
def _evaluation_of(
    cfg: Path, weights: Path, selection: Selection, samples: Samples, goal: Goal
) -> _CandidateEvaluation:
    """Returns the evaluation of this process, made once: the weights stay open as long as the process lives."""
    return _CandidateEvaluation(NetworkWeights(read_graph(cfg), weights), selection, samples, goal)


def _in_process(
    pair: tuple[Path, Path], selection: Selection, samples: Samples, goal: Goal, number: int
) -> Candidate | PlanError:
    return _evaluation_of(*pair, selection, samples, goal).candidate(number)


def draw(ranking: Ranking, selection: Selection, goal: Goal, number: int) -> tuple[float, ...]:
    """Draws one ratio per layer for a candidate, uniformly, and scales them together until the budget is met.

    Raises:
        PlanError: no scale meets it.
    """
    if goal.budget is None:
        raise PlanError("candidates are drawn for a budget, and none was given")
    shape = np.random.default_rng([goal.seed, number]).uniform(0, 1, len(ranking.groups))

    def scaled(scale: float) -> tuple[float, ...]:
        # at scale s a layer with u in [0, 1] loses u·s/(1 − s): close to s = 1 all reach the highest ratio
        return tuple(np.minimum(HIGHEST, shape * scale / max(1 - scale, 1e-3)).tolist())

    def measure(scale: float) -> Totals:
        return totals(decide(ranking, replace(selection, ratios=scaled(scale))).graph)

    return scaled(solve_ratio(goal.budget, measure, totals(ranking.weights.graph)))
