"""The loss of a [Gaussian_yolo] head (`gaussian_yolo_layer.c`): boxes with a spread for each coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from darkprune.layers.heads import AnchorLayout, GaussianYolo
from darkprune.training.losses.base import DetectionLoss, plain_parts
from darkprune.training.losses.boxes import best_iou, overlap, overlap_gradient
from darkprune.training.losses.settings import LIKELY, HeadSettings, limited
from darkprune.training.losses.truths import Assignment, Matches, Truths, match

_LAYOUT = AnchorLayout.of("Gaussian_yolo", 0)
BOX, SPREAD, OBJECTNESS = _LAYOUT.box, _LAYOUT.spread, _LAYOUT.objectness
SIGMA = 0.3  #: darknet adds this to a spread in the density's normalisation
TINY = 1e-9
#: yolo_point -> which corner of the box x and y mark, as a share of its size from the centre
POINTS = {"left_top": -0.5, "right_bottom": 0.5}


@dataclass(frozen=True)
class GaussianSettings(HeadSettings):
    """The training keys of a [Gaussian_yolo] head."""

    uc_normalizer: float = 1.0


@dataclass(frozen=True, eq=False)
class _Predictions:
    """A list of predictions, all cells of a batch or some of them.

    Attributes:
        values: (n, 9 + classes) darknet's `output`.
        boxes: (n, 4).
        corner: (n, 2) column and row.
        anchor: (n,) position in the mask.
        grid: columns and rows.
        size: width and height of the network's input, in pixels.
    """

    values: Tensor
    boxes: Tensor
    corner: Tensor
    anchor: Tensor
    grid: tuple[int, int]
    size: tuple[int, int]

    def at(self, cells: Tensor) -> _Predictions:
        return _Predictions(
            self.values[cells], self.boxes[cells], self.corner[cells], self.anchor[cells], self.grid, self.size
        )


class GaussianLoss(DetectionLoss):
    """Computes a [Gaussian_yolo] head's deltas."""

    def __init__(self, kind: GaussianYolo, settings: GaussianSettings) -> None:
        self.kind = kind
        self.settings = settings
        self.classes = kind.classes
        self.limit = settings.max
        self.scale = settings.delta_normalizer
        self.shift = POINTS.get(kind.yolo_point, 0.0)
        self.assignment = Assignment(
            kind.all_anchors, kind.mask, settings.iou_thresh, settings.iou_thresh_kind, self.shift
        )

    def deltas(self, raw: Tensor, truths: Truths, size: tuple[int, int], seen: int) -> tuple[Tensor, Tensor]:
        """See `DetectionLoss.deltas`."""
        images, _, rows, columns = raw.shape
        anchors, features = len(self.kind.mask), self.kind.layout.size
        matches = match(truths, self.assignment, (columns, rows), size).to(raw.device)
        objects = truths.to(raw.device)
        every = self._predictions(raw, (images, anchors, rows, columns), size)
        delta = torch.zeros_like(every.values)
        self._background(every, objects, delta)
        at = ((matches.image * anchors + matches.anchor) * rows + matches.row) * columns + matches.column
        overlaps = self._matched(every, objects, matches, at, delta)
        held = (delta[:, 9:] > 0).sum(dim=1, keepdim=True)
        delta[:, :OBJECTNESS] /= held.clamp(min=1)
        shaped = delta.reshape(images, anchors, rows, columns, features).movedim(-1, 2)
        parts = plain_parts(delta[:, :OBJECTNESS], delta[:, OBJECTNESS], delta[:, 9:], overlaps)
        return shaped.reshape(raw.shape), parts

    def _predictions(self, raw: Tensor, shape: tuple[int, int, int, int], size: tuple[int, int]) -> _Predictions:
        """Activates and decodes all cells of (images, anchors, rows, columns)."""
        cells = raw.reshape(*shape[:2], -1, *shape[2:]).movedim(2, -1).flatten(0, 3)
        values = cells.sigmoid()
        values[:, [4, 6]] = cells[:, [4, 6]]
        stretch = self.kind.scale_x_y
        values[:, [0, 2]] = values[:, [0, 2]] * stretch - 0.5 * (stretch - 1)
        corner, anchor = _places(shape, raw.device)
        grid = (shape[3], shape[2])
        sides = values[:, [4, 6]].double().exp() * values.new_tensor(self.kind.anchors)[anchor]
        sides = (sides / sides.new_tensor(size)).float()
        point = (corner + values[:, [0, 2]]) / values.new_tensor(grid)
        boxes = torch.cat([point - self.shift * sides if self.shift else point, sides], dim=1)
        return _Predictions(values, boxes, corner, anchor, grid, size)

    def _background(self, every: _Predictions, truths: Truths, delta: Tensor) -> None:
        """Writes what every cell has to learn before any object is assigned, and `truth_thresh`'s objects."""
        keys = self.settings
        images, values = len(truths), every.values
        fit, which = (found.flatten() for found in best_iou(every.boxes.reshape(images, -1, 4), truths.boxes))
        objectness = values[:, OBJECTNESS]
        ignored = (values[:, 9:] > LIKELY).any(dim=1) & (fit > keys.ignore_thresh)
        target = torch.where(ignored, fit.square(), fit.new_zeros(()))
        wanted = keys.obj_normalizer * (target - objectness)
        if not keys.objectness_smooth:
            wanted = torch.where(ignored, wanted.new_zeros(()), wanted)
        delta[:, OBJECTNESS] = wanted
        image = torch.arange(images, device=values.device).repeat_interleave(len(values) // max(1, images))
        if keys.objectness_smooth:
            cells = ignored.nonzero(as_tuple=True)[0]
            classes = truths.classes[image[cells], which[cells]]
            delta[cells, 9:] = self._class_deltas(values[cells, 9:], delta[cells, 9:], classes)
        if keys.truth_thresh >= 1:
            return
        cells = (fit > keys.truth_thresh).nonzero(as_tuple=True)[0]
        classes = truths.classes[image[cells], which[cells]]
        weight = self.settings.weight_of(classes, values)
        square = fit[cells].square()
        target = square if keys.objectness_smooth else torch.ones_like(square)
        delta[cells, OBJECTNESS] = keys.obj_normalizer * (target - objectness[cells])
        delta[cells, 9:] = self._class_deltas(values[cells, 9:], delta[cells, 9:], classes)
        if keys.objectness_smooth:
            delta[cells, 9 + classes] = weight * (square - values[cells, 9 + classes])
        delta[cells, :OBJECTNESS] += self._box_deltas(every.at(cells), truths.boxes[image[cells], which[cells]], weight)

    def _matched(self, every: _Predictions, truths: Truths, matches: Matches, at: Tensor, delta: Tensor) -> Tensor:
        """Adds what the assigned predictions have to learn; returns their overlaps (n,)."""
        keys = self.settings
        truth = truths.boxes[matches.image, matches.truth]
        classes = truths.classes[matches.image, matches.truth]
        weight = self.settings.weight_of(classes, every.values)
        found = every.at(at)
        wanted = self._box_deltas(found, truth, weight)
        delta[:, :OBJECTNESS] = delta[:, :OBJECTNESS].index_add(0, at, wanted)
        start = 0
        for end in matches.turns:
            cells, values = at[start:end], found.values[start:end]
            delta[cells, OBJECTNESS] = weight[start:end] * keys.obj_normalizer * (1 - values[:, OBJECTNESS])
            delta[cells, 9:] = self._class_deltas(values[:, 9:], delta[cells, 9:], classes[start:end])
            start = end
        return overlap(found.boxes, truth, "iou" if keys.iou_loss == "mse" else "giou")

    def _box_deltas(self, found: _Predictions, truth: Tensor, weight: Tensor) -> Tensor:
        """Computes (n, 8) deltas of coordinates and spreads.

        The coordinates take the density's derivative, or that of the overlap where `iou_loss` is not mse; the spreads
        always take the density's.
        """
        keys = self.settings
        values, pred = found.values, found.boxes
        point = truth[:, :2] + self.shift * truth[:, 2:] if self.shift else truth[:, :2]
        ratio = truth[:, 2:] * truth.new_tensor(found.size) / truth.new_tensor(self.kind.anchors)[found.anchor]
        target = torch.cat([point * truth.new_tensor(found.grid) - found.corner, ratio.log()], dim=1)
        spread = values[:, SPREAD]
        apart = (target - values[:, BOX]) / spread
        square = apart.double().square()
        density = (square * -0.5).exp() / (math.sqrt(2 * math.pi) * (spread + SIGMA).double())
        scale = (2 - truth[:, 2] * truth[:, 3])[:, None]
        certain = (0.5 / (density + TINY) * density * scale).float()
        by_spread = certain * (square.float() / spread - 1 / (spread + SIGMA)) * keys.uc_normalizer
        if keys.iou_loss == "mse":
            by_place = certain * apart / spread
        else:
            sides = torch.where(pred[:, 2:] == 0, pred.new_ones(()), pred[:, 2:])
            by_place = overlap_gradient(torch.cat([pred[:, :2], sides], dim=1), truth, keys.iou_loss)
            centre, grown = by_place[:, :2], by_place[:, 2:]
            centre = centre + self.shift * grown if self.shift else centre
            by_place = torch.cat([centre, grown * values[:, [4, 6]].exp()], dim=1)
        by_place = by_place * (keys.iou_normalizer * weight)[:, None]
        both = torch.stack([limited(by_place, keys.max_delta), limited(by_spread, keys.max_delta)], dim=2)
        return both.flatten(1)

    def _class_deltas(self, output: Tensor, now: Tensor, classes: Tensor) -> Tensor:
        """A cell counts as taken when the delta of class 0 is set."""
        return self.settings.class_deltas(output, now, classes, now[:, :1] != 0)


def _places(shape: tuple[int, int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns for every cell of (images, anchors, rows, columns), flattened, its (column, row) and its anchor."""
    images, anchors, rows, columns = shape
    anchor, row, column = torch.meshgrid(
        torch.arange(anchors, device=device),
        torch.arange(rows, device=device),
        torch.arange(columns, device=device),
        indexing="ij",
    )
    corner = torch.stack([column, row], dim=-1).reshape(-1, 2)
    return corner.repeat(images, 1), anchor.reshape(-1).repeat(images)
