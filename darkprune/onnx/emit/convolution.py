"""[convolutional] and [local]: batch normalisation folded in, the blur of `antialiasing`, kernels per position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from darkprune.layers import Feature
from darkprune.layers.base import Floats
from darkprune.layers.convolution import Convolutional, Local, batch_norm
from darkprune.onnx.emit.activations import activate
from darkprune.onnx.emit.base import Array, Signal
from darkprune.onnx.emit.scope import Scope, emits, layer_name


@emits(Convolutional)
def _convolutional(scope: Scope[Convolutional]) -> Signal:
    kind, geometry, source = scope.kind, scope.kind.geometry, scope.inputs[0].feature
    if kind.xnor:
        raise scope.error("xnor=1 computes with signs of inputs and weights, which ONNX convolutions do not")
    if kind.binary:
        scope.net.remarks.append(
            f"layer {scope.layer.index}: binary=1 is without effect, as on darknet's CPU; its GPU build uses the signs"
        )
    strides = (1, 1) if kind.antialiasing else (geometry.stride_y, geometry.stride_x)
    before = geometry.padding * geometry.dilation
    reach = geometry.dilation * (geometry.size - 1) + 1
    weights, biases = _parameters(scope)
    made = scope.node(
        "Conv",
        [scope.map_of(), weights, biases],
        kernel_shape=[geometry.size] * 2,
        strides=list(strides),
        pads=scope.pads(source, strides, reach, before, before),
        dilations=[geometry.dilation] * 2,
        group=geometry.groups,
    )
    return blurred(scope, activate(scope, made, kind.activation), (geometry.stride_y, geometry.stride_x))


def blurred(scope: Scope[Any], tensor: str, strides: tuple[int, int]) -> Signal:
    """Makes the layer's signal; with `antialiasing` the layer behind sees it through a fixed low-pass.

    That is a 3x3 binomial with padding 1, or for antialiasing=2 a 2x2 box without (`make_convolutional_layer`).
    """
    antialiasing, channels = scope.kind.antialiasing, scope.layer.output.c
    if not antialiasing:
        return scope.map(tensor)
    line = np.array([1, 1] if antialiasing == 2 else [1, 2, 1], np.float32)
    kernel = np.outer(line, line) / line.sum() ** 2
    behind = scope.node(
        "Conv",
        [tensor, scope.constant("blur_kernel", np.tile(kernel, (channels, 1, 1, 1)))],
        "blur",
        kernel_shape=list(kernel.shape),
        strides=list(strides),
        pads=[0 if antialiasing == 2 else 1] * 4,
        dilations=[1, 1],
        group=channels,
    )
    seen = scope.kind.seen_behind(scope.layer.output)
    return replace(scope.map(tensor), blurred=Signal(seen, as_map=behind))


def _parameters(scope: Scope[Convolutional]) -> tuple[str, str]:
    """Adds weights and biases with the normalisation folded in; those of a shared layer exist once."""
    geometry = scope.kind.geometry
    name = layer_name(scope.owner)
    shape = (geometry.filters, scope.inputs[0].feature.c // geometry.groups, geometry.size, geometry.size)
    if f"{name}/weights" not in scope.net.constants:
        slope, intercept = norm_of(scope)
        flipped = scope.kind.flipped
        scope.net.constant(f"{name}/biases", np.ascontiguousarray(intercept, np.float32))
        scope.net.deferred(f"{name}/weights", shape, folded(scope, slope, flipped))
    if scope.net.constants[f"{name}/weights"].shape != shape:
        raise scope.error(f"share_index: its weights do not have the shape of those of layer {scope.owner.index}")
    return f"{name}/weights", f"{name}/biases"


def norm_of(scope: Scope[Any]) -> tuple[Floats | None, Floats]:
    """Returns what normalisation and bias come to: factor per output channel (None: 1) and summand, in float64."""
    if any(blob.name == "scales" for blob in scope.owner.blobs):
        return batch_norm(scope.blob)
    return None, np.float64(scope.blob("biases"))


def folded(scope: Scope[Any], slope: Floats | None, flipped: bool = False) -> Callable[[], Array]:
    """Returns a function that reads the weights and multiplies each output channel's by its factor.

    The product is taken in float64 and rounded once, as darknet's fusion does it; in place, so that one copy of the
    tensor is in memory.
    """

    def make() -> Array:
        weights = scope.blob("weights")
        if flipped:  # stored (c/groups, k, k, n)
            weights = np.ascontiguousarray(np.moveaxis(weights, -1, 0))
        if slope is not None:
            factors = slope.reshape(-1, *[1] * (weights.ndim - 1))
            np.multiply(weights, factors, out=weights, casting="same_kind")
        return weights

    return make


@emits(Local)
def _local(scope: Scope[Local]) -> Signal:
    """A kernel per position: the image unfolded by a depthwise convolution, then one matrix product per position."""
    kind, source, output = scope.kind, scope.inputs[0].feature, scope.layer.output
    taps, places, pad = kind.size**2, output.h * output.w, int(kind.pad)
    size = tuple((x + 2 * pad - kind.size) // kind.stride + 1 for x in (source.h, source.w))
    if size != (output.h, output.w):
        raise scope.error(
            f"size={kind.size} with pad={pad} misreads darknet's own buffers; only pad=1 with size=3 fits"
        )
    unit = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, kind.size, kind.size), (source.c, 1, 1, 1))
    seen = scope.node(
        "Conv",
        [scope.map_of(), scope.constant("unfold_kernel", unit)],
        "unfold",
        kernel_shape=[kind.size] * 2,
        strides=[kind.stride] * 2,
        pads=[pad] * 4,
        group=source.c,
    )
    columns = scope.transpose(scope.reshape(seen, 0, source.c * taps, places, step="columns"), 2, 0, 1, step="places")
    weights = scope.net.deferred(
        f"{scope.prefix}/weights",
        (places, source.c * taps, kind.filters),
        lambda: np.ascontiguousarray(scope.blob("weights").reshape(places, kind.filters, -1).transpose(0, 2, 1)),
    )
    product = scope.transpose(scope.node("MatMul", [columns, weights]), 1, 2, 0, step="channels")
    image = scope.reshape(product, 0, *_sizes(output), step="image")
    made = scope.add(image, scope.constant("biases", scope.blob("biases")[None]), "biased")
    return scope.map(activate(scope, made, kind.activation))


def _sizes(feature: Feature) -> tuple[int, int, int]:
    return feature.c, feature.h, feature.w
