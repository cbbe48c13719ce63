"""Activation functions on tensors (darknet's `activations.c`), all of them what the GPU build computes.

AlexeyAB's CPU build returns 0 for relu6 everywhere, and for some others outside of convolutions: a network that is
trained here should learn the function that its author meant.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Function = Callable[[Tensor], Tensor]


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(0.797885 * x + 0.035677 * x**3))


def _selu(x: Tensor) -> Tensor:
    return 1.0507 * torch.where(x >= 0, x, 1.6732 * torch.expm1(x.clamp(max=0)))


def _plse(x: Tensor) -> Tensor:
    return torch.where(x < -4, 0.01 * (x + 4), torch.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _stair(x: Tensor) -> Tensor:
    floor = torch.floor(x)
    half = torch.floor(x / 2)
    return torch.where(floor % 2 == 0, half, x - floor + half)


def _lhtan(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.001 * x, torch.where(x > 1, 0.001 * (x - 1) + 1, x))


def _hard_mish(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.where(x > -2, x * x / 2 + x, torch.zeros_like(x)))


def _shares(parts: Tensor) -> Tensor:
    return parts / (1e-4 + parts.sum(dim=1, keepdim=True))


def _identity(x: Tensor) -> Tensor:
    return x


FUNCTIONS: dict[str, Function] = {
    "linear": _identity,
    "logistic": torch.sigmoid,
    "loggy": lambda x: 2 * torch.sigmoid(x) - 1,
    "relu": torch.relu,
    "relu6": lambda x: x.clamp(0, 6),
    "elu": functional.elu,
    "selu": _selu,
    "gelu": _gelu,
    "relie": lambda x: functional.leaky_relu(x, 0.01),
    "ramp": lambda x: torch.relu(x) + 0.1 * x,
    "leaky": lambda x: functional.leaky_relu(x, 0.1),
    "revleaky": lambda x: functional.leaky_relu(x, 0.1),
    "tanh": torch.tanh,
    "plse": _plse,
    "stair": _stair,
    "hardtan": lambda x: x.clamp(-1, 1),
    "lhtan": _lhtan,
    "swish": functional.silu,
    "mish": functional.mish,
    "hard_mish": _hard_mish,
    # these share a pixel among its channels, the second axis
    "normalize_channels": lambda x: _shares(torch.relu(x)),
    "normalize_channels_softmax": lambda x: _shares(torch.exp(x)),
    "normalize_channels_softmax_maxval": lambda x: _shares(torch.exp(x - x.amax(dim=1, keepdim=True))),
}

#: may overwrite a fresh tensor, whose values their gradient does not need
_OVERWRITING: dict[str, Function] = {
    "relu": torch.relu_,
    "leaky": lambda x: functional.leaky_relu_(x, 0.1),
    "revleaky": lambda x: functional.leaky_relu_(x, 0.1),
}


def activation_function(name: str, *, overwrite: bool = False) -> Function:
    """Returns an activation.

    Args:
        name: one of `darkprune.layers.activations.NAMES`.
        overwrite: whether the argument may be overwritten: it is the caller's own, and nothing else needs its values.
    """
    return _OVERWRITING.get(name, FUNCTIONS[name]) if overwrite else FUNCTIONS[name]
