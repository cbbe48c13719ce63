"""Sensitivity in rounds: prune a little, refit, look again (METHODS §7, "search on top of it").

One score of the unpruned network says what each channel does while all others are there; of two that do the same, both
look dispensable. So a part of the budget is taken, the rest refitted, and what is left scored anew as it stands then.
The plan that comes out is one plan of the original network: what an earlier round took ranks below all that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap, map_channels
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.network.samples import Samples
from darkprune.refit.recover import cut_and_pair
from darkprune.refit.refit import refit
from darkprune.scores.sensitivity import IMAGES, score_by_effect, score_network
from darkprune.selection.budget import Budget
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.selection.filter_moments import MomentsFrom, filter_moments
from darkprune.selection.importance import ImageScores, LayerScores
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.surgery.apply import Cut


def rank_in_rounds(
    weights: NetworkWeights,
    settings: Selection,
    budget: Budget,
    samples: Samples,
    rounds: int,
    progress: Callable[[], object] = lambda: None,
    moments: MomentsFrom = filter_moments,
) -> Ranking:
    """Ranks channels for a budget.

    Args:
        weights: the original pair.
        settings: criterion `sensitivity`; everything else as for one round.
        budget: what shall remain.
        samples: unlabelled images.
        rounds: how often channels are scored; the last scores are made at (rounds − 1)/rounds of the way.
        progress: called after each round.
        moments: what similarity starts from.

    Returns:
        A ranking that `within_budget` and `decide` take.

    Raises:
        PlanError: the network's outputs are not finite numbers.
    """
    sample = samples.fit.first(IMAGES)
    first: list[ImageScores] = []

    def score(pair: NetworkWeights, channels: ChannelMap) -> ImageScores:
        first.append(score_by_effect(pair, channels, sample))
        return first[0]

    ranking = rank(weights, settings, by_images=score, moments=moments)
    progress()
    whole = budget.of(totals(weights.graph))
    gone: dict[int, np.ndarray] = {}  # producing layer -> in which round each channel went; 0: not yet
    for number in range(1, rounds):
        left = Budget(budget.kind, whole - (whole - budget.target) * number / rounds)
        try:
            decision = decide(ranking, within_budget(ranking, settings, left))
        except PlanError:  # only the last budget has to be met: a step between that does not exist is left out
            progress()
            continue
        pair = cut_and_pair(decision, samples.fit.device)
        refit(pair, sample)
        now = score_network(pair.slim, map_channels(pair.slim.graph), sample)
        scores = _merged(first[0].scores, now, decision.cut, gone, number, rounds)
        made = ImageScores(scores, first[0].measured)
        ranking = rank(weights, settings, by_images=lambda *_, made=made: made, moments=moments)
        progress()
    return ranking


def _merged(
    before: Mapping[int, LayerScores],
    now: Mapping[int, LayerScores],
    cut: Cut,
    gone: dict[int, np.ndarray],
    number: int,
    rounds: int,
) -> dict[int, LayerScores]:
    """Returns scores of all channels: of what is left the new ones; of what went, below 0, the earlier the lower."""
    merged = {}
    for index, scores in before.items():
        kept = cut.kept(cut.channels.of_layer[index])
        when = gone.setdefault(index, np.zeros(len(scores.values), np.intp))
        lost = np.ones(len(scores.values), bool)
        lost[kept] = False
        when[lost & (when == 0)] = number
        values = np.where(when > 0, when - float(rounds), scores.values)
        if index in now:
            values[kept] = now[index].values
        merged[index] = replace(scores, values=values)
    return merged
