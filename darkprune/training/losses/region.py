"""The loss of a [region] head, YOLOv2 (`region_layer.c`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from darkprune.darknet.options import Options
from darkprune.layers.heads import Region
from darkprune.training.losses.base import DetectionLoss, focal_slope, plain_parts, refuse_map
from darkprune.training.losses.boxes import best_iou, iou
from darkprune.training.losses.settings import read_keys
from darkprune.training.losses.truths import Truths

WARM_UP = 12_800  #: images during which every box is drawn to its anchor
WARM_UP_SCALE = 0.01


@dataclass(frozen=True, kw_only=True)
class RegionSettings:
    """The training keys of a head, named as in the cfg."""

    thresh: float = 0.5
    classfix: int = 0
    rescore: bool = False
    bias_match: bool = False
    focal_loss: bool = False
    coord_scale: float = 1.0
    object_scale: float = 1.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    max: int


def read_region(options: Options) -> RegionSettings:
    """Reads the training keys of a head (`parse_region`).

    Raises:
        CfgError: a hierarchy of classes, or more coordinates than a box has.
    """
    refuse_map(options)
    if options.text("tree"):
        raise options.error("a hierarchy of classes (tree=) cannot be trained here", "tree")
    if options.int("coords", 4) != 4:
        raise options.error("only coords=4 can be trained", "coords")
    return read_keys(RegionSettings, options, max=options.positive("max", 200))


class _Predictions(NamedTuple):
    """All predictions of a batch: (images · rows · columns · anchors) rows.

    Attributes:
        values: (n, 5 + classes), objectness and classes activated.
        boxes: (n, 4) decoded, relative to the input.
        corner: (n, 2) column and row.
        anchors: (n, 2) width and height of the anchor, relative to the input.
    """

    values: Tensor
    boxes: Tensor
    corner: Tensor
    anchors: Tensor


class RegionLoss(DetectionLoss):
    """Computes a [region] head's deltas; predictions are (images · cells · anchors, 5 + classes), cell by cell."""

    def __init__(self, kind: Region, settings: RegionSettings) -> None:
        self.kind = kind
        self.settings = settings
        self.classes = kind.classes
        self.limit = settings.max

    def deltas(self, raw: Tensor, truths: Truths, size: tuple[int, int], seen: int) -> tuple[Tensor, Tensor]:
        """See `DetectionLoss.deltas`."""
        keys = self.settings
        images, _, rows, columns = raw.shape
        anchors, features = self.kind.num, self.kind.layout.size
        objects = truths.to(raw.device)
        cells = raw.reshape(images, anchors, features, rows, columns).permute(0, 3, 4, 1, 2)
        values = cells.reshape(-1, features).clone()
        values[:, 4] = values[:, 4].sigmoid()
        if self.kind.softmax:
            values[:, 5:] = values[:, 5:].softmax(dim=1)
        corner = _corners(images, rows, columns, anchors, raw.device)
        grid = values.new_tensor((columns, rows))
        biases = (values.new_tensor(self.kind.anchors) / grid).repeat(images * rows * columns, 1)
        centre = (corner + values[:, :2].sigmoid()) / grid
        boxes = torch.cat([centre, (values[:, 2:4].double().exp() * biases).float()], dim=1)
        fit, which = (found.flatten() for found in best_iou(boxes.reshape(images, -1, 4), objects.boxes))
        delta = torch.zeros_like(values)
        target = fit if keys.classfix == -1 else torch.zeros_like(fit)
        delta[:, 4] = keys.noobject_scale * (target - values[:, 4]) * _slope(values[:, 4])
        if keys.classfix != -1:
            found = fit > keys.thresh
            delta[:, 4] = torch.where(found, delta.new_zeros(()), delta[:, 4])
            if keys.classfix > 0:
                self._fix_classes(values, objects, found, which, delta)
        if seen < WARM_UP:
            centred = torch.cat([(corner + 0.5) / grid, biases], dim=1)
            delta[:, :4] = _box_deltas(values, corner, biases, centred, grid, WARM_UP_SCALE)
        overlaps = self._matched(_Predictions(values, boxes, corner, biases), objects, (rows, columns), delta)
        parts = plain_parts(delta[:, :4], delta[:, 4], delta[:, 5:], overlaps)
        shaped = delta.reshape(images, rows, columns, anchors, features).permute(0, 3, 4, 1, 2)
        return shaped.reshape(raw.shape), parts

    def _fix_classes(self, values: Tensor, truths: Truths, found: Tensor, which: Tensor, delta: Tensor) -> None:
        """Teaches the classes of every box that fits an object (`classfix`)."""
        cells = found.nonzero(as_tuple=True)[0]
        image = cells // (len(values) // max(1, len(truths)))
        classes = truths.classes[image, which[cells]]
        scale = values[cells, 4:5] if self.settings.classfix == 2 else 1.0
        delta[cells, 5:] = self._class_deltas(values[cells, 5:], classes) * scale

    def _matched(self, found: _Predictions, truths: Truths, grid: tuple[int, int], delta: Tensor) -> Tensor:
        """Writes what the assigned predictions have to learn; of several objects in one place the last one counts."""
        keys = self.settings
        values, boxes, corner, biases = found
        rows, columns = grid
        anchors = self.kind.num
        image, number = (truths.classes >= 0).nonzero(as_tuple=True)
        truth, classes = truths.boxes[image, number], truths.classes[image, number]
        limits = torch.tensor((columns, rows), device=truth.device)
        cell = torch.minimum((truth[:, :2] * limits).long().clamp(min=0), limits - 1)
        first = ((image * rows + cell[:, 1]) * columns + cell[:, 0]) * anchors
        every = first[:, None] + torch.arange(anchors, device=first.device)
        sides = biases[every] if keys.bias_match else boxes[every][..., 2:]
        flat = torch.cat([torch.zeros_like(sides), sides], dim=-1)
        shape = torch.cat([torch.zeros_like(truth[:, :2]), truth[:, 2:]], dim=1)[:, None]
        at = first + iou(flat, shape).argmax(dim=1)
        last = torch.full((len(values),), -1, device=at.device)
        last.scatter_reduce_(0, at, torch.arange(len(at), device=at.device), "amax")
        shared = iou(boxes[at], truth)
        kept = (last[at] == torch.arange(len(at), device=at.device)).nonzero(as_tuple=True)[0]
        place = at[kept]
        size = values.new_tensor((columns, rows))
        delta[place, :4] = _box_deltas(values[place], corner[place], biases[place], truth[kept], size, keys.coord_scale)
        present = shared[kept] if keys.rescore else torch.ones_like(shared[kept])
        delta[place, 4] = keys.object_scale * (present - values[place, 4]) * _slope(values[place, 4])
        delta[place, 5:] = self._class_deltas(values[place, 5:], classes[kept])
        return shared

    def _class_deltas(self, output: Tensor, classes: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(classes, self.classes).to(output.dtype)
        wanted = self.settings.class_scale * (hot - output)
        return wanted * focal_slope(output, classes) if self.settings.focal_loss else wanted


def _box_deltas(values: Tensor, corner: Tensor, biases: Tensor, truth: Tensor, grid: Tensor, scale: float) -> Tensor:
    offset = values[:, :2].sigmoid()
    centre = (truth[:, :2] * grid - corner - offset) * _slope(offset)
    sides = (truth[:, 2:] / biases).log() - values[:, 2:4]
    return scale * torch.cat([centre, sides], dim=1)


def _slope(activated: Tensor) -> Tensor:
    """Returns the derivative of the logistic function from its value."""
    return (1 - activated) * activated


def _corners(images: int, rows: int, columns: int, anchors: int, device: torch.device) -> Tensor:
    """Returns column and row of every prediction: (images · rows · columns · anchors, 2)."""
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    corner = torch.stack([column, row], dim=-1).reshape(-1, 1, 2).expand(-1, anchors, -1)
    return corner.reshape(-1, 2).repeat(images, 1)
