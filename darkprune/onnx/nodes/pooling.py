"""[maxpool], [local_avgpool], [avgpool]."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from darkprune.layers import Kind
from darkprune.layers.pooling import AvgPool, LocalAvgPool, MaxPool, Window
from darkprune.onnx.nodes.builder import LayerOutput
from darkprune.onnx.nodes.convolution import blurred
from darkprune.onnx.nodes.layer_writer import LayerWriter, writes

_LOWEST = float(np.finfo(np.float32).min)  # darknet's maximum over nothing


@writes(MaxPool)
def _maxpool(writer: LayerWriter[MaxPool]) -> LayerOutput:
    kind, window = writer.kind, writer.kind.window
    if kind.depth:
        return _depth(writer)
    if kind.antialiasing:
        pooled = _windowed(writer, "MaxPool", replace(window, stride_x=1, stride_y=1))
        return blurred(writer, pooled, (window.stride_y, window.stride_x))
    return writer.map(_windowed(writer, "MaxPool", window))


@writes(LocalAvgPool)
def _local_avgpool(writer: LayerWriter[LocalAvgPool]) -> LayerOutput:
    if _uncovered(writer.kind.window):
        raise writer.error("its padding is as large as its window: the mean over a window outside of the image is 0/0")
    return writer.map(_windowed(writer, "AveragePool", writer.kind.window, count_include_pad=0))


@writes(AvgPool)
def _avgpool(writer: LayerWriter[AvgPool]) -> LayerOutput:
    return writer.map(writer.node("GlobalAveragePool", [writer.map_of()], "mean"))


def _uncovered(window: Window) -> bool:
    """Whether a window may lie in the padding alone, which ONNX runtimes refuse."""
    return window.padding - window.before >= window.size


def _windowed(writer: LayerWriter[Kind], operator: str, window: Window, **attributes: int) -> str:
    """Adds a pooling; `padding` is a total, of which the smaller half goes to the top and to the left."""
    strides, before = (window.stride_y, window.stride_x), window.before
    tensor = writer.map_of()
    pads = writer.pads(writer.inputs[0].feature, strides, window.size, before, window.padding - before)
    if _uncovered(window):
        amounts = writer.builder.integers(0, 0, *pads[:2], 0, 0, *pads[2:])
        with writer.builder.in_fp32():  # half precision does not reach the value of the padding
            tensor, pads = writer.node("Pad", [tensor, amounts, writer.builder.scalar(_LOWEST)]), [0, 0, 0, 0]
    return writer.node(
        operator, [tensor], "pool", kernel_shape=[window.size] * 2, strides=list(strides), pads=pads, **attributes
    )


def _depth(writer: LayerWriter[MaxPool]) -> LayerOutput:
    """Output channel g is the maximum of the input channels g, g + out_channels, …"""
    tensor, source, wanted = writer.map_of(), writer.inputs[0].feature, writer.kind.out_channels
    rounds = -(-source.c // wanted)
    missing = rounds * wanted - source.c
    if missing:
        amounts = writer.builder.integers(0, 0, 0, 0, 0, missing, 0, 0)
        with writer.builder.in_fp32():
            tensor = writer.node("Pad", [tensor, amounts, writer.builder.scalar(_LOWEST)])
    stacked = writer.reshape(tensor, 0, rounds, wanted, source.h * source.w, step="rounds")
    largest = writer.reduce("ReduceMax", stacked, 1, keep=False)
    return writer.map(writer.reshape(largest, 0, wanted, source.h, source.w, step="image"))
