"""The training keys that [yolo] and [Gaussian_yolo] have in common."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from darkprune.darknet.options import Options
from darkprune.training.losses.base import focal_slope, refuse_map, smoothed
from darkprune.training.losses.boxes import OverlapKind

BoxLoss = Literal["mse", "iou", "giou", "diou", "ciou"]
_T = TypeVar("_T")
_Head = TypeVar("_Head", bound="HeadSettings")
LIKELY = 0.25  #: a cell that gives no class this much has to learn "no object", however well its box fits


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The training keys of a head, named as in the cfg; `max_delta` is None where the cfg has none."""

    iou_loss: BoxLoss = "mse"
    iou_normalizer: float = 0.75
    obj_normalizer: float = 1.0
    cls_normalizer: float = 1.0
    delta_normalizer: float = 1.0
    iou_thresh: float = 1.0
    iou_thresh_kind: OverlapKind = "iou"
    ignore_thresh: float = 0.5
    truth_thresh: float = 1.0
    label_smooth_eps: float = 0.0
    objectness_smooth: bool = False
    max_delta: float | None = None
    class_weights: tuple[float, ...] | None = None
    max: int

    def weight_of(self, classes: Tensor, like: Tensor) -> Tensor:
        """Returns the weight of each object by its class: (n,) -> (n,)."""
        if self.class_weights is None:
            return like.new_ones(len(classes))
        return like.new_tensor(self.class_weights)[classes]

    def class_deltas(self, output: Tensor, now: Tensor, classes: Tensor, taken: Tensor, focal: bool = False) -> Tensor:
        """Returns (n, classes) deltas after each cell got one object more (`delta_yolo_class`).

        The first object of a cell sets all classes, a further one only its own: cells can hold several classes.

        Args:
            output: (n, classes) probabilities.
            now: deltas so far.
            classes: (n,) class of the object.
            taken: (n, 1) whether the cell has an object already.
            focal: whether the first object's deltas are those of the focal loss.
        """
        hot = torch.nn.functional.one_hot(classes, output.shape[1]).to(output.dtype)
        step = smoothed(hot, self.label_smooth_eps) - output
        first = (hot - output) * focal_slope(output, classes) if focal else step
        further = step
        if self.class_weights is not None:
            weight = self.weight_of(classes, output)[:, None]
            further = step * weight
            if not focal:
                first = torch.where(hot > 0, step * (weight * self.cls_normalizer), step)
        return torch.where(taken, torch.where(hot > 0, further, now), first)


def read_keys(kind: type[_T], options: Options, **special: object) -> _T:
    """Reads a settings class whose fields are named as the cfg's keys, and have darknet's defaults.

    Args:
        kind: a dataclass with fields of type bool, int and float.
        special: values of fields that are read otherwise.
    """
    values = dict(special)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in values:
            continue
        if isinstance(field.default, bool):
            values[field.name] = options.flag(field.name, field.default)
        elif isinstance(field.default, int):
            values[field.name] = options.int(field.name, field.default)
        elif isinstance(field.default, float):
            values[field.name] = options.float(field.name, field.default)
    return kind(**values)


def read_head(kind: type[_Head], options: Options, classes: int) -> _Head:
    """Reads the training keys of a head (`parse_yolo`, `parse_gaussian_yolo`).

    Raises:
        CfgError: a value that cannot be trained with.
    """
    refuse_map(options)
    limit = options.float("max_delta") if options.has("max_delta") else None
    return read_keys(
        kind,
        options,
        iou_loss=_overlap_of(options, "iou_loss", "mse"),
        iou_thresh_kind=_overlap_of(options, "iou_thresh_kind", "iou"),
        max_delta=limit,
        class_weights=_class_weights(options, classes, limit),
        max=options.positive("max", 200),
    )


def limited(wanted: Tensor, limit: float | None) -> Tensor:
    """Replaces what is not finite by 0 and applies `max_delta`."""
    wanted = wanted.where(wanted.isfinite(), wanted.new_zeros(()))
    return wanted if limit is None else wanted.clamp(-limit, limit)


def _overlap_of(options: Options, key: str, default: str) -> str:
    """Reads a kind of overlap, or the default; darknet takes what it does not know for plain IoU."""
    text = options.text(key, default)
    return text if text in (default, "giou", "diou", "ciou") else "iou"


def _class_weights(options: Options, classes: int, limit: float | None) -> tuple[float, ...] | None:
    """Reads `counters_per_class`: the rarer a class, the more its objects weigh (`get_classes_multipliers`).

    Raises:
        CfgError: not one counter per class.
    """
    counters = options.ints("counters_per_class", comment_ends=True)
    if not counters:
        return None
    if len(counters) != classes:
        raise options.error(
            f"counters_per_class has {len(counters)} values for classes={classes}", "counters_per_class"
        )
    counts = [max(1, counter) for counter in counters]
    weights = [max(counts) / count for count in counts]
    return tuple(weight if limit is None else min(weight, limit) for weight in weights)
