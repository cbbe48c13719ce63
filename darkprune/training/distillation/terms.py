"""Which terms the loss of a distillation has, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from darkprune.training.settings import DistillPreset, DistillSettings, given


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """How student and teacher are compared.

    Attributes:
        maps: `attention`: where maps are active, the squared distance of unit vectors over the positions (Chu et al.
            2023, eq. 5); `attention-mean`: its mean over the positions (the authors' program); `features`: the maps
            themselves, channel by channel, each normalised to mean 0 and variance 1 (Cao et al. 2022).
        maps_weight: factor on the term of the maps.
        balanced: scale the term of the maps so that it begins as large as the loss against labels; without labels, as
            the soft targets; `maps_weight` comes on top.
        classes: `scores`: divergence of the class scores, mean over the priors of a scale, summed over scales;
            `all`: of objectness and class scores together, summed over priors, times T² (the authors' program);
            `objectness`: of objectness and, times the teacher's, of class probabilities, summed over priors.
        temperature: T of `scores` and `all`.
        class_weight: of the soft class scores.
        box_weight: of the soft boxes.
        boxes: whether boxes are measured in parts of the input, or in cells (the authors' program); not used by
            `objectness`.
        box_threshold: priors whose shape overlaps an object more than this take part in the box term.
        box_batch: multiply the box term by the images of a part: the authors' program does not divide it by them.
        hard_weight: of the loss against labels; 0 leaves it out, as for images without labels.
    """

    maps: Literal["attention", "attention-mean", "features"] = "attention"
    maps_weight: float = 1.0
    balanced: bool = False
    classes: Literal["scores", "all", "objectness"] = "scores"
    temperature: float = 3.0
    class_weight: float = 1.0
    box_weight: float = 1.0
    boxes: Literal["input", "cells"] = "input"
    box_threshold: float = 0.2
    box_batch: bool = False
    hard_weight: float = 1.0


PRESETS: Mapping[DistillPreset, LossTerms] = {
    "paper": LossTerms(balanced=True),
    "paper-literal": LossTerms(),
    "chu2022": LossTerms(
        maps="attention-mean", classes="all", class_weight=0.001, box_weight=0.001, boxes="cells", box_batch=True
    ),
    "objectness": LossTerms(classes="objectness"),
    "features": LossTerms(maps="features", balanced=True, classes="objectness"),
}


def terms_of(settings: DistillSettings) -> LossTerms:
    """Returns a preset with what the user sets instead."""
    names = ("temperature", "class_weight", "box_weight", "box_threshold", "hard_weight")
    return replace(PRESETS[settings.preset], maps_weight=settings.attention_weight, **given(settings, *names))
