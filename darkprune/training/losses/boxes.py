"""Overlaps of boxes, and darknet's own derivatives of them (`box.c`).

Boxes are (…, 4): centre x, centre y, width, height. Arithmetic is in 32 bits and in darknet's order, since its
differences cancel: another order would round to other deltas.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

OverlapKind = Literal["iou", "giou", "diou", "ciou"]
PAIRS_AT_ONCE = 1 << 22  #: box pairs compared in one step; bounds the memory
_ASPECT = 4 / math.pi**2


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union; 0 where nothing is shared (`box_iou`)."""
    inter, union = _intersection_and_union(a, b)
    return torch.where((inter == 0) | (union == 0), inter.new_zeros(()), inter / union)


def overlap(a: Tensor, b: Tensor, kind: OverlapKind) -> Tensor:
    """IoU, or IoU less the penalty of its kind (`box_giou`, `box_diou` with its exponent 0.6, `box_ciou`)."""
    shared = iou(a, b)
    if kind == "iou":
        return shared
    extent = torch.maximum(_high(a), _high(b)) - torch.minimum(_low(a), _low(b))
    if kind == "giou":
        hull = extent[..., 0] * extent[..., 1]
        union = _intersection_and_union(a, b)[1]
        return torch.where(hull == 0, shared, shared - (hull - union) / hull)
    diagonal = extent[..., 0] ** 2 + extent[..., 1] ** 2
    distance = (a[..., :2] - b[..., :2]).square().sum(-1) / diagonal
    if kind == "diou":
        return torch.where(diagonal == 0, shared, shared - distance**0.6)
    aspect = _ASPECT * (_aspect(b) - _aspect(a)).square()
    penalty = distance + aspect * aspect / (1 - shared + aspect + 1e-6)
    return torch.where(diagonal == 0, shared, shared - penalty)


def best_iou(boxes: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
    """Finds for every box the object of its image that it overlaps most.

    Args:
        boxes: (images, n, 4).
        truths: (images, t, 4), zeros where an image has fewer.

    Returns:
        (images, n) IoU, 0 where it touches none; (images, n) position of that object.
    """
    images, count = boxes.shape[:2]
    found = boxes.new_zeros(images, count)
    which = torch.zeros(images, count, dtype=torch.long, device=boxes.device)
    most = truths.shape[1]
    if most == 0:
        return found, which
    step = max(1, PAIRS_AT_ONCE // max(1, count * most))
    for first in range(0, images, step):
        part = slice(first, first + step)
        found[part], which[part] = iou(boxes[part, :, None], truths[part, None]).max(-1)
    return found, which


def overlap_gradient(pred: Tensor, truth: Tensor, kind: OverlapKind) -> Tensor:
    """Computes what darknet adds to a box's delta to raise its overlap (`dx_box_iou`).

    It is not the exact derivative: boxes that do not touch keep a product of two negative sides as intersection
    (`iou`), and the size terms of DIoU and CIoU have the sign that darknet gives them.

    Args:
        pred, truth: (n, 4) float32.

    Returns:
        (n, 4) towards greater overlap: by centre x, centre y, width, height. NaN or infinite for degenerate boxes.
    """
    low, high, true_low, true_high = _low(pred), _high(pred), _low(truth), _high(truth)
    size, true_size = high - low, true_high - true_low
    zero = pred.new_zeros(())
    inter = torch.minimum(high, true_high) - torch.maximum(low, true_low)
    shared = inter.prod(-1, keepdim=True)
    union = size.prod(-1, keepdim=True) + true_size.prod(-1, keepdim=True) - shared
    # a side moves an area by the length of the other axis
    across, inter_across = size.flip(-1), inter.flip(-1)
    shared_low = torch.where(low > true_low, -inter_across, zero)
    shared_high = torch.where(high < true_high, inter_across, zero)
    union_low, union_high = -across - shared_low, across - shared_high
    positive = union > 0
    by_low = torch.where(positive, (union * shared_low - shared * union_low) / (union * union), zero)
    by_high = torch.where(positive, (union * shared_high - shared * union_high) / (union * union), zero)
    apart = (inter <= 0).any(-1, keepdim=True)
    extent = torch.maximum(high, true_high) - torch.minimum(low, true_low)
    beyond_low, beyond_high = low < true_low, high > true_high
    if kind == "giou":
        hull = extent.prod(-1, keepdim=True)
        hull_across = extent.flip(-1)
        term_low = (hull * union_low - union * torch.where(beyond_low, -hull_across, zero)) / (hull * hull)
        term_high = (hull * union_high - union * torch.where(beyond_high, hull_across, zero)) / (hull * hull)
        solid = hull > 0
        by_low = torch.where(apart, term_low, by_low + torch.where(solid, term_low, zero))
        by_high = torch.where(apart, term_high, by_high + torch.where(solid, term_high, zero))
    by_centre, by_size = by_low + by_high, by_high - by_low
    if kind in ("diou", "ciou"):
        diagonal = extent.square().sum(-1, keepdim=True)
        apart_by = truth[:, :2] - pred[:, :2]
        distance = apart_by.square().sum(-1, keepdim=True)
        moved = beyond_high.to(pred.dtype) - beyond_low.to(pred.dtype)
        grown = 0.5 * beyond_high.to(pred.dtype) + 0.5 * beyond_low.to(pred.dtype)
        square = diagonal * diagonal
        term_centre = (2 * apart_by * diagonal - 2 * extent * moved * distance) / square
        term_size = 2 * extent * grown * distance / square
        if kind == "ciou":
            term_size = term_size + _aspect_term(pred, truth, (shared / union).squeeze(-1))
        solid = diagonal > 0
        by_centre = torch.where(apart, term_centre, by_centre + torch.where(solid, term_centre, zero))
        by_size = torch.where(apart, term_size, by_size + torch.where(solid, term_size, zero))
    return torch.cat([by_centre, by_size], dim=-1)


def _aspect_term(pred: Tensor, truth: Tensor, shared: Tensor) -> Tensor:
    """Returns CIoU's push on width and height towards the object's aspect: (n, 2)."""
    difference = _aspect(truth) - _aspect(pred)
    aspect = _ASPECT * difference.square()
    weight = aspect / (1 - shared + aspect + 1e-6)
    push = (2 * _ASPECT * weight * difference)[:, None]
    return push * torch.stack([pred[:, 3], -pred[:, 2]], dim=-1)


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    side = torch.minimum(_high(a), _high(b)) - torch.maximum(_low(a), _low(b))
    side = side.clamp_(min=0)
    inter = side[..., 0] * side[..., 1]
    return inter, a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - inter


def _low(box: Tensor) -> Tensor:
    return box[..., :2] - box[..., 2:] / 2


def _high(box: Tensor) -> Tensor:
    return box[..., :2] + box[..., 2:] / 2


def _aspect(box: Tensor) -> Tensor:
    return torch.atan(box[..., 2] / box[..., 3])
