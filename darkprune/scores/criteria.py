"""The criteria that score channels on images, by their names."""

from __future__ import annotations

from collections.abc import Callable

from darkprune.data.samples import Samples
from darkprune.graph.channels import ChannelMap
from darkprune.graph.weights import TensorSource
from darkprune.scores.sensitivity import IMAGES, ClassPrice, class_macs, score_by_effect
from darkprune.scores.surgeon import score_by_surgeon
from darkprune.scores.thinet import score_by_reconstruction
from darkprune.selection.importance import ImageScores


def scorer(
    criterion: str,
    samples: Samples,
    recover: str = "none",
    price: ClassPrice = class_macs,
) -> Callable[[TensorSource, ChannelMap], ImageScores]:
    """Returns a function that scores the channels of a network.

    Args:
        criterion: of `IMAGE_CRITERIA`; `sensitivity` is `surgeon` where a refit follows, else `first-order`.
        price: what effects are divided by; ThiNet has no use for it.
    """
    sample = samples.fit.first(IMAGES)
    if criterion == "thinet":
        return lambda weights, channels: score_by_reconstruction(weights, channels, sample)
    score = score_by_effect
    if criterion == "surgeon" or (criterion == "sensitivity" and recover == "lsq"):
        score = score_by_surgeon
    return lambda weights, channels: score(weights, channels, sample, price)
