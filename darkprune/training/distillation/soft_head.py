"""Soft targets of a detection head: what a student compares with its teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.layers.base import Kind
from darkprune.layers.heads import GaussianYolo, Region, Yolo
from darkprune.training.losses import Truths
from darkprune.training.losses.truths import Assignment, match

SURE = 0.25  #: without labels, boxes count where the teacher's objectness is above this


def class_loss(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Returns the divergence Σ M·(log M − N) of each prior: (…, scores) -> (…)."""
    wanted = functional.log_softmax(teacher / temperature, dim=-1)
    found = functional.log_softmax(student / temperature, dim=-1)
    return (wanted.exp() * (wanted - found)).sum(dim=-1)


class SoftHead:
    """The soft targets of one head."""

    def __init__(self, kind: Kind) -> None:
        """Takes the head as the teacher has it.

        Raises:
            TrainingError: a kind without soft targets.
        """
        if isinstance(kind, Yolo | GaussianYolo):
            self.anchors, self.mask = kind.all_anchors, kind.mask
        elif isinstance(kind, Region):
            self.anchors, self.mask = kind.anchors, tuple(range(kind.num))
        else:
            raise TrainingError(f"[{kind.names[0]}] has no soft targets")
        self.first, self.box = kind.layout.objectness, kind.layout.box
        self.activated = isinstance(kind, Yolo) and kind.new_coords
        self.stretch = 1.0 if isinstance(kind, Region) else kind.scale_x_y
        self.in_cells = isinstance(kind, Region)
        self.one_class = isinstance(kind, Region)  #: class scores go through a softmax

    def cells(self, raw: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, anchors, h, w, values)."""
        images, _, rows, columns = raw.shape
        return raw.float().reshape(images, len(self.mask), -1, rows, columns).movedim(2, -1)

    def scores(self, cells: Tensor, with_objectness: bool) -> Tensor:
        """Returns the raw class scores, with the objectness before them where asked for."""
        scores = cells[..., self.first + (0 if with_objectness else 1) :]
        return torch.logit(scores, eps=1e-6) if self.activated else scores

    def boxes(self, cells: Tensor, place: tuple[Tensor, ...], grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Decodes chosen predictions to boxes in cells, relative to their own: (n, 4)."""
        values = cells[place][:, list(self.box)]
        used = values.new_tensor([self.anchors[number] for number in self.mask])[place[1]]
        anchors = used if self.in_cells else used * values.new_tensor(grid) / values.new_tensor(size)
        offset = values[:, :2] if self.activated else values[:, :2].sigmoid()
        offset = offset * self.stretch - 0.5 * (self.stretch - 1)
        grown = 4 * values[:, 2:].square() if self.activated else values[:, 2:].exp()
        return torch.cat([offset, grown * anchors], dim=1)

    def priors(
        self, teacher: Tensor, truths: Truths | None, threshold: float, grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """Returns image, anchor, row and column of the predictions whose boxes are compared."""
        if truths is None:
            objectness = teacher[..., self.first]
            sure = (objectness if self.activated else objectness.sigmoid()) > SURE
            return sure.nonzero(as_tuple=True)
        pixels = (size[0] / grid[0], size[1] / grid[1]) if self.in_cells else (1.0, 1.0)
        anchors = [(w * pixels[0], h * pixels[1]) for w, h in self.anchors]
        rule = Assignment(anchors, self.mask, threshold, best_always=False)
        found = match(truths, rule, grid, size).to(teacher.device)
        return found.image, found.anchor, found.row, found.column

    def scaled_by_objectness(self, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        """Compares all predictions, classes and boxes as far as the teacher sees an object there.

        The gradient by a raw score is the student's probability − the teacher's: darknet's own delta, with soft truth.

        Args:
            teacher, student: (b, anchors, h, w, values) of `cells`.

        Returns:
            Divergence of objectness and class probabilities, and squared distance of boxes (offsets in cells,
            logarithms of sides), both summed.
        """
        theirs, ours = self.scores(teacher, True), self.scores(student, True)
        objectness = theirs[..., 0].sigmoid()
        if self.one_class:
            classes = class_loss(theirs[..., 1:], ours[..., 1:], 1.0)
        else:
            classes = _divergence(theirs[..., 1:], ours[..., 1:]).sum(dim=-1)
        scores = _divergence(theirs[..., 0], ours[..., 0]) + objectness * classes
        apart = (self._shape(teacher) - self._shape(student)).square().sum(dim=-1)
        return scores.sum(), (objectness * apart).sum()

    def _shape(self, cells: Tensor) -> Tensor:
        """Returns offsets in cells, and logarithms of the sides relative to the anchor: (…, 4)."""
        values = cells[..., list(self.box)]
        offset = values[..., :2] if self.activated else values[..., :2].sigmoid()
        sides = values[..., 2:]
        return torch.cat([offset * self.stretch, 2 * sides.clamp_min(1e-3).log() if self.activated else sides], dim=-1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the divergence of two yes-or-no probabilities, given before the logistic function."""
    wanted = teacher.sigmoid()
    return functional.binary_cross_entropy_with_logits(
        student, wanted, reduction="none"
    ) - functional.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
