"""What the losses share: darknet's deltas as gradients, the settings of the heads, and their report.

darknet does not differentiate a loss. Each head writes `delta`, the step that every value of its input should take,
and that is what backpropagation starts from. So here: the gradient at a head's input is −delta, and the loss that is
reported is the figure that darknet prints (for IoU losses it is not what the deltas are the derivative of).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from darkprune.darknet.options import Options
from darkprune.training.losses.truths import Truths

PARTS = ("loss", "box", "objectness", "class", "iou", "count")


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss over one part of a batch.

    Attributes:
        value: scalar, summed over the part's images: what is differentiated.
        parts: (n,) figures for the report, which can be added up over parts; detached.
    """

    value: Tensor
    parts: Tensor


class DetectionLoss(ABC):
    """The loss of one detection head.

    Attributes:
        scale: factor on the deltas as they leave the head (`delta_normalizer`).
        limit: objects per image that the head takes (`max`).
        classes: number of classes.
    """

    scale: float = 1.0
    limit: int
    classes: int

    @abstractmethod
    def deltas(self, raw: Tensor, truths: Truths, size: tuple[int, int], seen: int) -> tuple[Tensor, Tensor]:
        """Computes darknet's deltas.

        Args:
            raw: (images, channels, rows, columns) float32: the map that the head reads.
            truths: of the batch, on the CPU.
            size: width and height of the network's input, in pixels.
            seen: images trained on so far, this mini-batch included.

        Returns:
            The deltas, of the shape of `raw`; and (6,) in the order of `PARTS`: darknet's figure, sums of squared
            deltas of boxes, objectness and classes, sum of the IoU of matched boxes, and how many were matched.
        """

    def __call__(self, raw: Tensor, truths: Truths, size: tuple[int, int], seen: int) -> Loss:
        """Returns the loss whose gradient at `raw` is −delta, summed over the images like darknet's updates."""
        with torch.no_grad():
            delta, parts = self.deltas(raw.detach().float(), truths.limited(self.classes, self.limit), size, seen)
            delta = delta * self.scale
        return Loss(with_delta(raw.float(), delta, parts[0]), parts)


class _WithDelta(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, delta: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(delta)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (delta,) = ctx.saved_tensors
        return -delta * grads[0], None, None


def with_delta(raw: Tensor, delta: Tensor, value: Tensor) -> Tensor:
    """Returns `value` as a function of `raw` whose gradient is −delta."""
    return cast(Tensor, _WithDelta.apply(raw, delta, value))  # type: ignore[no-untyped-call]


def refuse_map(options: Options) -> None:
    """Refuses `map=`, which renumbers the classes of labels by a file.

    Raises:
        CfgError: the section has it.
    """
    if options.has("map"):
        raise options.error("map= is not supported in training; renumber the labels and remove it", "map")


def smoothed(hot: Tensor, eps: float) -> Tensor:
    """Applies `label_smooth_eps`."""
    return hot * (1 - eps) + 0.5 * eps if eps else hot


def focal_slope(output: Tensor, classes: Tensor) -> Tensor:
    """Returns what `focal_loss` multiplies the deltas of classes by, (n, 1) (`delta_yolo_class`, α = 0.5, γ = 2)."""
    likelihood = output.gather(1, classes[:, None]) + 1e-15
    return -0.5 * (1 - likelihood) * (2 * likelihood * likelihood.log() + likelihood - 1)


def sums_of_squares(*parts: Tensor) -> list[Tensor]:
    """Returns Σx² of each."""
    return [part.square().sum() for part in parts]


def plain_parts(box: Tensor, objectness: Tensor, classes: Tensor, overlaps: Tensor) -> Tensor:
    """Returns the figures of a loss that is the sum of its squared deltas; overlaps: (n,) of the objects."""
    parts = sums_of_squares(box, objectness, classes)
    return vector([sum(parts[1:], parts[0]), *parts, overlaps.sum(), float(len(overlaps))], box)


def vector(values: Sequence[Tensor | float], like: Tensor) -> Tensor:
    """Joins scalars to a vector on the device of `like`, without waiting for it."""
    scalars = [value if isinstance(value, Tensor) else like.new_full((), value) for value in values]
    return torch.stack([value.to(like.dtype) for value in scalars])
