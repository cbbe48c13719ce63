"""Activation functions: names, values, means under a normal input, and preimages (darknet's `activations.c`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import erf, pi, sqrt

import numpy as np

from darkprune.layers.base import Floats


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def _stair(x: Floats) -> Floats:
    floor = np.floor(x)
    return np.where(floor % 2 == 0, np.floor(x / 2.0), (x - floor) + np.floor(x / 2.0))


def _plse(x: Floats) -> Floats:
    return np.where(x < -4, 0.01 * (x + 4), np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _hard_mish(x: Floats) -> Floats:
    return np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0.0))


#: Elementwise activations. relu6 is the true function: AlexeyAB's CPU build computes 0 there, its GPU build does not.
FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "linear": lambda x: x,
    "logistic": _sigmoid,
    "loggy": lambda x: 2 * _sigmoid(x) - 1,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "elu": lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "revleaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "tanh": lambda x: np.tanh(x),
    "plse": _plse,
    "stair": _stair,
    "hardtan": lambda x: np.clip(x, -1, 1),
    "lhtan": lambda x: np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x)),
    "swish": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0.0, x)),
    "hard_mish": _hard_mish,
}

#: Activations that mix the channels of a pixel.
ACROSS_CHANNELS = ("normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval")

NAMES = frozenset([*FUNCTIONS, *ACROSS_CHANNELS])

#: Piecewise linear ones as slope·x + offset + Σ change·relu(x − kink): (slope, offset, ((kink, change), …))
HINGES: dict[str, tuple[float, float, tuple[tuple[float, float], ...]]] = {
    "linear": (1.0, 0.0, ()),
    "relu": (0.0, 0.0, ((0.0, 1.0),)),
    "relu6": (0.0, 0.0, ((0.0, 1.0), (6.0, -1.0))),
    "relie": (0.01, 0.0, ((0.0, 0.99),)),
    "ramp": (0.1, 0.0, ((0.0, 1.0),)),
    "leaky": (0.1, 0.0, ((0.0, 0.9),)),
    "revleaky": (0.1, 0.0, ((0.0, 0.9),)),
    "plse": (0.01, 0.04, ((-4.0, 0.115), (4.0, -0.115))),
    "hardtan": (0.0, -1.0, ((-1.0, 1.0), (1.0, -1.0))),
    "lhtan": (0.001, 0.0, ((0.0, 0.999), (1.0, -0.999))),
}


# Gauss-Hermite nodes for E[f(γz + β)], z ~ N(0, 1): exact to 1e-7·γ for smooth f and |γ| up to 2, 65 of them take the
# kinks of elu, selu, hard_mish and stair to about 1e-2·γ
@cache
def _quadrature(count: int = 65) -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def normalised(name: str) -> str:
    """Returns the activation that darknet uses for a name: an unknown one is ReLU, with a message."""
    return name if name in NAMES else "relu"


def activate(name: str, x: Floats) -> Floats:
    """Applies an elementwise activation in float64."""
    return np.asarray(FUNCTIONS[name](np.asarray(x, np.float64)), np.float64)


def mean_under_normal(name: str, scale: Floats, shift: Floats) -> Floats:
    """Computes E[f(scale·z + shift)] with z ~ N(0, 1), elementwise; f(shift) where scale is 0.

    Piecewise linear functions have a closed form; the others use Gauss-Hermite quadrature.
    """
    scale, shift = np.abs(np.asarray(scale, np.float64)), np.asarray(shift, np.float64)
    if name in HINGES:
        slope, offset, kinks = HINGES[name]
        bent = [change * _mean_relu(scale, shift - kink) for kink, change in kinks]
        return np.asarray(slope * shift + offset + sum(bent))
    nodes, weights = _quadrature()
    return np.asarray(activate(name, shift[..., None] + scale[..., None] * nodes) @ weights)


def variance_under_normal(name: str, scale: Floats, shift: Floats) -> Floats:
    """Estimates the variance of f(scale·z + shift) with z ~ N(0, 1), elementwise, to a few percent.

    Gauss-Hermite quadrature with few nodes: it is wanted for every channel of a network at once.
    """
    nodes, weights = _quadrature(21)
    values = activate(name, np.asarray(shift)[..., None] + np.abs(scale)[..., None] * nodes)
    mean = values @ weights
    return np.asarray(np.square(values - mean[..., None]) @ weights)


def _mean_relu(scale: Floats, shift: Floats) -> Floats:
    safe = np.where(scale > 0, scale, 1.0)
    ratio = np.clip(shift / safe, -40, 40)
    cdf = 0.5 * (1 + np.array(list(map(erf, (ratio / sqrt(2)).ravel().tolist()))).reshape(ratio.shape))
    pdf = np.exp(-0.5 * ratio**2) / sqrt(2 * pi)
    return np.where(scale > 0, shift * cdf + scale * pdf, np.maximum(shift, 0))


#: the β of a carrier channel, which holds the constant c = act(β) ≠ 0; relu6 is 0 on AlexeyAB's CPU
CARRIER_SHIFT: dict[str, float] = {
    name: 0.0 if name == "logistic" else 1.0
    for name in ("linear", "relu", "leaky", "revleaky", "relie", "logistic", "tanh", "mish", "swish", "gelu", "elu",
                 "selu", "hardtan", "loggy", "ramp", "lhtan", "plse", "hard_mish")
}  # fmt: skip


def preimage(name: str, values: Floats) -> Floats:
    """Finds x with f(x) = value for values in the function's range, by bisection on its rising branch.

    Used to hold a channel at a constant with darknet's own means: γ = 0 and β = x.
    """
    values = np.asarray(values, np.float64)
    if name == "linear":
        return values
    low = {"mish": -1.19250, "swish": -1.27846, "gelu": -0.75241, "hard_mish": -1.0}.get(name, -1e4)
    lower, upper = np.full(values.shape, float(low)), np.full(values.shape, 1e4)
    for _ in range(80):
        middle = (lower + upper) / 2
        above = activate(name, middle) > values
        upper, lower = np.where(above, middle, upper), np.where(above, lower, middle)
    return lower
