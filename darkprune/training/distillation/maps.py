"""How the feature maps of teacher and student are compared."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

_TINY = 1e-12
_LEAST_VARIANCE = 1e-6  #: of a channel that is constant over the images


def attention(features: Tensor) -> Tensor:
    """Returns where a map is active: Σ_c |A_c|² over the positions, of norm 1; (b, c, h, w) -> (b, h·w)."""
    where = features.float().square().sum(dim=1).flatten(1)
    return functional.normalize(where, dim=1, eps=_TINY)


def attention_loss(teacher: Tensor, student: Tensor, *, mean: bool = False) -> Tensor:
    """Compares where two maps (b, c, h, w) are active; the numbers of channels may differ.

    Args:
        teacher: map of the teacher.
        student: map of the student.
        mean: take the mean over the positions, instead of the sum.

    Returns:
        Scalar, summed over the images.
    """
    apart = (attention(teacher) - attention(student)).square()
    return apart.mean(dim=1).sum() if mean else apart.sum()


def feature_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Compares two maps (b, c, h, w) of the same channels: 1 − the correlation of each channel, mean over channels.

    Half the squared distance after each channel is normalised over images and positions, so that scale and offset of
    a channel do not count (Cao et al., *PKD: general distillation framework for object detectors via Pearson
    correlation coefficient*, NeurIPS 2022).

    Returns:
        Scalar, times the number of images.
    """
    apart = (_normalised(teacher) - _normalised(student)).square().mean()
    return 0.5 * apart * len(teacher)


def _normalised(features: Tensor) -> Tensor:
    values = features.float()
    variance, mean = values.var(dim=(0, 2, 3), correction=0, keepdim=True), values.mean(dim=(0, 2, 3), keepdim=True)
    return (values - mean) / (variance + _LEAST_VARIANCE).sqrt()
