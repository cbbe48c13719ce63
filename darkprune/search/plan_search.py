"""`--search-minutes`: a plan improved against the output distance, by moving the budget between groups and layers.

A score that compares channels over a whole network leaves out what is not local: what the refit of later layers makes
up for, what adds up along a stream. So the scores of a part of the network are multiplied by a factor, the plan is made
anew for the same budget, and what lowers the output distance after a quick recovery is kept. Parts are the groups
first, then the sets of coupled layers. No labels are needed, and the images of the final distance are not looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.base import Floats, Indices
from darkprune.network.loading import load_network
from darkprune.network.output_distance import Reference
from darkprune.network.samples import Sample, Samples
from darkprune.refit.batch_norm import reestimate
from darkprune.refit.effects import measure_effects
from darkprune.refit.recover import cut_and_pair
from darkprune.refit.refit import refit
from darkprune.selection.budget import Budget
from darkprune.selection.decide import Ranking, decide
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.selection.voting import FAMILIES
from darkprune.surgery.surgery import Surgery

FIT = 32  #: images that a trial is recovered on
MEASURE = 64  #: images that it is measured on, apart from those
FIRST_STEP = 2.0  #: factor of a part's scores at first
LAST_STEP = 1.1  #: below it nothing is tried any more


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        ranking: gives the best plan.
        trials: plans that were tried.
        kept: how many of them were better than all before.
        start, best: output distance after the quick recovery, at first and at last.
        interrupted: whether the user stopped it.
    """

    ranking: Ranking
    trials: int
    kept: int
    start: float
    best: float
    interrupted: bool

    def to_json(self) -> dict[str, Any]:
        """Returns what a report holds."""
        numbers = {name: getattr(self, name) for name in ("trials", "kept", "start", "best", "interrupted")}
        return {name: None if value == float("inf") else value for name, value in numbers.items()}


def improve(
    weights: NetworkWeights,
    settings: Selection,
    ranking: Ranking,
    budget: Budget,
    samples: Samples,
    how: str,
    *,
    seconds: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[float], object] = lambda share: None,
) -> Found:
    """Searches until the time is up, nothing more is found, or Ctrl-C; the best so far counts.

    Args:
        weights: the original pair.
        settings: allocation `global`.
        ranking: where to start.
        budget: what shall remain, of every plan that is tried.
        samples: unlabelled images; only those to fit on are looked at.
        how: the recovery that will follow.
        seconds: how long; a trial that has begun is ended.
        seed: of the order of trials: with the same time per trial the same plan is found.
        clock: tells the time.
        progress: called after each trial with the share of the time that is gone.

    Raises:
        PlanError: the budget cannot be met.
    """
    begun = clock()
    trial = _Trial(weights, settings, budget, samples, how)
    best = start = trial.distance(ranking)
    trials, kept, interrupted = 1, 0, False
    random = np.random.default_rng(seed)
    try:
        for step, part in _moves(ranking, random):
            factor, improved = step, False
            for _ in range(2):  # dearer, and if that is worse cheaper; as long as it helps
                while clock() - begun < seconds:
                    candidate = _scaled(ranking, part, factor)
                    distance = trial.distance(candidate)
                    trials += 1
                    progress(min(1.0, (clock() - begun) / seconds))
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
    return Found(ranking, trials, kept, start, best, interrupted)


class _Trial:
    """Makes plans, recovers their networks quickly and measures them."""

    def __init__(
        self, weights: NetworkWeights, settings: Selection, budget: Budget, samples: Samples, how: str
    ) -> None:
        self._weights, self._settings, self._budget, self._how = weights, settings, budget, how
        paths = samples.fit.paths
        behind = min(FIT, (len(paths) + 1) // 2)
        self._fit = samples.fit.first(behind)
        self._measure: Sample = replace(samples.fit, paths=paths[behind : behind + MEASURE] or paths)
        original = load_network(weights.graph, weights, samples.fit.device)
        self._reference = Reference(original, self._measure)
        self._places = measure_effects(original, self._fit).places if how == "lsq" else None
        self._known: dict[bytes, float] = {}

    def distance(self, ranking: Ranking) -> float:
        """Measures the plan that a ranking gives; infinite where there is none within the budget."""
        try:
            decision = decide(ranking, within_budget(ranking, self._settings, self._budget))
        except PlanError:
            if not self._known:  # the first one has to exist
                raise
            return float("inf")
        key = np.packbits(decision.cut.keep).tobytes()
        if key not in self._known:
            self._known[key] = self._measured(decision)
        return self._known[key]

    def _measured(self, decision: Surgery) -> float:
        pair = cut_and_pair(decision, self._fit.device)
        if self._how in ("lsq", "scale"):
            refit(pair, self._fit, self._places, scales=self._how == "scale")
        elif self._how == "bn":
            reestimate(pair.slim, self._fit)
        return self._reference.distance(pair.slim)


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
