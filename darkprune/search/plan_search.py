"""`--search-minutes`: a plan improved against the output distance, by moving the budget between groups and layers.

A score that compares channels over a whole network ignores what is not local: what the refit of later layers makes up
for, what adds up along a residual stream. So the scores of a part of the network are multiplied by a factor, the plan
is made anew for the same budget, and kept if it lowers the output distance after a quick recovery. Parts are the groups
first, then the sets of coupled layers. No labels are needed, and the images of the final distance are not used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from darkprune.data.samples import Sample, Samples
from darkprune.errors import PlanError
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.base import Floats, Indices
from darkprune.network.loading import load_network, run_of
from darkprune.progress import reporting, silent, track
from darkprune.refit.batch_norm import reestimate
from darkprune.refit.effects import measure_effects
from darkprune.refit.recover import cut_and_align
from darkprune.refit.refit import RefitSettings, refit
from darkprune.search.goal import Goal
from darkprune.selection.decide import Ranking, decide
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.selection.voting import FAMILIES
from darkprune.surgery.surgery import Surgery

FIT = 32  #: images that a trial is recovered on
MEASURE = 64  #: images that it is measured on, apart from those
FIRST_STEP = 2.0  #: factor of a part's scores at first
LAST_STEP = 1.1  #: below it nothing is tried any more


@dataclass(frozen=True, kw_only=True)
class PlanSearch:
    """Result of a search for a plan.

    Attributes:
        ranking: of the best plan.
        trials: number of plans that were tried.
        kept: number of them that were better than all before.
        start, best: output distance after the quick recovery, of the first and of the best plan.
        interrupted: the user stopped it.
    """

    ranking: Ranking
    trials: int
    kept: int
    start: float
    best: float
    interrupted: bool

    def to_json(self) -> dict[str, object]:
        """Returns the fields but the ranking as JSON; an infinite distance as null."""
        numbers = {name: getattr(self, name) for name in ("trials", "kept", "start", "best", "interrupted")}
        return {name: None if value == math.inf else value for name, value in numbers.items()}


def improve(
    weights: NetworkWeights,
    ranking: Ranking,
    selection: Selection,
    samples: Samples,
    goal: Goal,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> PlanSearch:
    """Searches until the time is up, nothing more is found, or Ctrl-C; the best so far is returned.

    Args:
        selection: allocation `global`.
        samples: unlabelled images; only those to fit on are used.
        goal: budget of every plan that is tried, the recovery that will follow, the time (a trial that has begun is
            completed), and the seed of the order of trials: with the same time per trial the same plan is found.

    Raises:
        PlanError: the budget cannot be met.
    """
    begun, seconds = clock(), 60 * goal.minutes
    passed = track("searching plans", seconds, "s")
    trial = _PlanEvaluation(weights, selection, samples, goal)
    best = start = trial.distance(ranking)
    trials, kept, interrupted = 1, 0, False
    random = np.random.default_rng(goal.seed)
    try:
        for step, part in _moves(ranking, random):
            factor, improved = step, False
            for _ in range(2):  # up, and if that is worse down; as long as it helps
                while clock() - begun < seconds:
                    candidate = _scaled(ranking, part, factor)
                    distance = trial.distance(candidate)
                    trials += 1
                    passed.at(min(seconds, clock() - begun))
                    if distance >= best:
                        break
                    ranking, best, kept, improved = candidate, distance, kept + 1, True
                if improved:
                    break
                factor = 1 / factor
            if clock() - begun >= seconds:
                break
    except KeyboardInterrupt:
        interrupted = True
    return PlanSearch(ranking=ranking, trials=trials, kept=kept, start=start, best=best, interrupted=interrupted)


class _PlanEvaluation:
    """Makes plans, recovers their networks quickly and measures them."""

    def __init__(self, weights: NetworkWeights, selection: Selection, samples: Samples, goal: Goal) -> None:
        if goal.budget is None:
            raise PlanError("plans are improved within a budget, and none was given")
        self._selection, self._budget, self._recover = selection, goal.budget, goal.recover
        paths = samples.fit.paths
        fitted = min(FIT, (len(paths) + 1) // 2)
        self._fit = samples.fit.first(fitted)
        measured: Sample = replace(samples.fit, paths=paths[fitted : fitted + MEASURE] or paths)
        original = load_network(weights)
        self._distance = OutputDistance(run_of(original), weights.graph, measured)
        self._positions = measure_effects(original, self._fit).positions if goal.recover == "lsq" else None
        self._known: dict[bytes, float] = {}

    def distance(self, ranking: Ranking) -> float:
        """Measures the plan of a ranking; infinite where there is none within the budget."""
        try:
            surgery = decide(ranking, within_budget(ranking, self._selection, self._budget))
        except PlanError:
            if not self._known:  # the first one has to exist
                raise
            return math.inf
        key = np.packbits(surgery.cut.keep).tobytes()
        if key not in self._known:
            self._known[key] = self._measured(surgery)
        return self._known[key]

    @reporting(silent)
    def _measured(self, surgery: Surgery) -> float:
        networks = cut_and_align(surgery)
        if self._recover in ("lsq", "scale"):
            refit(networks, self._fit, self._positions, RefitSettings(scales=self._recover == "scale"))
        elif self._recover == "bn":
            reestimate(networks.slim, self._fit)
        return self._distance.of(run_of(networks.slim))


def _moves(ranking: Ranking, random: np.random.Generator) -> Iterator[tuple[float, Indices]]:
    """Yields (factor, members to multiply): all groups, then all coupled sets, with smaller and smaller steps."""
    members = ranking.members
    atom_of = np.full(ranking.channels.count, -1)
    for number, atom in enumerate(ranking.channels.atoms):
        atom_of[atom] = number
    levels = [_divided(np.where(members.pool < 0, -1, members.pool // len(FAMILIES))), _divided(atom_of[members.label])]
    step = FIRST_STEP
    while step >= LAST_STEP:
        for parts in levels:
            if len(parts) > 1:
                for number in random.permutation(len(parts)).tolist():
                    yield step, parts[number]
        step = step**0.5


def _divided(number_of: Indices) -> list[Indices]:
    return [np.flatnonzero(number_of == number) for number in np.unique(number_of[number_of >= 0])]


def _scaled(ranking: Ranking, part: Indices, factor: float) -> Ranking:
    score: Floats = ranking.members.score.copy()
    score[part] *= factor
    return replace(ranking, members=replace(ranking.members, score=score))
