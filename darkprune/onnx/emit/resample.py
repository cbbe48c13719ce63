"""[upsample], [reorg], [reorg3d], [crop]."""

from __future__ import annotations

from typing import Any

import numpy as np

from darkprune.layers.resample import Crop, Reorg, Reorg3d, Upsample
from darkprune.onnx.emit.base import Signal
from darkprune.onnx.emit.scope import Scope, emits


@emits(Upsample)
def _upsample(scope: Scope[Upsample]) -> Signal:
    stride, scale, tensor = scope.kind.stride, scope.kind.scale, scope.map_of()
    if stride < 0:
        return _downsample(scope, tensor, -stride)
    if stride > 1:
        scales = scope.net.constant(f"scales/{stride}", np.array([1, 1, stride, stride], np.float32))
        # the region of interest may be left out from opset 13 on
        region = "" if scope.net.opset >= 13 else scope.net.constant("no_region", np.zeros(0, np.float32))
        tensor = scope.node(
            "Resize",
            [tensor, region, scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    return scope.map(tensor if scale == 1 else scope.multiply(tensor, scale, "scale"))


def _downsample(scope: Scope[Upsample], tensor: str, stride: int) -> Signal:
    """A negative stride sums blocks."""
    source = scope.inputs[0].feature
    if source.h % stride or source.w % stride:
        raise scope.error(f"{source.w}x{source.h} is no multiple of {stride}, where darknet's rows shift")
    mean = scope.node("AveragePool", [tensor], "mean", kernel_shape=[stride] * 2, strides=[stride] * 2)
    return scope.map(scope.multiply(mean, scope.kind.scale * stride**2, "sum"))


@emits(Reorg)
def _reorg(scope: Scope[Reorg]) -> Signal:
    s, source = scope.kind.stride, scope.inputs[0].feature
    if source.c % (s * s):
        raise scope.error(f"{source.c} channels are no multiple of {s * s}")
    if scope.kind.reverse:
        return _depth_to_space(scope, source.c, source.h, source.w)
    # the memory of the map is read as an enlarged map of fewer channels
    return _space_to_depth(scope, source.c // (s * s), source.h * s, source.w * s)


@emits(Reorg3d)
def _reorg3d(scope: Scope[Reorg3d]) -> Signal:
    source, output = scope.inputs[0].feature, scope.layer.output
    if not scope.kind.reverse:
        return _space_to_depth(scope, source.c, source.h, source.w)
    # darknet passes the sizes of the output where those of the input belong: what results inverts [reorg]
    if output.c % scope.kind.stride**2:
        raise scope.error(f"reverse=1 with {source.c} channels: no multiple of {scope.kind.stride**4}")
    return _depth_to_space(scope, output.c, output.h, output.w)


def _space_to_depth(scope: Scope[Any], c: int, h: int, w: int) -> Signal:
    """Y[o·c + k, y, x] = X[k, y·s + o/s, x·s + o%s] for the input read as (c, h, w)."""
    s = scope.kind.stride
    if h % s or w % s:
        raise scope.error(f"{w}x{h} is no multiple of the stride {s}")
    cells = scope.reshape(scope.map_of(), 0, c, h // s, s, w // s, s, step="cells")
    return _shaped(scope, scope.transpose(cells, 0, 3, 5, 1, 2, 4))


def _depth_to_space(scope: Scope[Any], c: int, h: int, w: int) -> Signal:
    """The inverse, for the input read as (c, h, w)."""
    s = scope.kind.stride
    cells = scope.reshape(scope.map_of(), 0, s, s, c // (s * s), h, w, step="cells")
    return _shaped(scope, scope.transpose(cells, 0, 3, 4, 1, 5, 2))


def _shaped(scope: Scope[Any], tensor: str) -> Signal:
    output = scope.layer.output
    return scope.map(scope.reshape(tensor, 0, output.c, output.h, output.w, step="image"))


@emits(Crop)
def _crop(scope: Scope[Crop]) -> Signal:
    source, output = scope.inputs[0].feature, scope.layer.output
    if output.h > source.h or output.w > source.w:
        raise scope.error(f"cannot cut {output.w}x{output.h} out of {source.w}x{source.h}")
    top, left = (source.h - output.h) // 2, (source.w - output.w) // 2
    rows = scope.slice(scope.map_of(), 2, top, top + output.h, step="rows")
    cut = scope.slice(rows, 3, left, left + output.w, step="columns")
    if scope.kind.noadjust:
        return scope.map(cut)
    return scope.map(scope.add(scope.multiply(cut, 2.0, "double"), -1.0, "adjust"))
