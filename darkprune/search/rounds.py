"""`--rounds`: sensitivity in rounds of pruning a little, refitting and scoring anew.

One score of the unpruned network says what each channel does while all others are there; of two that do the same, both
look dispensable. So a part of the budget is removed, the rest refitted, and the channels that are left are scored anew.
The result is one plan of the original network: what an earlier round removed ranks below all that is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from darkprune.data.samples import Samples
from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap, map_channels
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.progress import reporting, silent, track
from darkprune.refit.recover import cut_and_align
from darkprune.refit.refit import refit
from darkprune.scores.sensitivity import IMAGES, effect_per_price, image_scores, mean_outputs, score_by_effect
from darkprune.search.goal import Goal
from darkprune.selection.budget import Budget
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.selection.filter_moments import MomentsFrom, filter_moments
from darkprune.selection.importance import ImageScores, LayerScores
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.surgery.apply import Cut


def rank_in_rounds(
    weights: NetworkWeights,
    selection: Selection,
    samples: Samples,
    goal: Goal,
    moments: MomentsFrom = filter_moments,
) -> Ranking:
    """Ranks channels for a budget.

    Args:
        selection: criterion `sensitivity`; everything else as for one round.
        goal: budget and number of rounds; channels are scored for the last time at (rounds − 1)/rounds of the budget.

    Returns:
        A ranking that `within_budget` and `decide` take.

    Raises:
        PlanError: the network's outputs are not finite numbers; there is no budget.
    """
    budget, rounds = goal.budget, goal.rounds
    if budget is None:
        raise PlanError("channels are scored in rounds on the way to a budget, and none was given")
    sample = samples.fit.first(IMAGES)
    first: list[ImageScores] = []
    step = track("scoring in rounds", rounds, "round")

    @reporting(silent)
    def score(pair: TensorSource, channels: ChannelMap) -> ImageScores:
        first.append(score_by_effect(pair, channels, sample))
        return first[0]

    ranking = rank(weights, selection, by_images=score, moments=moments)
    step()
    whole = budget.of(totals(weights.graph))
    gone: dict[int, np.ndarray] = {}  # producing layer -> round in which each channel was removed; 0: not yet
    for number in range(1, rounds):
        left = Budget(budget.kind, whole - (whole - budget.target) * number / rounds)
        try:
            surgery = decide(ranking, within_budget(ranking, selection, left))
        except PlanError:  # only the last budget has to be met: a step between that does not exist is left out
            step()
            continue
        with reporting(silent):
            networks = cut_and_align(surgery)
            refit(networks, sample)
            channels, means = map_channels(networks.slim.graph), mean_outputs(networks.slim, sample)
            now = image_scores(channels, effect_per_price(networks.slim, channels, sample, means), means).scores
        scores = _merged(first[0].scores, now, surgery.cut, gone, number, rounds)
        made = ImageScores(scores, first[0].measured)
        ranking = rank(weights, selection, by_images=lambda *_, made=made: made, moments=moments)
        step()
    return ranking


def _merged(
    before: Mapping[int, LayerScores],
    now: Mapping[int, LayerScores],
    cut: Cut,
    gone: dict[int, np.ndarray],
    number: int,
    rounds: int,
) -> dict[int, LayerScores]:
    """Returns scores of all channels: new ones where they are left; below 0 where they are gone, early ones lowest."""
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
