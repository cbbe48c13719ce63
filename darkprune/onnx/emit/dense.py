"""[connected], normalisations, [softmax], [detection], [implicit], [activation], identities; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkprune.layers.convolution import batch_norm
from darkprune.layers.dense import Connected
from darkprune.layers.heads import Detection
from darkprune.layers.norm import BatchNorm, Normalization
from darkprune.layers.recurrent import ConvLstm, Crnn, Gru, History, Lstm, Rnn
from darkprune.layers.simple import Activation, Contrastive, Cost, Dropout, Empty, Implicit, Softmax
from darkprune.onnx.emit.activations import activate
from darkprune.onnx.emit.base import INPUT_NAME, Signal
from darkprune.onnx.emit.convolution import folded, norm_of
from darkprune.onnx.emit.scope import UNSUPPORTED, Scope, emits

_MAX_BAND = 4096  #: widest map that [normalization] is written for: its kernel has this squared values

UNSUPPORTED.update(
    dict.fromkeys(
        (Rnn, Crnn, Gru, Lstm, ConvLstm, History),
        "keeps a state from one call to the next, which an ONNX file of a detector does not: it cannot be exported",
    )
)


@emits(Connected)
def _connected(scope: Scope[Connected]) -> Signal:
    slope, intercept = norm_of(scope)
    shape = (scope.kind.outputs, scope.inputs[0].feature.outputs)
    weights = scope.net.deferred(f"{scope.prefix}/weights", shape, folded(scope, slope))
    biases = scope.constant("biases", intercept)
    made = scope.node("Gemm", [scope.flat_of(), weights, biases], "connect", transB=1)
    return scope.flat(activate(scope, made, scope.kind.activation))


@emits(BatchNorm)
def _batchnorm(scope: Scope[BatchNorm]) -> Signal:
    slope, intercept = (values.reshape(1, -1, 1, 1) for values in batch_norm(scope.blob))
    scaled = scope.multiply(scope.map_of(), scope.constant("slope", slope), "scale")
    return scope.map(scope.add(scaled, scope.constant("intercept", intercept), "shift"))


@emits(Normalization)
def _normalization(scope: Scope[Normalization]) -> Signal:
    """x·(κ + α·S)^−β, where S, darknet's sum over a window of channels, is a 1x1 convolution of the squares."""
    kind, channels = scope.kind, scope.layer.output.c
    if channels > _MAX_BAND:
        raise scope.error(f"{channels} channels: the kernel that sums over its window would be too large")
    band = (kind.alpha * window_sums(channels, kind.size)).reshape(channels, channels, 1, 1)
    with scope.net.careful():  # squares leave the range of half precision at 256
        x = scope.map_of()
        inputs = [scope.multiply(x, x, "square"), scope.constant("window", band)]
        inputs.append(scope.constant("kappa", np.full(channels, kind.kappa)))
        power = scope.node(
            "Pow", [scope.node("Conv", inputs, "sum", kernel_shape=[1, 1]), scope.net.scalar(-kind.beta)]
        )
        return scope.map(scope.multiply(x, power, "normalise"))


def window_sums(channels: int, size: int) -> NDArray[np.float32]:
    """Returns M with S = M·squares: darknet's running sum (`normalization_layer.c`), with its fault.

    The sum starts with size/2 channels instead of size/2 + 1, so channel size/2 is never added, yet later subtracted.
    """
    sums = np.zeros((channels, channels), np.float32)
    sums[0, : size // 2] = 1
    for k in range(1, channels):
        sums[k] = sums[k - 1]
        leaving, entering = k - (size - 1) // 2 - 1, k + size // 2
        if leaving >= 0:
            sums[k, leaving] -= 1
        if entering < channels:
            sums[k, entering] += 1
    return sums


@emits(Softmax)
def _softmax(scope: Scope[Softmax]) -> Signal:
    kind, count = scope.kind, scope.layer.output.outputs
    if scope.options.has("tree"):
        raise scope.error("a softmax over a tree of classes cannot be exported")
    if kind.spatial:
        scope.net.remarks.append(f"layer {scope.layer.index}: spatial=1 is without effect, as on darknet's CPU")
    with scope.net.careful():
        x = scope.flat_of()
        if kind.temperature != 1:
            x = scope.multiply(x, 1 / kind.temperature, "temper")
        if kind.groups == 1:
            return scope.flat(scope.node("Softmax", [x], axis=1))
        parts = scope.node("Softmax", [scope.reshape(x, 0, kind.groups, count // kind.groups, step="parts")], axis=2)
        return scope.flat(scope.reshape(parts, 0, count, step="whole"))


@emits(Detection)
def _detection(scope: Scope[Detection]) -> Signal:
    """darknet's output: side²·classes (softmax if asked for), side²·num objectness, side²·num boxes, all raw."""
    kind, x = scope.kind, scope.flat_of()
    if not kind.softmax:
        return scope.flat(x)
    cells, count = kind.side**2, kind.side**2 * kind.classes
    with scope.net.careful():
        classes = scope.reshape(scope.slice(x, 1, 0, count, step="classes"), 0, cells, kind.classes, step="cells")
        shares = scope.reshape(scope.node("Softmax", [classes], axis=2), 0, count, step="shares")
        rest = scope.slice(x, 1, count, scope.layer.output.outputs, step="rest")
        return scope.flat(scope.node("Concat", [shares, rest], axis=1))


@emits(Implicit)
def _implicit(scope: Scope[Implicit]) -> Signal:
    values = scope.blob("weights").reshape(1, scope.kind.filters, scope.kind.atoms, 1)
    if scope.net.batch is not None:
        return scope.map(scope.constant("weights", np.repeat(values, scope.net.batch, axis=0)))
    images = scope.slice(scope.node("Shape", [INPUT_NAME]), 0, 0, 1, step="images")
    sizes = scope.node("Concat", [images, scope.net.integers(*values.shape[1:])], "sizes", axis=0)
    return scope.map(scope.node("Expand", [scope.constant("weights", values), sizes]))


@emits(Activation)
def _activation(scope: Scope[Activation]) -> Signal:
    if not scope.layer.output.is_map:
        return scope.flat(activate(scope, scope.flat_of(), scope.kind.activation))
    return scope.map(activate(scope, scope.map_of(), scope.kind.activation))


def _identity(scope: Scope[Any]) -> Signal:
    return scope.inputs[0]


for _kind in (Dropout, Empty, Cost, Contrastive):
    emits(_kind)(_identity)
