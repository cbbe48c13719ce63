"""[upsample], [reorg], [reorg3d], [crop]."""

from __future__ import annotations

import numpy as np

from darkprune.layers import Kind
from darkprune.layers.resample import Crop, Reorg, Reorg3d, Upsample
from darkprune.onnx.nodes.builder import LayerOutput
from darkprune.onnx.nodes.layer_writer import LayerWriter, writes


@writes(Upsample)
def _upsample(writer: LayerWriter[Upsample]) -> LayerOutput:
    stride, scale, tensor = writer.kind.stride, writer.kind.scale, writer.map_of()
    if stride < 0:
        return _downsample(writer, tensor, -stride)
    if stride > 1:
        scales = writer.builder.constant(f"scales/{stride}", np.array([1, 1, stride, stride], np.float32))
        # the region of interest, of no effect here, may be left out from opset 13 on; parsers warn of an empty one
        whole = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
        region = "" if writer.builder.opset >= 13 else writer.builder.constant("whole_region", whole)
        tensor = writer.node(
            "Resize",
            [tensor, region, scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    return writer.map(tensor if scale == 1 else writer.multiply(tensor, scale, "scale"))


def _downsample(writer: LayerWriter[Upsample], tensor: str, stride: int) -> LayerOutput:
    """A negative stride sums blocks."""
    source = writer.inputs[0].feature
    if source.h % stride or source.w % stride:
        raise writer.error(f"{source.w}x{source.h} is no multiple of {stride}, where darknet's rows shift")
    mean = writer.node("AveragePool", [tensor], "mean", kernel_shape=[stride] * 2, strides=[stride] * 2)
    return writer.map(writer.multiply(mean, writer.kind.scale * stride**2, "sum"))


@writes(Reorg)
def _reorg(writer: LayerWriter[Reorg]) -> LayerOutput:
    s, source = writer.kind.stride, writer.inputs[0].feature
    if source.c % (s * s):
        raise writer.error(f"{source.c} channels are no multiple of {s * s}")
    if writer.kind.reverse:
        return _depth_to_space(writer, source.c, source.h, source.w)
    # the memory of the map is read as an enlarged map of fewer channels
    return _space_to_depth(writer, source.c // (s * s), source.h * s, source.w * s)


@writes(Reorg3d)
def _reorg3d(writer: LayerWriter[Reorg3d]) -> LayerOutput:
    source, output = writer.inputs[0].feature, writer.layer.output
    if not writer.kind.reverse:
        return _space_to_depth(writer, source.c, source.h, source.w)
    # darknet passes the sizes of the output where those of the input belong: what results inverts [reorg]
    if output.c % writer.kind.stride**2:
        raise writer.error(f"reverse=1 with {source.c} channels: no multiple of {writer.kind.stride**4}")
    return _depth_to_space(writer, output.c, output.h, output.w)


def _space_to_depth(writer: LayerWriter[Reorg | Reorg3d], c: int, h: int, w: int) -> LayerOutput:
    """Y[o·c + k, y, x] = X[k, y·s + o/s, x·s + o%s] for the input read as (c, h, w)."""
    s = writer.kind.stride
    if h % s or w % s:
        raise writer.error(f"{w}x{h} is no multiple of the stride {s}")
    cells = writer.reshape(writer.map_of(), 0, c, h // s, s, w // s, s, step="cells")
    return _shaped(writer, writer.transpose(cells, 0, 3, 5, 1, 2, 4))


def _depth_to_space(writer: LayerWriter[Reorg | Reorg3d], c: int, h: int, w: int) -> LayerOutput:
    """The inverse, for the input read as (c, h, w)."""
    s = writer.kind.stride
    cells = writer.reshape(writer.map_of(), 0, s, s, c // (s * s), h, w, step="cells")
    return _shaped(writer, writer.transpose(cells, 0, 3, 4, 1, 5, 2))


def _shaped(writer: LayerWriter[Kind], tensor: str) -> LayerOutput:
    output = writer.layer.output
    return writer.map(writer.reshape(tensor, 0, output.c, output.h, output.w, step="image"))


@writes(Crop)
def _crop(writer: LayerWriter[Crop]) -> LayerOutput:
    source, output = writer.inputs[0].feature, writer.layer.output
    if output.h > source.h or output.w > source.w:
        raise writer.error(f"cannot cut {output.w}x{output.h} out of {source.w}x{source.h}")
    top, left = (source.h - output.h) // 2, (source.w - output.w) // 2
    rows = writer.slice(writer.map_of(), 2, top, top + output.h, step="rows")
    cut = writer.slice(rows, 3, left, left + output.w, step="columns")
    if writer.kind.noadjust:
        return writer.map(cut)
    return writer.map(writer.add(writer.multiply(cut, 2.0, "double"), -1.0, "adjust"))
