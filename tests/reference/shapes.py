"""What each section makes of its keys: output shape, consumed layers, stored tensors (parser.c, make_*_layer)."""

from __future__ import annotations

import math
from collections.abc import Callable

from .network import ReferenceLayer, ReferenceNetwork, Shape
from .reading import Options

RECURRENT = {"crnn", "rnn", "gru", "lstm", "conv_lstm", "history"}
# These stop with "Layer before ... must output image" when the layer before has no width, height or channels.
NEED_IMAGE = {"convolutional", "local", "crop", "reorg", "reorg3d", "maxpool", "local_avgpool", "avgpool"}
BATCH_NORM = ("scales", "rolling_mean", "rolling_variance")


def describe(network: ReferenceNetwork, layer: ReferenceLayer) -> None:
    """Fills shape, outputs, sources, resolved numbers and the list of tensors.

    Raises:
        ValueError: darknet stops, crashes or reads junk here.
        NotImplementedError: the referee has no arithmetic for it.
    """
    if layer.kind in RECURRENT:
        raise NotImplementedError(f"layer {layer.index}: recurrent kind [{layer.kind}] is outside this referee")
    if layer.kind not in DESCRIBERS:
        raise ValueError(f"layer {layer.index}: Type not recognized: [{layer.kind}]")
    if layer.kind in NEED_IMAGE and not all(layer.input_shape):
        raise ValueError(f"layer {layer.index}: the layer before [{layer.kind}] must output an image")
    DESCRIBERS[layer.kind](network, layer, layer.options)
    if not layer.outputs:
        layer.outputs = math.prod(layer.shape)
    if layer.outputs < 1 or min(layer.shape) < 0:
        raise ValueError(f"layer {layer.index} [{layer.kind}] has the impossible shape {layer.shape}")


def _resolve(network: ReferenceNetwork, layer: ReferenceLayer, key: str) -> list[int]:
    """The layers a `from`/`layers`/`share_index` names: negative is relative to the layer itself."""
    written = layer.options.integers(key)
    if written is None:
        raise ValueError(f"layer {layer.index}: [{layer.kind}] must specify {key}")
    indices = [index if index >= 0 else layer.index + index for index in written]
    for index in indices:
        if not 0 <= index < layer.index:
            raise ValueError(f"layer {layer.index} [{layer.kind}] points to layer {index}: darknet would read junk")
        if network.layers[index].resolved.get("antialiasing"):
            raise NotImplementedError(f"layer {layer.index} points to the antialiased layer {index}: stale memory")
    return indices


def _pass_through(_network: ReferenceNetwork, layer: ReferenceLayer, _options: Options) -> None:
    layer.shape, layer.outputs = layer.input_shape, layer.inputs


def _flat(_network: ReferenceNetwork, layer: ReferenceLayer, _options: Options) -> None:
    layer.outputs = layer.inputs  # darknet leaves the shape 0x0x0


def _batchnorm(network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    _pass_through(network, layer, options)
    layer.tensors = [(name, (layer.shape[0],)) for name in ("biases", *BATCH_NORM)]


def _convolutional(network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    c, *pixels = layer.input_shape
    n, size = options.integer("filters", 1), options.integer("size", 1)
    groups = 1 if options.integer("xnor", 0) else max(1, options.integer("groups", 1))
    padding = size // 2 if options.integer("pad", 0) else options.integer("padding", 0)
    dilation = 1 if size == 1 else options.integer("dilation", 1)
    stride_all = options.integer("stride", 1)
    strides = tuple(s if s >= 1 else stride_all for s in (options.integer(k, -1) for k in ("stride_y", "stride_x")))
    if c % groups or n % groups:
        raise ValueError(f"layer {layer.index}: {c} and {n} channels in {groups} groups: darknet misreads memory")
    antialiasing = options.integer("antialiasing", 0)
    own = (1, 1) if antialiasing else strides
    # Dilation is not in the formula of the output size, but it is in the kernel's reach.
    out = tuple((x + 2 * padding - size) // s + 1 for x, s in zip(pixels, own, strict=True))
    reach, border = dilation * (size - 1) + 1, padding * dilation
    if out != tuple((x + 2 * border - reach) // s + 1 for x, s in zip(pixels, own, strict=True)):
        raise ValueError(f"layer {layer.index}: dilation {dilation} with padding {padding} overruns darknet's buffers")
    weights = (n, c // groups, size, size)
    layer.resolved = {"groups": groups, "stride": own, "padding": border, "dilation": dilation, "weights": weights}
    layer.shape = _blurred(layer, (n, *out), antialiasing, strides)
    if "share_index" in options:
        (other,) = (network.layers[index] for index in _resolve(network, layer, "share_index"))
        if other.resolved.get("weights") != weights or other.input_shape[0] != c:
            raise ValueError(f"layer {layer.index} does not match layer {other.index}, whose weights it shares")
        layer.arrays = other.arrays
        return
    normalised = options.integer("batch_normalize", 0) or options.integer("cbn", 0)
    names = ("biases", *BATCH_NORM) if normalised else ("biases",)
    layer.tensors = [*((name, (n,)) for name in names), ("weights", weights)]


def _blurred(layer: ReferenceLayer, shape: Shape, antialiasing: int, strides: tuple[int, ...]) -> Shape:
    """Antialiasing moves the stride from the layer to a fixed depthwise blur behind it."""
    if not antialiasing:
        return shape
    size, padding = (2, 0) if antialiasing == 2 else (3, 1)
    layer.resolved |= {"antialiasing": antialiasing, "blur_stride": strides}
    return (shape[0], *((x + 2 * padding - size) // s + 1 for x, s in zip(shape[1:], strides, strict=True)))


def _pool(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    c, *pixels = layer.input_shape
    is_max = layer.kind == "maxpool"
    stride_all = options.integer("stride", 1)
    strides = (options.integer("stride_y", stride_all), options.integer("stride_x", stride_all))
    size = options.integer("size", stride_all)
    padding = options.integer("padding", size - 1)  # the total of both sides
    antialiasing = options.integer("antialiasing", 0) if is_max else 0
    own = (1, 1) if antialiasing else strides
    layer.resolved = {"size": size, "stride": own, "padding": padding, "depth": 0}
    if is_max and options.integer("maxpool_depth", 0):
        layer.resolved["depth"] = options.integer("out_channels", 1)
        layer.shape = (layer.resolved["depth"], *pixels)
        return
    out = tuple((x + padding - size) // s + 1 for x, s in zip(pixels, own, strict=True))
    layer.resolved["out"] = out
    layer.shape = _blurred(layer, (c, *out), antialiasing, strides)


def _connected(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    n = options.integer("output", 1)
    layer.shape = (n, 1, 1)
    names = BATCH_NORM if options.integer("batch_normalize", 0) else ()
    layer.tensors = [("biases", (n,)), ("weights", (n, layer.inputs)), *((name, (n,)) for name in names)]


def _local(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    c, h, w = layer.input_shape
    n, size = options.integer("filters", 1), options.integer("size", 1)
    stride, pad = options.integer("stride", 1), options.integer("pad", 0)
    layer.shape = (n, *((x - (1 if pad else size)) // stride + 1 for x in (h, w)))
    # The column buffer is padded by `pad` pixels; the product reads rows of the length of the output.
    if layer.shape[1:] != tuple((x + 2 * pad - size) // stride + 1 for x in (h, w)):
        raise ValueError(f"layer {layer.index}: [local] size {size} with pad {pad} misreads darknet's buffers")
    layer.resolved = {"size": size, "stride": stride, "padding": pad}
    layer.tensors = [("biases", layer.shape), ("weights", (math.prod(layer.shape[1:]), n, c, size, size))]


def _avgpool(_network: ReferenceNetwork, layer: ReferenceLayer, _options: Options) -> None:
    layer.shape = (layer.input_shape[0], 1, 1)


def _upsample(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    stride = options.integer("stride", 2)
    c, h, w = layer.input_shape
    layer.resolved = {"stride": stride}
    layer.shape = (c, h * stride, w * stride) if stride > 0 else (c, h // -stride, w // -stride)


def _reorg(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    (c, h, w), s = layer.input_shape, options.integer("stride", 1)
    reverse = bool(options.integer("reverse", 0))
    layer.resolved = {"stride": s, "reverse": reverse}
    layer.shape = (c // (s * s), h * s, w * s) if reverse else (c * s * s, h // s, w // s)
    # [reorg3d] with reverse hands the wrong sizes to reorg_cpu and divides twice.
    divisor = s**4 if layer.kind == "reorg3d" else s**2
    if (reverse or layer.kind == "reorg") and c % divisor:
        raise ValueError(f"layer {layer.index}: {c} channels are no multiple of {divisor}")
    if not reverse and (h % s or w % s):
        raise ValueError(f"layer {layer.index}: {h}x{w} is no multiple of the stride {s}")


def _crop(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    c, h, w = layer.input_shape
    layer.shape = (c, options.integer("crop_height", 1), options.integer("crop_width", 1))
    if layer.shape[1] > h or layer.shape[2] > w:
        raise ValueError(f"layer {layer.index}: cannot crop {h}x{w} to {layer.shape[1]}x{layer.shape[2]}")


def _route(network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    layer.sources = _resolve(network, layer, "layers")
    groups = options.integer("groups", 1)
    layer.resolved = {"groups": groups, "group_id": options.integer("group_id", 0)}
    sources = [network.layers[index] for index in layer.sources]
    if len({source.shape[1:] for source in sources}) > 1:
        raise ValueError(f"layer {layer.index}: the routed layers differ in size")
    layer.outputs = sum(source.outputs for source in sources) // groups
    layer.shape = (sum(source.shape[0] for source in sources) // groups, *sources[0].shape[1:])


def _shortcut(network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    layer.sources += _resolve(network, layer, "from")
    _pass_through(network, layer, options)
    if any(network.layers[index].shape[1:] != layer.shape[1:] for index in layer.sources[1:]):
        raise ValueError(f"layer {layer.index}: [shortcut] of layers of different size: darknet asserts")
    weights_type = options.text("weights_type", "none")
    if weights_type == "none":
        return
    if weights_type not in ("per_feature", "per_layer", "per_channel"):
        raise ValueError(f"layer {layer.index}: Incorrect weights_type = {weights_type}")
    if options.text("weights_normalization", "none") not in ("relu", "avg_relu", "softmax"):
        raise ValueError(f"layer {layer.index}: Incorrect weights_normalization")
    terms = len(layer.sources)
    layer.tensors = [("weights", (terms, layer.shape[0]) if weights_type == "per_channel" else (terms,))]


def _scale(network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    layer.sources += _resolve(network, layer, "from")[:1]
    layer.shape = network.layers[layer.sources[1]].shape
    c, h, w = layer.input_shape
    if layer.kind == "sam":
        fits = layer.input_shape == layer.shape
    elif options.integer("scale_wh", 0):
        fits = layer.input_shape == (1, *layer.shape[1:])
    else:
        fits = layer.input_shape == (layer.shape[0], 1, 1)
    if not fits:
        raise ValueError(f"layer {layer.index} [{layer.kind}]: {c}x{h}x{w} does not fit {layer.shape}")


def _implicit(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    layer.sources = []
    layer.shape = (options.integer("filters", 128), options.integer("atoms", 1), 1)
    layer.tensors = [("weights", layer.shape[:2])]


def _head(_network: ReferenceNetwork, layer: ReferenceLayer, options: Options) -> None:
    classes, anchors = options.integer("classes", 20), options.integer("num", 1)
    if layer.kind == "region" and options.integer("coords", 4) != 4:
        raise NotImplementedError(f"layer {layer.index}: [region] with coords other than 4")
    mask = options.integers("mask", stop_at_hash=True) if layer.kind != "region" else None
    anchors = anchors if mask is None else len(mask)
    per_anchor = classes + (9 if layer.kind == "Gaussian_yolo" else 5)
    layer.resolved = {"anchors": anchors, "per_anchor": per_anchor, "classes": classes}
    layer.shape = (anchors * per_anchor, *layer.input_shape[1:])
    if math.prod(layer.shape) != layer.inputs:
        raise ValueError(f"layer {layer.index} [{layer.kind}] wants {layer.shape[0]} channels of {layer.input_shape}")


DESCRIBERS: dict[str, Callable[[ReferenceNetwork, ReferenceLayer, Options], None]] = {
    "convolutional": _convolutional, "connected": _connected, "local": _local, "batchnorm": _batchnorm,
    "normalization": _pass_through, "activation": _pass_through, "dropout": _pass_through, "empty": _pass_through,
    "maxpool": _pool, "local_avgpool": _pool, "avgpool": _avgpool, "upsample": _upsample,
    "reorg": _reorg, "reorg3d": _reorg, "crop": _crop, "route": _route, "shortcut": _shortcut,
    "scale_channels": _scale, "sam": _scale, "implicit": _implicit,
    "softmax": _flat, "cost": _flat, "detection": _flat, "contrastive": _flat,
    "yolo": _head, "Gaussian_yolo": _head, "region": _head,
}  # fmt: skip
