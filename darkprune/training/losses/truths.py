"""The objects of a batch, and which anchor of which cell has to find each (`forward_yolo_layer`).

Both depend on the labels alone, so that they are computed on the CPU while an accelerator is busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from darkprune.training.losses.boxes import OverlapKind, iou, overlap


@dataclass(frozen=True, eq=False)
class Truths:
    """The labelled objects of a batch, padded to the same number.

    Attributes:
        boxes: (images, t, 4) float32, cx, cy, w, h relative to the network's input; zeros where there is none.
        classes: (images, t) int64, −1 where there is none.
    """

    boxes: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> Truths:
        """Copies to a device."""
        return Truths(self.boxes.to(device, non_blocking=True), self.classes.to(device, non_blocking=True))

    def limited(self, classes: int, limit: int) -> Truths:
        """Drops objects of classes that a head does not have, and those beyond its `max`."""
        bad = (self.classes < 0) | (self.classes >= classes)
        boxes = torch.where(bad[..., None], self.boxes.new_zeros(()), self.boxes)
        return Truths(boxes[:, :limit], torch.where(bad, -1, self.classes)[:, :limit])


def make_truths(labels: Sequence[npt.NDArray[np.float32]]) -> Truths:
    """Pads labels to a batch.

    Args:
        labels: per image (n, 5): class, cx, cy, w, h.
    """
    most = max((len(rows) for rows in labels), default=0)
    boxes = np.zeros((len(labels), most, 4), np.float32)
    classes = np.full((len(labels), most), -1, np.int64)
    for number, rows in enumerate(labels):
        boxes[number, : len(rows)] = rows[:, 1:]
        classes[number, : len(rows)] = rows[:, 0]
    return Truths(torch.from_numpy(boxes), torch.from_numpy(classes))


@dataclass(frozen=True, eq=False)
class Matches:
    """Which anchor of which cell has to find which object; one entry per pair.

    darknet goes through the objects one by one, and a later one sees what an earlier one left in the same cell. Here
    the entries are sorted into turns: within a turn no cell occurs twice, so that each turn is one vector operation.

    Attributes:
        image, anchor, row, column: int64, where; `anchor` counts in the head's mask.
        truth: int64, position of the object in `Truths`.
        turns: ends of the turns, ascending; the last is the number of entries.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    truth: Tensor
    turns: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device) -> Matches:
        """Copies to a device."""
        parts = torch.stack([self.image, self.anchor, self.row, self.column, self.truth])
        image, anchor, row, column, truth = parts.to(device, non_blocking=True).unbind()
        return Matches(image, anchor, row, column, truth, self.turns)


@dataclass(frozen=True)
class Assignment:
    """Which anchors an object is assigned to: that of the best shape, and others above a threshold.

    Attributes:
        anchors: all anchors of the network, in pixels.
        mask: those that the head has.
        threshold: further anchors whose shape overlaps more get the object too (`iou_thresh`).
        kind: of that overlap (`iou_thresh_kind`).
        shift: which point of the box chooses the cell: 0 centre, −0.5 left top, 0.5 right bottom (Gaussian_yolo).
        best_always: whether the best anchor gets it even below the threshold, as in darknet.
    """

    anchors: Sequence[tuple[float, float]]
    mask: Sequence[int]
    threshold: float = 1.0
    kind: OverlapKind = "iou"
    shift: float = 0.0
    best_always: bool = True


def match(truths: Truths, rule: Assignment, grid: tuple[int, int], size: tuple[int, int]) -> Matches:
    """Assigns the objects of a batch to anchors of cells; returns entries in darknet's order within each cell.

    Args:
        truths: on the CPU.
        grid: columns and rows of the head's map.
        size: width and height of the network's input, in pixels.
    """
    anchors, mask, shift = rule.anchors, rule.mask, rule.shift
    image, truth = (truths.classes >= 0).nonzero(as_tuple=True)
    boxes = truths.boxes[image, truth]
    shapes = _shapes(anchors, size)
    flat = torch.cat([torch.zeros_like(boxes[:, 2:]), boxes[:, 2:]], dim=1)[:, None]
    fit = iou(shapes[None], flat)
    best = fit.argmax(dim=1)
    wanted = torch.nn.functional.one_hot(best, len(anchors)).bool()
    order = torch.where(wanted, -1, torch.arange(len(anchors)))
    if rule.threshold < 1:
        above = overlap(shapes[None], flat, rule.kind) > rule.threshold
        wanted = wanted | above if rule.best_always else above
    entry, anchor = wanted.nonzero(as_tuple=True)
    position = _positions(mask, len(anchors))[anchor]
    kept = position >= 0
    entry, anchor, position = entry[kept], anchor[kept], position[kept]
    # within an object the best anchor comes first, the others in their order
    rank = torch.from_numpy(np.lexsort((order[entry, anchor].numpy(), entry.numpy())))
    entry, position = entry[rank], position[rank]
    point = boxes[:, :2] + shift * boxes[:, 2:] if shift else boxes[:, :2]
    cells = torch.tensor(grid)
    # a centre on the far edge would be one cell outside, where darknet writes into the next row
    cell = torch.minimum((point * cells).to(torch.long).clamp(min=0), cells - 1)[entry]
    return _in_turns(image[entry], position, cell[:, 1], cell[:, 0], truth[entry], (len(mask), grid[1], grid[0]))


def _shapes(anchors: Sequence[tuple[float, float]], size: tuple[int, int]) -> Tensor:
    """Returns the anchors as boxes at the origin, relative to the input: (n, 4)."""
    sides = torch.tensor(anchors, dtype=torch.float32).reshape(-1, 2) / torch.tensor(size, dtype=torch.float32)
    return torch.cat([torch.zeros_like(sides), sides], dim=1)


def _positions(mask: Sequence[int], total: int) -> Tensor:
    """Returns for every anchor its first position in the mask, −1 where the head does not have it."""
    positions = torch.full((total,), -1)
    for place, anchor in reversed(list(enumerate(mask))):
        if 0 <= anchor < total:
            positions[anchor] = place
    return positions


def _in_turns(
    image: Tensor, anchor: Tensor, row: Tensor, column: Tensor, truth: Tensor, shape: tuple[int, int, int]
) -> Matches:
    """Sorts entries, given in darknet's order, into turns."""
    key = (((image * shape[0] + anchor) * shape[1] + row) * shape[2] + column).numpy()
    by_cell = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[by_cell], prepend=-1))
    turn = np.empty(len(key), np.int64)
    lengths = np.diff(np.append(starts, len(key)))
    turn[by_cell] = np.arange(len(key)) - np.repeat(starts, lengths)
    order = torch.from_numpy(np.argsort(turn, kind="stable"))
    ends = tuple(np.cumsum(np.bincount(turn)).tolist())
    return Matches(image[order], anchor[order], row[order], column[order], truth[order], ends)
