"""Activations in operators that every TensorRT generation has: no Mish, HardSwish, Where or comparison nodes.

Piecewise functions are written as sums of clipped lines, which are exact: see the formulas beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from darkprune.layers import Kind
from darkprune.onnx.nodes.layer_writer import LayerWriter

_Writer = Callable[[LayerWriter[Kind], str], str]


def activate(writer: LayerWriter[Kind], tensor: str, name: str) -> str:
    """Applies darknet's activation of that (normalised) name to a tensor whose axis 1 is the channel axis."""
    return _WRITERS[name](writer, tensor)


def _operator(operator: str, **attributes: Any) -> _Writer:
    return lambda writer, x: writer.node(operator, [x], **attributes)


def _mish(writer: LayerWriter[Kind], x: str) -> str:
    # 1 + e^x has 11 bits in half precision: Softplus there is wrong by 7 % at x = -5
    with writer.builder.in_fp32():
        gate = writer.node("Tanh", [writer.node("Softplus", [x])])
    return writer.multiply(x, gate, "mish")


def _swish(writer: LayerWriter[Kind], x: str) -> str:
    return writer.multiply(x, writer.node("Sigmoid", [x]), "swish")


def _hard_mish(writer: LayerWriter[Kind], x: str) -> str:
    # t = clip(x, -2, 0): t²/2 + t is 0 from -2 downwards and at 0; relu(x) adds the rest
    t = writer.clip(x, -2, 0)
    curve = writer.multiply(t, writer.add(writer.multiply(t, 0.5, "half"), 1.0, "half_plus_1"), "curve")
    return writer.add(curve, writer.node("Relu", [x]), "hard_mish")


def _loggy(writer: LayerWriter[Kind], x: str) -> str:
    return writer.add(writer.multiply(writer.node("Sigmoid", [x]), 2.0, "double"), -1.0, "loggy")


def _gelu(writer: LayerWriter[Kind], x: str) -> str:
    with writer.builder.in_fp32():  # x³ leaves the range of half precision at 41
        cube = writer.multiply(writer.multiply(x, x, "square"), x, "cube")
        inner = writer.add(writer.multiply(x, 0.797885, "linear"), writer.multiply(cube, 0.035677, "cubic"), "inner")
        gate = writer.add(writer.node("Tanh", [inner]), 1.0, "gate")
    return writer.multiply(writer.multiply(x, 0.5, "half"), gate, "gelu")


def _ramp(writer: LayerWriter[Kind], x: str) -> str:
    return writer.add(writer.node("Relu", [x]), writer.multiply(x, 0.1, "tenth"), "ramp")


def _plse(writer: LayerWriter[Kind], x: str) -> str:
    # slopes .01, .125, .01 with kinks at -4 and 4: .115·clip(x, -4, 4) + .01·x + .5
    middle = writer.multiply(writer.clip(x, -4, 4), 0.115, "middle")
    return writer.add(writer.add(middle, writer.multiply(x, 0.01, "line"), "kinked"), 0.5, "plse")


def _lhtan(writer: LayerWriter[Kind], x: str) -> str:
    # slopes .001, 1, .001 with kinks at 0 and 1: .999·clip(x, 0, 1) + .001·x
    return writer.add(
        writer.multiply(writer.clip(x, 0, 1), 0.999, "middle"), writer.multiply(x, 0.001, "line"), "lhtan"
    )


def _stair(writer: LayerWriter[Kind], x: str) -> str:
    # with n = floor(x) and f = floor(x/2), n - 2f is 1 where n is odd: f + (x - n)·(n - 2f)
    whole = writer.node("Floor", [x], "whole")
    half = writer.node("Floor", [writer.multiply(x, 0.5, "halved")], "half")
    odd = writer.add(whole, writer.multiply(half, -2.0, "even"), "odd")
    rest = writer.node("Sub", [x, whole], "rest")
    return writer.add(half, writer.multiply(rest, odd, "slope"), "stair")


def _shares(writer: LayerWriter[Kind], parts: str) -> str:
    total = writer.add(writer.reduce("ReduceSum", parts, 1), 1e-4, "total")
    return writer.node("Div", [parts, total], "share")


def _normalize_channels(writer: LayerWriter[Kind], x: str) -> str:
    with writer.builder.in_fp32():
        return _shares(writer, writer.node("Relu", [x]))


def _normalize_softmax(writer: LayerWriter[Kind], x: str) -> str:
    with writer.builder.in_fp32():
        return _shares(writer, writer.node("Exp", [x]))


def _normalize_softmax_maxval(writer: LayerWriter[Kind], x: str) -> str:
    with writer.builder.in_fp32():
        below = writer.node("Sub", [x, writer.reduce("ReduceMax", x, 1)], "below_max")
        return _shares(writer, writer.node("Exp", [below]))


_WRITERS: dict[str, _Writer] = {
    "linear": lambda writer, x: x,
    "logistic": _operator("Sigmoid"),
    "loggy": _loggy,
    "relu": _operator("Relu"),
    "relu6": lambda writer, x: writer.clip(x, 0, 6),
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
    "hardtan": lambda writer, x: writer.clip(x, -1, 1),
    "lhtan": _lhtan,
    "swish": _swish,
    "mish": _mish,
    "hard_mish": _hard_mish,
    "normalize_channels": _normalize_channels,
    "normalize_channels_softmax": _normalize_softmax,
    "normalize_channels_softmax_maxval": _normalize_softmax_maxval,
}
