"""[convolutional] and [local]: batch normalisation folded in, the blur of `antialiasing`, kernels per position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from darkprune.layers import Feature, Kind
from darkprune.layers.base import Floats
from darkprune.layers.convolution import Convolutional, Local, batch_norm
from darkprune.layers.pooling import MaxPool
from darkprune.onnx.nodes.activations import activate
from darkprune.onnx.nodes.builder import Array, LayerOutput
from darkprune.onnx.nodes.layer_writer import LayerWriter, layer_name, writes


@writes(Convolutional)
def _convolutional(writer: LayerWriter[Convolutional]) -> LayerOutput:
    kind, geometry, source = writer.kind, writer.kind.geometry, writer.inputs[0].feature
    if kind.xnor:
        raise writer.error("xnor=1 computes with signs of inputs and weights, which ONNX convolutions do not")
    if kind.binary:
        writer.builder.remarks.append(
            f"layer {writer.layer.index}: binary=1 is without effect, as on darknet's CPU; its GPU build uses the signs"
        )
    strides = (1, 1) if kind.antialiasing else (geometry.stride_y, geometry.stride_x)
    before = geometry.padding * geometry.dilation
    reach = geometry.dilation * (geometry.size - 1) + 1
    weights, biases = _parameters(writer)
    made = writer.node(
        "Conv",
        [writer.map_of(), weights, biases],
        kernel_shape=[geometry.size] * 2,
        strides=list(strides),
        pads=writer.pads(source, strides, reach, before, before),
        dilations=[geometry.dilation] * 2,
        group=geometry.groups,
    )
    return blurred(writer, activate(writer, made, kind.activation), (geometry.stride_y, geometry.stride_x))


def blurred(writer: LayerWriter[Convolutional | MaxPool], tensor: str, strides: tuple[int, int]) -> LayerOutput:
    """Returns the layer's output; with `antialiasing` the following layer reads it through a fixed low-pass filter.

    The filter is a 3x3 binomial with padding 1, or for antialiasing=2 a 2x2 box without (`make_convolutional_layer`).
    """
    antialiasing, channels = writer.kind.antialiasing, writer.layer.output.c
    if not antialiasing:
        return writer.map(tensor)
    line = np.array([1, 1] if antialiasing == 2 else [1, 2, 1], np.float32)
    kernel = np.outer(line, line) / line.sum() ** 2
    filtered = writer.node(
        "Conv",
        [tensor, writer.constant("blur_kernel", np.tile(kernel, (channels, 1, 1, 1)))],
        "blur",
        kernel_shape=list(kernel.shape),
        strides=list(strides),
        pads=[0 if antialiasing == 2 else 1] * 4,
        dilations=[1, 1],
        group=channels,
    )
    seen = writer.kind.seen_after(writer.layer.output)
    return replace(writer.map(tensor), blurred=LayerOutput(seen, as_map=filtered))


def _parameters(writer: LayerWriter[Convolutional]) -> tuple[str, str]:
    """Adds weights and biases with the batch normalisation folded in; layers that share them have one copy."""
    geometry = writer.kind.geometry
    name = layer_name(writer.owner)
    shape = (geometry.filters, writer.inputs[0].feature.c // geometry.groups, geometry.size, geometry.size)
    if f"{name}/weights" not in writer.builder.constants:
        slope, intercept = norm_of(writer)
        flipped = writer.kind.flipped
        writer.builder.constant(f"{name}/biases", np.ascontiguousarray(intercept, np.float32))
        writer.builder.deferred(f"{name}/weights", shape, folded(writer, slope, flipped))
    if writer.builder.constants[f"{name}/weights"].shape != shape:
        raise writer.error(f"share_index: its weights do not have the shape of those of layer {writer.owner.index}")
    return f"{name}/weights", f"{name}/biases"


def norm_of(writer: LayerWriter[Kind]) -> tuple[Floats | None, Floats]:
    """Returns batch normalisation and bias as factor (None: 1) and summand per output channel, in float64."""
    if any(blob.name == "scales" for blob in writer.owner.blobs):
        return batch_norm(writer.blob)
    return None, np.array(writer.blob("biases"), np.float64)


def folded(writer: LayerWriter[Kind], slope: Floats | None, flipped: bool = False) -> Callable[[], Array]:
    """Returns a function that reads the weights and multiplies each output channel's by its factor.

    The product is taken in float64 and rounded once, as darknet's fusion does it; in place, so that one copy of the
    tensor is in memory.
    """

    def make() -> Array:
        weights = writer.blob("weights")
        if flipped:  # stored (c/groups, k, k, n)
            weights = np.ascontiguousarray(np.moveaxis(weights, -1, 0))
        if slope is not None:
            factors = slope.reshape(-1, *[1] * (weights.ndim - 1))
            np.multiply(weights, factors, out=weights, casting="same_kind")
        return weights

    return make


@writes(Local)
def _local(writer: LayerWriter[Local]) -> LayerOutput:
    """A kernel per position: the image unfolded by a depthwise convolution, then one matrix product per position."""
    kind, source, output = writer.kind, writer.inputs[0].feature, writer.layer.output
    taps, places, pad = kind.size**2, output.h * output.w, int(kind.pad)
    size = tuple((x + 2 * pad - kind.size) // kind.stride + 1 for x in (source.h, source.w))
    if size != (output.h, output.w):
        raise writer.error(
            f"size={kind.size} with pad={pad} misreads darknet's own buffers; only pad=1 with size=3 fits"
        )
    unit = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, kind.size, kind.size), (source.c, 1, 1, 1))
    seen = writer.node(
        "Conv",
        [writer.map_of(), writer.constant("unfold_kernel", unit)],
        "unfold",
        kernel_shape=[kind.size] * 2,
        strides=[kind.stride] * 2,
        pads=[pad] * 4,
        group=source.c,
    )
    columns = writer.transpose(writer.reshape(seen, 0, source.c * taps, places, step="columns"), 2, 0, 1, step="places")
    weights = writer.builder.deferred(
        f"{writer.prefix}/weights",
        (places, source.c * taps, kind.filters),
        lambda: np.ascontiguousarray(writer.blob("weights").reshape(places, kind.filters, -1).transpose(0, 2, 1)),
    )
    product = writer.transpose(writer.node("MatMul", [columns, weights]), 1, 2, 0, step="channels")
    image = writer.reshape(product, 0, *_sizes(output), step="image")
    made = writer.add(image, writer.constant("biases", writer.blob("biases")[None]), "biased")
    return writer.map(activate(writer, made, kind.activation))


def _sizes(feature: Feature) -> tuple[int, int, int]:
    return feature.c, feature.h, feature.w
