"""The forward pass of inference, layer by layer, in float64.

Validated against AlexeyAB's darknet (built with -O2, no AVX, batch normalisation fused as `detector test` does):
see `test_reference.py` for the small cases that need no darknet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from . import arithmetic as ar
from .loading import load
from .network import ReferenceLayer, ReferenceNetwork

__all__ = ["forward", "load"]

Hold = tuple[np.ndarray, np.ndarray]

_CHANNEL_WISE = {"normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval"}
# Activations AlexeyAB's CPU code forgets: activate() falls through to `return 0`. The GPU computes them all.
CPU_ZEROES = {"convolutional": {"relu6"}, "shortcut": {"relu6", "hard_mish", *_CHANNEL_WISE}}
CPU_ZEROES_ELSEWHERE = {"relu6", "hard_mish", "swish", "mish", *_CHANNEL_WISE}


@dataclass
class Pass:
    """One layer at work: `inputs` follow `layer.sources`, `arrays` are in the working precision."""

    layer: ReferenceLayer
    inputs: list[np.ndarray]
    arrays: dict[str, np.ndarray]
    eps: float
    cpu_quirks: bool

    @property
    def x(self) -> np.ndarray:
        """Output of the layer before."""
        return self.inputs[0]

    @property
    def image(self) -> np.ndarray:
        """The input as (c, h, w). A [route] that cuts a channel in two leaves a rest nobody reads."""
        shape = self.layer.input_shape
        return self.x.reshape(-1)[: math.prod(shape)].reshape(shape)

    def activate(self, x: np.ndarray, default: str) -> np.ndarray:
        name = self.layer.options.text("activation", default)
        if self.cpu_quirks and name in CPU_ZEROES.get(self.layer.kind, CPU_ZEROES_ELSEWHERE):
            return np.zeros_like(x)
        return ar.activate(x, name)


def forward(
    network: ReferenceNetwork,
    image: np.ndarray,
    *,
    eps: float = 1e-5,
    hold: Mapping[int, Hold] | None = None,
    dtype: type[np.floating] = np.float64,
    darknet_cpu_quirks: bool = False,
) -> list[np.ndarray]:
    """Runs the network on one image.

    Args:
        network: as `load` returns it.
        image: (c, h, w), or the flat inputs of a network without image.
        eps: added to the variances inside the square root.
        hold: layer index -> (mask, values): the channels of that layer's output where mask, a (c,) bool array, is true
            are overwritten by constants after the activation and before anyone consumes them. values has one entry per
            held channel, or one per channel.
        dtype: working precision.
        darknet_cpu_quirks: also returns the zeros of activations the CPU build forgot, and of [cost] and [contrastive],
            which write nothing at inference. Otherwise: the true function, and the input passed on.

    Returns:
        The output of every layer: (c, h, w); flat for softmax, cost, detection, contrastive, for a route that cuts a
        channel in two, and for region, whose memory is (h, w, anchor, 5 + classes).
    """
    image = np.asarray(image, dtype)
    if image.size != network.inputs:
        raise ValueError(f"the network wants {network.inputs} values, the image has {image.size}")
    outputs: list[np.ndarray] = []
    for layer in network.layers:
        inputs = [outputs[index] if index >= 0 else image for index in layer.sources]
        arrays = {name: array.astype(dtype) for name, array in layer.arrays.items()}
        output = RULES[layer.kind](Pass(layer, inputs, arrays, eps, darknet_cpu_quirks))
        if output.size == np.prod(layer.shape) and layer.kind != "region":
            output = output.reshape(layer.shape)
        if hold and layer.index in hold:
            output = _held(layer, output, *hold[layer.index])
        outputs.append(output)
    return outputs


def _held(layer: ReferenceLayer, output: np.ndarray, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    mask, values = np.asarray(mask, bool), np.asarray(values, output.dtype)
    if output.ndim != 3 or mask.shape != output.shape[:1]:
        raise ValueError(f"layer {layer.index} has no {mask.shape} channels to hold, its output is {output.shape}")
    if values.shape not in (mask.shape, (int(mask.sum()),)):
        raise ValueError(f"{mask.sum()} of {mask.size} channels are held at {values.shape} values")
    output = output.copy()
    output[mask] = (values[mask] if values.shape == mask.shape else values)[:, None, None]
    return output


def _convolutional(p: Pass) -> np.ndarray:
    options, numbers = p.layer.options, p.layer.resolved
    if options.integer("xnor", 0):
        raise NotImplementedError(f"layer {p.layer.index}: xnor=1")
    # binary=1 has no effect on the CPU; sway, rotate, stretch, assisted_excitation act in training only.
    # True function where the CPU build copies the image instead of unfolding it: size=1, stride_x=1 with padding or
    # with another stride_y.
    y = ar.convolve(
        p.image, p.arrays["weights"], numbers["stride"], numbers["padding"], numbers["dilation"], numbers["groups"]
    )
    # A sharing layer uses the fused weights of its source, so the source alone decides about normalisation.
    if "scales" in p.arrays:
        y = ar.batch_normalise(y, p.arrays, p.eps)
    else:
        y = y + p.arrays["biases"][:, None, None]
    return _blurred(p, p.activate(y, "logistic"))


def _blurred(p: Pass, y: np.ndarray) -> np.ndarray:
    antialiasing = p.layer.resolved.get("antialiasing", 0)
    return ar.blur(y, antialiasing, p.layer.resolved["blur_stride"]) if antialiasing else y


def _connected(p: Pass) -> np.ndarray:
    y = p.arrays["weights"] @ p.x.reshape(-1)
    y = ar.batch_normalise(y, p.arrays, p.eps) if "scales" in p.arrays else y + p.arrays["biases"]
    return p.activate(y, "logistic")


def _local(p: Pass) -> np.ndarray:
    numbers, out = p.layer.resolved, p.layer.shape[1:]
    y = ar.convolve_local(p.image, p.arrays["weights"], numbers["stride"], numbers["padding"], out)
    return p.activate(y + p.arrays["biases"], "logistic")


def _pool(p: Pass) -> np.ndarray:
    numbers = p.layer.resolved
    if numbers["depth"]:
        return ar.max_over_channels(p.image, numbers["depth"])
    pool = ar.max_pool if p.layer.kind == "maxpool" else ar.average_pool
    return _blurred(p, pool(p.image, numbers["size"], numbers["stride"], numbers["padding"], numbers["out"]))


def _normalization(p: Pass) -> np.ndarray:
    options = p.layer.options
    alpha, beta, kappa = options.number("alpha", 1e-4), options.number("beta", 0.75), options.number("kappa", 1)
    return ar.local_response(p.image, options.integer("size", 5), alpha, beta, kappa)


def _upsample(p: Pass) -> np.ndarray:
    return ar.upsample(p.image, p.layer.resolved["stride"], p.layer.options.number("scale", 1))


def _reorg3d(p: Pass) -> np.ndarray:
    s = p.layer.resolved["stride"]
    if not p.layer.resolved["reverse"]:
        return ar.space_to_depth(p.image, s)
    # darknet passes the sizes of the output where those of the input belong: this inverts [reorg], not [reorg3d].
    c, h, w = p.layer.shape
    return ar.depth_to_space(p.x.reshape(c, h, w), s)


def _reorg(p: Pass) -> np.ndarray:
    s, (c, h, w) = p.layer.resolved["stride"], p.layer.input_shape
    if p.layer.resolved["reverse"]:
        return ar.depth_to_space(p.image, s)  # this one inverts [reorg3d]
    # The memory of the input is read as if it were an enlarged image of fewer channels.
    return ar.space_to_depth(p.x.reshape(c // (s * s), h * s, w * s), s)


def _crop(p: Pass) -> np.ndarray:
    (_, h, w), (_, out_h, out_w) = p.layer.input_shape, p.layer.shape
    top, left = (h - out_h) // 2, (w - out_w) // 2
    cut = p.image[:, top : top + out_h, left : left + out_w]
    return cut if p.layer.options.integer("noadjust", 0) else 2 * cut - 1


def _route(p: Pass) -> np.ndarray:
    groups, group = p.layer.resolved["groups"], p.layer.resolved["group_id"]
    slices = []
    for x in p.inputs:
        part = x.size // groups
        slices.append(x.reshape(-1)[part * group : part * (group + 1)])
    return np.concatenate(slices)


def _shortcut(p: Pass) -> np.ndarray:
    terms = len(p.inputs)
    weights = np.ones(terms, p.x.dtype)
    if "weights" in p.arrays:
        weights = ar.normalise_weights(p.arrays["weights"], p.layer.options.text("weights_normalization", "none"))
    per_channel = np.broadcast_to(weights.reshape(terms, -1), (terms, p.layer.shape[0]))[:, :, None, None]
    y = per_channel[0] * p.image
    for weight, x in zip(per_channel[1:], p.inputs[1:], strict=True):
        common = min(x.shape[0], y.shape[0])  # a prefix of the channels, where the counts differ
        y[:common] += weight[:common] * x[:common]
    return p.activate(y, "linear")


def _product(p: Pass) -> np.ndarray:
    return p.activate(p.inputs[1] * p.image, "linear")


def _softmax(p: Pass) -> np.ndarray:
    if "tree" in p.layer.options:
        raise NotImplementedError(f"layer {p.layer.index}: [softmax] with a tree")
    options = p.layer.options
    return ar.softmax(p.x.reshape(options.integer("groups", 1), -1), options.number("temperature", 1)).reshape(-1)


def _nothing(p: Pass) -> np.ndarray:
    return np.zeros(p.x.size, p.x.dtype) if p.cpu_quirks else p.x.reshape(-1)


def _detection(p: Pass) -> np.ndarray:
    y, options = p.x.reshape(-1).copy(), p.layer.options
    if options.integer("softmax", 0):
        classes = options.integer("classes", 1)
        probabilities = y[: options.integer("side", 7) ** 2 * classes].reshape(-1, classes)
        probabilities[:] = ar.softmax(probabilities)
    return y


def _yolo(p: Pass) -> np.ndarray:
    options, numbers = p.layer.options, p.layer.resolved
    y = p.x.reshape(numbers["anchors"], numbers["per_anchor"], -1).copy()
    gaussian = p.layer.kind == "Gaussian_yolo"
    if gaussian:
        squashed = [0, 1, 2, 3, 5, 7, *range(8, numbers["per_anchor"])]  # all but the means of w and h
    else:
        squashed = [] if options.integer("new_coords", 0) else [0, 1, *range(4, numbers["per_anchor"])]
    y[:, squashed] = ar.activate(y[:, squashed], "logistic")
    scale, centre = options.number("scale_x_y", 1), [0, 2] if gaussian else [0, 1]
    y[:, centre] = y[:, centre] * scale - 0.5 * (scale - 1)
    return y


def _region(p: Pass) -> np.ndarray:
    options, numbers = p.layer.options, p.layer.resolved
    if "tree" in options:
        raise NotImplementedError(f"layer {p.layer.index}: [region] with a tree")
    c, h, w = p.layer.shape
    cells = p.x.reshape(c, h * w).T.reshape(h * w, numbers["anchors"], numbers["per_anchor"]).copy()
    cells[..., 4] = ar.activate(cells[..., 4], "logistic")  # x and y stay raw: the decoder squashes them
    if options.integer("softmax", 0):
        cells[..., 5:] = ar.softmax(cells[..., 5:])
    return cells.reshape(-1)


RULES: dict[str, Callable[[Pass], np.ndarray]] = {
    "convolutional": _convolutional,
    "connected": _connected,
    "local": _local,
    "batchnorm": lambda p: ar.batch_normalise(p.image, p.arrays, p.eps),
    "normalization": _normalization,
    "maxpool": _pool,
    "local_avgpool": _pool,
    "avgpool": lambda p: p.image.mean(axis=(1, 2), keepdims=True),
    "upsample": _upsample,
    "reorg": _reorg,
    "reorg3d": _reorg3d,
    "crop": _crop,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": _product,
    "sam": _product,
    "activation": lambda p: p.activate(p.x, "linear"),
    "dropout": lambda p: p.x,
    "empty": lambda p: p.x,
    "implicit": lambda p: p.arrays["weights"],
    "softmax": _softmax,
    "cost": _nothing,
    "contrastive": _nothing,
    "detection": _detection,
    "yolo": _yolo,
    "Gaussian_yolo": _yolo,
    "region": _region,
}
