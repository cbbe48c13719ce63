"""The loss of a [yolo] head (`process_batch`, `delta_yolo_box`, `delta_yolo_class` in `yolo_layer.c`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from darkprune.layers.heads import Yolo
from darkprune.training.losses.base import DetectionLoss, sums_of_squares, vector
from darkprune.training.losses.boxes import best_iou, iou, overlap, overlap_gradient
from darkprune.training.losses.settings import LIKELY, HeadSettings, limited
from darkprune.training.losses.truths import Assignment, Matches, Truths, match


@dataclass(frozen=True)
class YoloSettings(HeadSettings):
    """The training keys of a [yolo] head."""

    focal_loss: bool = False
    show_details: bool = True


class _Cells(NamedTuple):
    """Places of a list of predictions; each (n,)."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor


class YoloLoss(DetectionLoss):
    """Computes a [yolo] head's deltas."""

    def __init__(self, kind: Yolo, settings: YoloSettings) -> None:
        self.kind = kind
        self.settings = settings
        self.classes = kind.classes
        self.limit = settings.max
        self.scale = settings.delta_normalizer
        self.assignment = Assignment(kind.all_anchors, kind.mask, settings.iou_thresh, settings.iou_thresh_kind)

    def deltas(self, raw: Tensor, truths: Truths, size: tuple[int, int], seen: int) -> tuple[Tensor, Tensor]:
        """See `DetectionLoss.deltas`."""
        images, _, rows, columns = raw.shape
        output = self._activate(raw.reshape(images, len(self.kind.mask), self.kind.layout.size, rows, columns))
        matches = match(truths, self.assignment, (columns, rows), size).to(raw.device)
        objects = truths.to(raw.device)
        delta = torch.zeros_like(output)
        self._background(output, objects, size, delta)
        overlaps = self._matched(output, objects, matches, size, delta)
        if self.settings.iou_thresh < 1:
            _average(delta)
        return delta.reshape(raw.shape), self._parts(delta, overlaps)

    def _activate(self, raw: Tensor) -> Tensor:
        """Computes darknet's `output`; (images, anchors, 5 + classes, rows, columns)."""
        output = raw.clone()
        if not self.kind.new_coords:
            output[:, :, :2].sigmoid_()
            output[:, :, 4:].sigmoid_()
        stretch = self.kind.scale_x_y
        output[:, :, :2].mul_(stretch).add_(-0.5 * (stretch - 1))
        return output

    def _decode(self, values: Tensor, cells: _Cells, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Turns values (n, ≥ 4) of an output into boxes (n, 4)."""
        anchors = values.new_tensor(self.kind.anchors)[cells.anchor]
        corner = torch.stack([cells.column, cells.row], dim=1)
        centre = (corner + values[:, :2]) / values.new_tensor(grid)
        sides = values[:, 2:4].double()
        grown = 4 * sides * sides if self.kind.new_coords else sides.exp()
        return torch.cat([centre, (grown * anchors / grown.new_tensor(size)).float()], dim=1)

    def _all_boxes(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Decodes a whole output to (images, anchors · rows · columns, 4)."""
        _, anchors, _, rows, columns = output.shape
        column = torch.arange(columns, device=output.device)
        row = torch.arange(rows, device=output.device)[:, None]
        x = (column + output[:, :, 0]) / columns
        y = (row + output[:, :, 1]) / rows
        sides = output[:, :, 2:4].double()
        grown = 4 * sides * sides if self.kind.new_coords else sides.exp()
        scale = grown.new_tensor(self.kind.anchors) / grown.new_tensor(size)
        grown = (grown * scale.reshape(1, anchors, 2, 1, 1)).float()
        return torch.stack([x, y, grown[:, :, 0], grown[:, :, 1]], dim=-1).flatten(1, 3)

    def _background(self, output: Tensor, truths: Truths, size: tuple[int, int], delta: Tensor) -> None:
        """Writes what every cell has to learn before any object is assigned: mostly that there is none."""
        keys = self.settings
        shape = (*output.shape[:2], *output.shape[3:])
        fit, which = best_iou(self._all_boxes(output, size), truths.boxes)
        fit, which = fit.reshape(shape), which.reshape(shape)
        objectness = output[:, :, 4]
        wanted = keys.obj_normalizer * (0 - objectness)
        likely = (output[:, :, 5:] > LIKELY).any(dim=2)
        ignored = likely & (fit > keys.ignore_thresh)
        if keys.objectness_smooth:
            wanted = torch.where(ignored, torch.maximum(wanted, keys.obj_normalizer * (fit - objectness)), wanted)
        else:
            wanted = torch.where(ignored, wanted.new_zeros(()), wanted)
        delta[:, :, 4] = wanted
        if keys.truth_thresh < 1:
            self._well_placed(output, truths, size, fit, which, delta)

    def _well_placed(
        self, output: Tensor, truths: Truths, size: tuple[int, int], fit: Tensor, which: Tensor, delta: Tensor
    ) -> None:
        """Assigns an object to every prediction that overlaps it more than `truth_thresh`."""
        keys = self.settings
        cells = _Cells(*(fit > keys.truth_thresh).nonzero(as_tuple=True))
        if not len(cells.image):
            return
        values = output[cells.image, cells.anchor, :, cells.row, cells.column]
        truth = which[cells]
        classes = truths.classes[cells.image, truth]
        weight = self.settings.weight_of(classes, values)
        square = fit[cells].square()
        target = square if keys.objectness_smooth else torch.ones_like(square)
        wanted = torch.zeros_like(values)
        wanted[:, 4] = keys.obj_normalizer * (target - values[:, 4])
        wanted[:, 5:] = self._class_deltas(values[:, 5:], wanted[:, 5:], classes)
        if keys.objectness_smooth:
            place = torch.arange(len(classes), device=classes.device)
            wanted[place, 5 + classes] = weight * (square - values[place, 5 + classes])
        grid = (output.shape[4], output.shape[3])
        wanted[:, :4] = self._box_deltas(values, cells, truths.boxes[cells.image, truth], weight, grid, size)[0]
        delta[cells.image, cells.anchor, :, cells.row, cells.column] = wanted

    def _matched(
        self, output: Tensor, truths: Truths, matches: Matches, size: tuple[int, int], delta: Tensor
    ) -> Tensor:
        """Adds what the assigned predictions have to learn; returns their overlaps (IoU, reported overlap): (n, 2)."""
        keys = self.settings
        every = _Cells(matches.image, matches.anchor, matches.row, matches.column)
        values = output[every.image, every.anchor, :, every.row, every.column]
        boxes = truths.boxes[matches.image, matches.truth]
        classes = truths.classes[matches.image, matches.truth]
        weight = self.settings.weight_of(classes, values)
        grid = (output.shape[4], output.shape[3])
        wanted, overlaps = self._box_deltas(values, every, boxes, weight, grid, size)
        features = torch.arange(4, device=output.device)
        place = (every.image[:, None], every.anchor[:, None], features, every.row[:, None], every.column[:, None])
        delta.index_put_(place, wanted, accumulate=True)
        start = 0
        for end in matches.turns:
            turn = slice(start, end)
            cells = _Cells(*(part[turn] for part in every))
            now = delta[cells.image, cells.anchor, :, cells.row, cells.column]
            present = weight[turn] * keys.obj_normalizer * (1 - values[turn, 4])
            if keys.objectness_smooth:  # the delta of the background stays
                present = torch.where(now[:, 4] == 0, present, now[:, 4])
            now[:, 4] = present
            now[:, 5:] = self._class_deltas(values[turn, 5:], now[:, 5:], classes[turn])
            delta[cells.image, cells.anchor, 4:, cells.row, cells.column] = now[:, 4:]
            start = end
        return overlaps

    def _box_deltas(
        self, values: Tensor, cells: _Cells, truth: Tensor, weight: Tensor, grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Computes (n, 4) deltas of boxes, and (n, 2) their IoU and the overlap that the report is made of."""
        keys = self.settings
        pred = self._decode(values, cells, grid, size)
        shared = iou(pred, truth)
        reported = overlap(pred, truth, "giou") if keys.iou_loss == "giou" else shared
        overlaps = torch.stack([shared, reported], dim=1)
        factor = (keys.iou_normalizer * weight)[:, None]
        if keys.iou_loss == "mse":
            wanted = self._targets(cells, truth, grid, size) - values[:, :4]
            return (2 - truth[:, 2] * truth[:, 3])[:, None] * wanted * factor, overlaps
        sides = torch.where(pred[:, 2:] == 0, pred.new_ones(()), pred[:, 2:])
        wanted = overlap_gradient(torch.cat([pred[:, :2], sides], dim=1), truth, keys.iou_loss)
        if not self.kind.new_coords:
            wanted = torch.cat([wanted[:, :2], wanted[:, 2:] * values[:, 2:4].exp()], dim=1)
        return limited(wanted * factor, keys.max_delta), overlaps

    def _targets(self, cells: _Cells, truth: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Returns the values (n, 4) that would make the boxes equal the objects."""
        corner = torch.stack([cells.column, cells.row], dim=1)
        centre = truth[:, :2] * truth.new_tensor(grid) - corner
        ratio = truth[:, 2:] * truth.new_tensor(size) / truth.new_tensor(self.kind.anchors)[cells.anchor]
        return torch.cat([centre, (ratio / 4).sqrt() if self.kind.new_coords else ratio.log()], dim=1)

    def _class_deltas(self, output: Tensor, now: Tensor, classes: Tensor) -> Tensor:
        """A cell counts as taken when the delta of the object's own class is set."""
        taken = now.gather(1, classes[:, None]) != 0
        return self.settings.class_deltas(output, now, classes, taken, self.settings.focal_loss)

    def _parts(self, delta: Tensor, overlaps: Tensor) -> Tensor:
        keys = self.settings
        box, objectness, classes = sums_of_squares(delta[:, :, :4], delta[:, :, 4], delta[:, :, 5:])
        count = len(overlaps)
        if keys.iou_loss == "mse" or not keys.show_details:
            loss = box + objectness + classes
        else:
            missed = (1 - overlaps[:, 1]).sum() / max(1, count)
            loss = keys.iou_normalizer * missed + keys.obj_normalizer * (objectness + classes)
        return vector([loss, box, objectness, classes, overlaps[:, 0].sum(), float(count)], delta)


def _average(delta: Tensor) -> None:
    """Divides the boxes' deltas by the number of classes in the cell, since each added its own."""
    held = (delta[:, :, 5:] > 0).sum(dim=2, keepdim=True)
    shared = (held > 0) & (delta[:, :, 4:5] != 0)
    delta[:, :, :4] /= torch.where(shared, held, 1)
