"""[convolutional]: darknet's `convolutional_layer.c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from darkprune.darknet.options import Options
from darkprune.errors import CfgError
from darkprune.layers import activations
from darkprune.layers.base import (
    MAX_ELEMENTS,
    Axis,
    Blob,
    BlobReader,
    ChannelRules,
    Feature,
    Floats,
    Kind,
    Labels,
    Role,
    absolute,
    blurred,
    bounded,
    key,
    one,
    positions,
    register,
    require_map,
)

_NO_SHARE = -1_000_000_000
BN_EPSILON = 1e-5  #: inside the root, as AlexeyAB's program has it


def batch_norm(blob: BlobReader, part: str = "") -> tuple[Floats, Floats]:
    """Returns (slope, intercept) of a batch normalisation at inference: y = slope·x + intercept; NaN for σ² below 0."""
    with np.errstate(invalid="ignore"):
        slope = blob(f"{part}scales") / np.sqrt(np.array(blob(f"{part}rolling_variance"), np.float64) + BN_EPSILON)
    return slope, blob(f"{part}biases") - slope * blob(f"{part}rolling_mean")


def norm_blobs(channels: Axis, part: str = "") -> tuple[Blob, ...]:
    """Lists the tensors of a batch normalisation but its biases, in file order."""
    return (
        Blob(f"{part}scales", (channels,)),
        Blob(f"{part}rolling_mean", (channels,), trained=False),
        Blob(f"{part}rolling_variance", (channels,), trained=False),
    )


@dataclass(frozen=True)
class Geometry:
    """Filters, taps and steps of a convolution; shared with the convolutions inside recurrent kinds."""

    filters: int
    groups: int
    size: int
    stride_x: int
    stride_y: int
    dilation: int
    padding: int

    def output(self, feature: Feature, what: str = "the convolution") -> Feature:
        """Computes the output map: (in + 2·padding − size)/stride + 1; dilation does not enter it."""
        require_map(feature, what)
        if feature.c % self.groups or self.filters % self.groups:
            raise CfgError(
                f"groups={self.groups} divides neither or only one of {feature.c} input channels and "
                f"{self.filters} filters; darknet would misread the weights"
            )
        if feature.c // self.groups * self.filters * self.size * self.size > MAX_ELEMENTS:
            raise CfgError(f"{what} would have more than 2^31 - 1 weights")
        height = positions(feature.h + 2 * self.padding - self.size, self.stride_y)
        width = positions(feature.w + 2 * self.padding - self.size, self.stride_x)
        return bounded(self.filters, height, width, what)

    def weights(self, channels: int) -> int:
        """Counts the weights, without biases."""
        return channels // self.groups * self.filters * self.size * self.size

    def blobs(self, channels: int, batch_normalize: bool, part: str = "", flipped: bool = False) -> tuple[Blob, ...]:
        """Lists biases, BN and weights in file order."""
        out = Axis(Role.OUT, self.filters)
        taps = Axis(Role.FIXED, self.size)
        axes = (out, Axis(Role.IN, channels // self.groups), taps, taps)
        if flipped:
            axes = (*axes[1:], out)
        weights = Blob(f"{part}weights", axes, groups=self.groups)
        return (Blob(f"{part}biases", (out,)), *(norm_blobs(out, part) if batch_normalize else ()), weights)

    def bflops(self, channels: int, height: int, width: int, xnor: bool) -> float:
        """Computes 2 x weights x output positions / 1e9, as darknet prints it."""
        operations = 2.0 * self.weights(channels) * height * width / 1e9
        return operations / 32 if xnor else operations


def padding_of(options: Options, size: int) -> int:
    """Returns the padding on each side: `pad` is a flag for size/2 and overrides `padding`."""
    padding = options.int("padding", 0)
    if options.flag("pad"):
        padding = size // 2
    if not 0 <= padding <= 4096:
        raise options.error(f"padding={padding} is out of range", "padding")
    return padding


def activation_of(options: Options, default: str) -> str:
    """Returns the activation that darknet would use; an unknown name is ReLU there."""
    return activations.normalised(options.text("activation", default))


def _geometry(options: Options) -> Geometry:
    size = options.positive("size", 1, 4096)
    stride = options.int("stride", 1)
    stride_x, stride_y = (v if (v := options.int(name)) >= 1 else stride for name in ("stride_x", "stride_y"))
    if min(stride_x, stride_y) < 1:
        raise options.error(f"stride={stride} is out of range; it must be at least 1", "stride")
    dilation = options.positive("dilation", 1, 4096)
    groups = options.positive("groups", 1)
    return Geometry(
        options.positive("filters", 1),
        1 if options.flag("xnor") else groups,
        size,
        stride_x,
        stride_y,
        1 if size == 1 else dilation,
        padding_of(options, size),
    )


def _share_index(options: Options) -> int | None:
    index = options.int("share_index", _NO_SHARE)
    return None if index == _NO_SHARE else index


@register
@dataclass(frozen=True)
class Convolutional(Kind):
    """A convolution with optional batch normalisation, and an activation (logistic when none is given).

    Output: filters x ((h + 2·padding − size)/stride_y + 1) x (likewise). With `antialiasing` the convolution runs at
    stride 1 and a fixed blur takes the stride; only the layer directly after it sees the blurred map.
    """

    names = ("convolutional", "conv")
    index_key = ("share_index", False)
    other_keys = frozenset([
        "assisted_excitation", "sway", "rotate", "stretch", "stretch_sway", "angle", "dot", "grad_centr", "reverse",
        "coordconv", "stream", "wait_stream",
    ])  # fmt: skip

    geometry: Geometry = key(_geometry)
    activation: str = key(lambda options: activation_of(options, "logistic"))
    batch_normalize: bool = key(lambda options: options.flag("batch_normalize") | options.flag("cbn"))
    antialiasing: int = key(lambda options: options.int("antialiasing"))
    share_index: int | None = key(_share_index)
    binary: bool = key(lambda options: options.flag("binary"))
    xnor: bool = key(lambda options: options.flag("xnor"))
    bin_output: bool = key(lambda options: options.flag("bin_output"))
    flipped: bool = key(lambda options: options.flag("flipped"))

    def references(self, index: int) -> tuple[int, ...]:
        """Returns the convolution whose weights are used, if they are shared."""
        return () if self.share_index is None else (absolute(self.share_index, index),)

    def is_depthwise(self, inputs: Sequence[Feature]) -> bool:
        """Returns whether groups = input channels; of one channel every convolution is dense."""
        return self.geometry.groups == inputs[0].c > 1

    def is_dense(self, inputs: Sequence[Feature]) -> bool:
        """Returns whether it is not depthwise: grouped convolutions sum over the channels of their block."""
        return not self.is_depthwise(inputs)

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the map before the blur of `antialiasing`, as references to this layer see it."""
        geometry = replace(self.geometry, stride_x=1, stride_y=1) if self.antialiasing else self.geometry
        return geometry.output(inputs[0])

    def seen_after(self, output: Feature) -> Feature:
        """Computes the map that the next layer sees: after the blur of `antialiasing`."""
        if not self.antialiasing:
            return output
        return blurred(output, self.antialiasing, self.geometry.stride_x, self.geometry.stride_y)

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """biases, scales, rolling_mean, rolling_variance, weights (n, c/groups, size, size); nothing when shared."""
        if self.share_index is not None:
            return ()
        return self.geometry.blobs(inputs[0].c, self.batch_normalize, flipped=self.flipped)

    def macs(self, inputs: Sequence[Feature], output: Feature) -> int:
        """Counts weights x output positions."""
        return self.geometry.weights(inputs[0].c) * output.h * output.w

    def bflops(self, inputs: Sequence[Feature], output: Feature) -> float:
        """Computes darknet's figure: the blur is not counted, xnor counts 1/32."""
        return self.geometry.bflops(inputs[0].c, output.h, output.w, self.xnor)

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """New channels, except that a depthwise convolution passes its input's on."""
        geometry, source = self.geometry, one(inputs)
        if self.xnor or self.binary:
            rules.pin(source, "read by a binary convolution, whose weights' scale depends on all of its inputs")
        if geometry.groups == len(source) > 1:  # depthwise
            labels = np.repeat(source, geometry.filters // geometry.groups)
        else:
            labels = rules.new(geometry.filters)
            if geometry.groups > 1:
                rules.equal_split(source, geometry.groups)
                rules.equal_split(labels, geometry.groups)
        if self.share_index is not None:
            for read in (source, one(rules.reference_inputs)):
                rules.pin(read, "read by convolutions that share their weights")
            shared = one(rules.references)
            if len(shared) == len(labels):
                rules.unite(labels, shared)
            else:
                rules.pin(labels, "shares weights with a layer of another width")
        if self.activation in activations.ACROSS_CHANNELS:
            rules.pin(labels, f"activation {self.activation} mixes the channels of a pixel")
        if self.antialiasing:
            rules.pin(labels, "blurred after the convolution (antialiasing): not constant at the borders")
        return labels

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Returns a depthwise convolution's output for constant inputs, away from the border."""
        taps = np.array(blob("weights"), np.float64).reshape(self.geometry.filters, -1).sum(axis=1)
        if self.flipped:
            taps = np.array(blob("weights"), np.float64).reshape(-1, self.geometry.filters).sum(axis=0)
        values = taps * np.repeat(inputs[0], self.geometry.filters // self.geometry.groups)
        if self.batch_normalize:
            slope, intercept = batch_norm(blob)
            return activations.activate(self.activation, slope * values + intercept)
        return activations.activate(self.activation, values + blob("biases"))

    def widths(self, kept_in: int, kept_out: int) -> dict[str, int]:
        """`filters`, and `groups` of a depthwise convolution."""
        widths = {"filters": kept_out}
        per_group = self.geometry.filters // self.geometry.groups
        if self.geometry.groups > 1 and kept_in * per_group == kept_out and kept_in < self.geometry.groups:
            widths["groups"] = kept_in
        return widths


@register
@dataclass(frozen=True)
class Local(Kind):
    """A convolution with weights of its own at every position (`local_layer.c`).

    Output: filters x out_h x out_w with out = (in − (pad ? 1 : size))/stride + 1.
    """

    names = ("local",)

    filters: int = key(lambda options: options.positive("filters", 1))
    size: int = key(lambda options: options.positive("size", 1, 4096))
    stride: int = key(lambda options: options.positive("stride", 1, 4096))
    pad: bool = key(lambda options: options.flag("pad"))  # a flag of 0 or 1 pixels here
    activation: str = key(lambda options: activation_of(options, "logistic"))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output map."""
        source = require_map(one(inputs), "[local]")
        reach = 1 if self.pad else self.size
        out = bounded(
            self.filters, positions(source.h - reach, self.stride), positions(source.w - reach, self.stride), "[local]"
        )
        if out.h * out.w * self.filters * source.c * self.size**2 > MAX_ELEMENTS:
            raise CfgError("[local] would have more than 2^31 - 1 weights")
        return out

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """biases (n, out_h, out_w), weights (out_h·out_w, n, c, size, size)."""
        rows, columns = Axis(Role.FIXED, output.h), Axis(Role.FIXED, output.w)
        out, taps = Axis(Role.OUT, self.filters), Axis(Role.FIXED, self.size)
        places = Axis(Role.FIXED, output.h * output.w)
        return (
            Blob("biases", (out, rows, columns)),
            Blob("weights", (places, out, Axis(Role.IN, inputs[0].c), taps, taps)),
        )

    def macs(self, inputs: Sequence[Feature], output: Feature) -> int:
        """Counts the weights: each is used once."""
        return output.outputs * inputs[0].c * self.size**2

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Pins both sides: its channels have a bias per position, so that none is constant."""
        rules.pin(one(inputs), "read by [local]")
        labels = rules.new(output.c)
        rules.pin(labels, "made by [local]")
        return labels
