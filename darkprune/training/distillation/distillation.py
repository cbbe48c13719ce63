"""Learning from the unpruned network: group spatial attention and soft targets (METHODS §3).

    L_total = L_AT + L_soft + L_hard

L_AT compares *where* teacher and student look: F(A) = Σ_c |A_c|², as a vector over the positions, divided by its norm.
The number of channels does not enter, so that maps fit whatever was pruned. L_soft draws the student's class scores
and boxes to the teacher's. L_hard is the ordinary loss against labels; images without labels go without.

Three presets. `paper` and `chu2022` have the published terms and weights; those belong to a program whose L_hard is a
mean over cells and objects. darknet's is a sum, and the paper's soft targets say nothing of objectness, so that without
labels nothing teaches it. In `objectness`, the default, every prediction takes part, classes and boxes as far as the
teacher sees an object, and L_AT has a hundredth of the paper's weight, which goes with sums.

Sources: Chu et al., arXiv 2306.01526, and the authors' program; Mehta and Ozturk, *Object detection at 200 frames per
second*, arXiv 1805.06361 (scaling by objectness).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.heads import Head
from darkprune.network import Network, NetworkOutput
from darkprune.training.data.batches import Batch
from darkprune.training.distillation.soft_head import SoftHead, class_loss
from darkprune.training.distillation.taps import Tap
from darkprune.training.loop.objective import DetectionObjective, Loss, Objective
from darkprune.training.settings import DistillSettings

_TINY = 1e-12


@dataclass(frozen=True)
class DistillationSettings:
    """How to compare.

    Attributes:
        attention: `norm`: squared distance of the unit vectors ([GCP] eq. 5); `mean`: its mean over positions, of
            attention by mean instead of sum over channels (the authors' program; the unit vectors are the same).
        classes: `scores`: divergence of the class scores, mean over the priors of a scale, summed over scales;
            `all`: of objectness and class scores together, summed over priors, times T² (the authors' program);
            `objectness`: of objectness and, times the teacher's, of class probabilities, summed over priors.
        temperature: T.
        class_weight, box_weight: of the two parts of L_soft.
        boxes: whether boxes are measured in parts of the input, or in cells (the authors' program); not used by
            `objectness`.
        box_threshold: priors whose shape overlaps an object more than this take part in the box term.
        box_batch: multiply the box term by the images of a part: the authors' program does not divide it by them.
        hard_weight: of L_hard; 0 leaves it out, as for images without labels.
    """

    attention: Literal["norm", "mean"] = "norm"
    classes: Literal["scores", "all", "objectness"] = "scores"
    temperature: float = 3.0
    class_weight: float = 1.0
    box_weight: float = 1.0
    boxes: Literal["input", "cells"] = "input"
    box_threshold: float = 0.2
    box_batch: bool = False
    hard_weight: float = 1.0


PRESETS = {
    "paper": DistillationSettings(),
    "chu2022": DistillationSettings(
        attention="mean", classes="all", class_weight=0.001, box_weight=0.001, boxes="cells", box_batch=True
    ),
    "objectness": DistillationSettings(classes="objectness"),
}


def settings_of(settings: DistillSettings) -> DistillationSettings:
    """Returns a preset with what the user sets instead."""
    names = ("temperature", "class_weight", "box_weight", "box_threshold", "hard_weight")
    given = {name: value for name in names if (value := getattr(settings, name)) is not None}
    return replace(PRESETS[settings.preset], **given)


def attention(features: Tensor) -> Tensor:
    """Returns where a map is active: Σ_c |A_c|² over the positions, of norm 1; (b, c, h, w) -> (b, h·w)."""
    where = features.float().square().sum(dim=1).flatten(1)
    return functional.normalize(where, dim=1, eps=_TINY)


def attention_loss(teacher: Tensor, student: Tensor, how: str) -> Tensor:
    """Compares two maps (b, c, h, w); summed over the images."""
    apart = (attention(teacher) - attention(student)).square()
    return apart.sum() if how == "norm" else apart.mean(dim=1).sum()


class DistillationObjective(Objective):
    """L_AT + L_soft + L_hard."""

    def __init__(
        self,
        student: Graph,
        teacher: Network,
        taps: Sequence[Tap],
        settings: DistillationSettings,
        hard: DetectionObjective | None,
    ) -> None:
        """Prepares.

        Args:
            student: the network that learns.
            teacher: the network that it learns from, with its weights, on the device; is put into inference.
            taps: the maps that are compared.
            settings: how.
            hard: the loss against labels; None where there are none.

        Raises:
            TrainingError: the heads of the two networks differ.
        """
        self.teacher = teacher.eval().requires_grad_(False)
        self.pairs = tuple(taps)
        self.settings = settings
        self.hard = hard if settings.hard_weight else None
        self.labelled = hard is not None
        self.taps = frozenset(tap.student for tap in taps)
        self.heads = _pair_heads(teacher.graph, student)
        own = ("loss", "attention", "soft_class", "soft_box")
        self.columns = own if self.hard is None else (*own, "hard", *self.hard.columns[1:])

    def compute(self, images: Tensor, output: NetworkOutput, batch: Batch, seen: int) -> Loss:
        """See `Objective.compute`."""
        set_ = self.settings
        with torch.no_grad():
            wanted = self.teacher(images, {tap.teacher for tap in self.pairs})
        zero = images.new_zeros(())
        seen_apart = [
            tap.weight * attention_loss(wanted.taps[tap.teacher], output.taps[tap.student], set_.attention)
            for tap in self.pairs
        ]
        attention_part = torch.stack(seen_apart).sum() if seen_apart else zero
        class_part, box_part = zero, zero
        for head, (theirs, ours) in self.heads:
            classes, boxes = self._soft(head, wanted.heads[theirs], output.heads[ours], batch)
            class_part, box_part = class_part + classes, box_part + boxes
        class_part, box_part = class_part * set_.class_weight, box_part * set_.box_weight
        value = attention_part + class_part + box_part
        parts = [attention_part.detach(), class_part.detach(), box_part.detach()]
        if self.hard is None:
            return Loss(value, torch.stack([value.detach(), *parts]))
        hard = self.hard.compute(images, output, batch, seen)
        value = value + set_.hard_weight * hard.value
        return Loss(value, torch.cat([torch.stack([value.detach(), *parts]), hard.parts]))

    def report(self, sums: list[float], images: int) -> dict[str, float]:
        """See `Objective.report`."""
        found = dict(zip(("loss", "attention", "soft_class", "soft_box"), (s / images for s in sums[:4]), strict=True))
        if self.hard is not None:
            hard = self.hard.report(sums[4:], images)
            found["hard"] = hard.pop("loss")
            found.update(hard)
        return found

    def _soft(self, head: SoftHead, teacher: Tensor, student: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Computes the class and the box part of one head, summed over the images."""
        set_ = self.settings
        theirs, ours = head.cells(teacher), head.cells(student)
        if set_.classes == "objectness":
            return head.scaled_by_objectness(theirs, ours)
        with_objectness = set_.classes == "all"
        apart = class_loss(
            head.scores(theirs, with_objectness), head.scores(ours, with_objectness), set_.temperature
        ).flatten(1)
        classes = apart.sum() * set_.temperature**2 if with_objectness else apart.mean(dim=1).sum()
        grid = (teacher.shape[3], teacher.shape[2])
        place = head.priors(theirs, batch.truths if self.labelled else None, set_.box_threshold, grid, batch.size)
        apart = head.boxes(theirs, place, grid, batch.size) - head.boxes(ours, place, grid, batch.size)
        if set_.boxes == "input":
            apart = apart / apart.new_tensor((*grid, *grid))
        boxes = apart.square().sum()
        return classes, boxes * len(batch.truths) if set_.box_batch else boxes


def _pair_heads(teacher: Graph, student: Graph) -> tuple[tuple[SoftHead, tuple[int, int]], ...]:
    """Pairs the heads of the two networks in order."""
    theirs, ours = teacher.heads, student.heads
    if [_shape_of(layer) for layer in theirs] != [_shape_of(layer) for layer in ours]:
        raise TrainingError(
            f"{teacher.cfg.source} and {student.cfg.source} have different heads (classes, anchors or number): "
            "a student can only learn from the network that it was cut from"
        )
    return tuple((SoftHead(a.kind), (a.index, b.index)) for a, b in zip(theirs, ours, strict=True))


def _shape_of(layer: Layer) -> tuple[object, ...]:
    """Returns what two heads must have in common."""
    kind = layer.kind
    assert isinstance(kind, Head)
    return type(kind), kind.classes, kind.anchors, layer.output.h, layer.output.w
