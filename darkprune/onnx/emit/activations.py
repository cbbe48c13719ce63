"""Activations in operators that every TensorRT generation has: no Mish, HardSwish, Where or comparison nodes.

Piecewise functions are written as sums of clipped lines, which are exact: see the formulas beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from darkprune.onnx.emit.scope import Scope

_Writer = Callable[[Scope[Any], str], str]


def activate(scope: Scope[Any], tensor: str, name: str) -> str:
    """Applies darknet's activation of that (normalised) name to a tensor whose axis 1 is the channel axis."""
    return _WRITERS[name](scope, tensor)


def _operator(operator: str, **attributes: Any) -> _Writer:
    return lambda scope, x: scope.node(operator, [x], **attributes)


def _mish(scope: Scope[Any], x: str) -> str:
    # 1 + e^x has 11 bits in half precision: Softplus there is wrong by 7 % at x = -5
    with scope.net.careful():
        gate = scope.node("Tanh", [scope.node("Softplus", [x])])
    return scope.multiply(x, gate, "mish")


def _swish(scope: Scope[Any], x: str) -> str:
    return scope.multiply(x, scope.node("Sigmoid", [x]), "swish")


def _hard_mish(scope: Scope[Any], x: str) -> str:
    # t = clip(x, -2, 0): t²/2 + t is 0 from -2 downwards and at 0; relu(x) adds the rest
    t = scope.clip(x, -2, 0)
    curve = scope.multiply(t, scope.add(scope.multiply(t, 0.5, "half"), 1.0, "half_plus_1"), "curve")
    return scope.add(curve, scope.node("Relu", [x]), "hard_mish")


def _loggy(scope: Scope[Any], x: str) -> str:
    return scope.add(scope.multiply(scope.node("Sigmoid", [x]), 2.0, "double"), -1.0, "loggy")


def _gelu(scope: Scope[Any], x: str) -> str:
    with scope.net.careful():  # x³ leaves the range of half precision at 41
        cube = scope.multiply(scope.multiply(x, x, "square"), x, "cube")
        inner = scope.add(scope.multiply(x, 0.797885, "linear"), scope.multiply(cube, 0.035677, "cubic"), "inner")
        gate = scope.add(scope.node("Tanh", [inner]), 1.0, "gate")
    return scope.multiply(scope.multiply(x, 0.5, "half"), gate, "gelu")


def _ramp(scope: Scope[Any], x: str) -> str:
    return scope.add(scope.node("Relu", [x]), scope.multiply(x, 0.1, "tenth"), "ramp")


def _plse(scope: Scope[Any], x: str) -> str:
    # slopes .01, .125, .01 with kinks at -4 and 4: .115·clip(x, -4, 4) + .01·x + .5
    middle = scope.multiply(scope.clip(x, -4, 4), 0.115, "middle")
    return scope.add(scope.add(middle, scope.multiply(x, 0.01, "line"), "kinked"), 0.5, "plse")


def _lhtan(scope: Scope[Any], x: str) -> str:
    # slopes .001, 1, .001 with kinks at 0 and 1: .999·clip(x, 0, 1) + .001·x
    return scope.add(scope.multiply(scope.clip(x, 0, 1), 0.999, "middle"), scope.multiply(x, 0.001, "line"), "lhtan")


def _stair(scope: Scope[Any], x: str) -> str:
    # with n = floor(x) and f = floor(x/2), n - 2f is 1 where n is odd: f + (x - n)·(n - 2f)
    whole = scope.node("Floor", [x], "whole")
    half = scope.node("Floor", [scope.multiply(x, 0.5, "halved")], "half")
    odd = scope.add(whole, scope.multiply(half, -2.0, "even"), "odd")
    rest = scope.node("Sub", [x, whole], "rest")
    return scope.add(half, scope.multiply(rest, odd, "slope"), "stair")


def _shares(scope: Scope[Any], parts: str) -> str:
    total = scope.add(scope.reduce("ReduceSum", parts, 1), 1e-4, "total")
    return scope.node("Div", [parts, total], "share")


def _normalize_channels(scope: Scope[Any], x: str) -> str:
    with scope.net.careful():
        return _shares(scope, scope.node("Relu", [x]))


def _normalize_softmax(scope: Scope[Any], x: str) -> str:
    with scope.net.careful():
        return _shares(scope, scope.node("Exp", [x]))


def _normalize_softmax_maxval(scope: Scope[Any], x: str) -> str:
    with scope.net.careful():
        below = scope.node("Sub", [x, scope.reduce("ReduceMax", x, 1)], "below_max")
        return _shares(scope, scope.node("Exp", [below]))


_WRITERS: dict[str, _Writer] = {
    "linear": lambda scope, x: x,
    "logistic": _operator("Sigmoid"),
    "loggy": _loggy,
    "relu": _operator("Relu"),
    "relu6": lambda scope, x: scope.clip(x, 0, 6),
    "elu": _operator("Elu", alpha=1.0),
    "selu": _operator("Selu", alpha=1.6732, gamma=1.0507),
    "gelu": _gelu,
    "relie": _operator("LeakyRelu", alpha=0.01),
    "ramp": _ramp,
    "leaky": _operator("LeakyRelu", alpha=0.1),
    "revleaky": _operator("LeakyRelu", alpha=0.1),
    "tanh": _operator("Tanh"),
    "plse": _plse,
    "stair": _stair,
    "hardtan": lambda scope, x: scope.clip(x, -1, 1),
    "lhtan": _lhtan,
    "swish": _swish,
    "mish": _mish,
    "hard_mish": _hard_mish,
    "normalize_channels": _normalize_channels,
    "normalize_channels_softmax": _normalize_softmax,
    "normalize_channels_softmax_maxval": _normalize_softmax_maxval,
}
