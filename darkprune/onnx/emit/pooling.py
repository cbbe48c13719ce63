"""[maxpool], [local_avgpool], [avgpool]."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from darkprune.layers.pooling import AvgPool, LocalAvgPool, MaxPool, Window
from darkprune.onnx.emit.base import Signal
from darkprune.onnx.emit.convolution import blurred
from darkprune.onnx.emit.scope import Scope, emits

_LOWEST = float(np.finfo(np.float32).min)  # darknet's maximum over nothing


@emits(MaxPool)
def _maxpool(scope: Scope[MaxPool]) -> Signal:
    kind, window = scope.kind, scope.kind.window
    if kind.depth:
        return _depth(scope)
    if kind.antialiasing:
        pooled = _windowed(scope, "MaxPool", replace(window, stride_x=1, stride_y=1))
        return blurred(scope, pooled, (window.stride_y, window.stride_x))
    return scope.map(_windowed(scope, "MaxPool", window))


@emits(LocalAvgPool)
def _local_avgpool(scope: Scope[LocalAvgPool]) -> Signal:
    if _uncovered(scope.kind.window):
        raise scope.error("its padding is as large as its window: the mean over a window outside of the image is 0/0")
    return scope.map(_windowed(scope, "AveragePool", scope.kind.window, count_include_pad=0))


@emits(AvgPool)
def _avgpool(scope: Scope[AvgPool]) -> Signal:
    return scope.map(scope.node("GlobalAveragePool", [scope.map_of()], "mean"))


def _uncovered(window: Window) -> bool:
    """Whether a window may lie in the padding alone, which ONNX runtimes refuse."""
    return window.padding - window.before >= window.size


def _windowed(scope: Scope[Any], operator: str, window: Window, **attributes: int) -> str:
    """Adds a pooling; `padding` is a total, of which the smaller half goes to the top and to the left."""
    strides, before = (window.stride_y, window.stride_x), window.before
    tensor = scope.map_of()
    pads = scope.pads(scope.inputs[0].feature, strides, window.size, before, window.padding - before)
    if _uncovered(window):
        amounts = scope.net.integers(0, 0, *pads[:2], 0, 0, *pads[2:])
        with scope.net.careful():  # half precision does not reach the value of the padding
            tensor, pads = scope.node("Pad", [tensor, amounts, scope.net.scalar(_LOWEST)]), [0, 0, 0, 0]
    return scope.node(
        operator, [tensor], "pool", kernel_shape=[window.size] * 2, strides=list(strides), pads=pads, **attributes
    )


def _depth(scope: Scope[MaxPool]) -> Signal:
    """Output channel g is the maximum of the input channels g, g + out_channels, …"""
    tensor, source, wanted = scope.map_of(), scope.inputs[0].feature, scope.kind.out_channels
    rounds = -(-source.c // wanted)
    missing = rounds * wanted - source.c
    if missing:
        amounts = scope.net.integers(0, 0, 0, 0, 0, missing, 0, 0)
        with scope.net.careful():
            tensor = scope.node("Pad", [tensor, amounts, scope.net.scalar(_LOWEST)])
    stacked = scope.reshape(tensor, 0, rounds, wanted, source.h * source.w, step="rounds")
    largest = scope.reduce("ReduceMax", stacked, 1, keep=False)
    return scope.map(scope.reshape(largest, 0, wanted, source.h, source.w, step="image"))
