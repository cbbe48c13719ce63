"""[maxpool], [local_avgpool], [avgpool]: darknet's `maxpool_layer.c`, `avgpool_layer.c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from darkprune.darknet.options import Options
from darkprune.errors import CfgError
from darkprune.layers.base import (
    BlobReader,
    ChannelRules,
    Feature,
    Floats,
    Kind,
    Labels,
    blurred,
    bounded,
    key,
    one,
    positions,
    register,
    require_map,
)


@dataclass(frozen=True)
class Window:
    """Size, steps and total padding of a pooling window."""

    size: int
    stride_x: int
    stride_y: int
    padding: int

    @classmethod
    def read(cls, options: Options) -> Window:
        """Reads `size` (default: stride), `stride`, `padding` (default: size − 1, the total of both sides)."""
        stride = options.int("stride", 1)
        stride_x, stride_y = options.int("stride_x", stride), options.int("stride_y", stride)
        if min(stride_x, stride_y) < 1:
            raise options.error(f"stride={min(stride_x, stride_y)} is out of range; it must be at least 1", "stride")
        size = options.positive("size", stride, 4096)
        padding = options.int("padding", size - 1)
        if not 0 <= padding <= 4096:
            raise options.error(f"padding={padding} is out of range", "padding")
        return cls(size, stride_x, stride_y, padding)

    @property
    def before(self) -> int:
        """Cells of padding at the top and at the left: the smaller half; the rest goes to the other side."""
        return self.padding // 2

    def output(self, feature: Feature, what: str) -> Feature:
        """Computes the output map: (in + padding − size)/stride + 1."""
        require_map(feature, what)
        height = positions(feature.h + self.padding - self.size, self.stride_y)
        width = positions(feature.w + self.padding - self.size, self.stride_x)
        return bounded(feature.c, height, width, what)


class Passing(Kind):
    """Base of kinds whose output channel i is their input channel i."""

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Keeps the shape."""
        return one(inputs)

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Passes the channels on."""
        return one(inputs)

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """A constant map stays what it is."""
        return one(inputs)


@register
@dataclass(frozen=True)
class MaxPool(Passing):
    """Maximum over a window, padded with −inf; or, with `maxpool_depth`, over every out_channels-th channel."""

    names = ("maxpool", "max")
    zero_if = slice(None)
    other_keys = frozenset({"maxpool_zero_nonmax"})

    window: Window = key(Window.read)
    depth: bool = key(lambda options: options.flag("maxpool_depth"))
    out_channels: int = key(lambda options: options.positive("out_channels", 1))
    antialiasing: int = key(lambda options: options.int("antialiasing"))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the map before the blur of `antialiasing`, as references to this layer see it."""
        source = one(inputs)
        if not self.depth:
            window = replace(self.window, stride_x=1, stride_y=1) if self.antialiasing else self.window
            return window.output(source, "the pooling")
        require_map(source, "maxpool_depth")
        if self.out_channels > source.c:
            raise CfgError(f"out_channels={self.out_channels} exceeds the {source.c} input channels")
        return bounded(self.out_channels, source.h, source.w, "maxpool_depth")

    def seen_after(self, output: Feature) -> Feature:
        """Computes the map that the next layer sees: after the blur of `antialiasing`, which takes the strides."""
        if not self.antialiasing:
            return output
        return blurred(output, self.antialiasing, self.window.stride_x, self.window.stride_y)

    def bflops(self, inputs: Sequence[Feature], output: Feature) -> float:
        """Computes size² x input channels x positions / 1e9."""
        return self.window.size**2 * inputs[0].c * output.h * output.w / 1e9

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Passes the channels on; with `maxpool_depth` couples all that compete for one output channel."""
        source = one(inputs)
        if self.antialiasing:
            rules.pin(source, "blurred after the pooling (antialiasing)")
        if not self.depth:
            return source
        if len(source) % self.out_channels:
            rules.pin(source, "read by maxpool_depth, whose out_channels does not divide them")
            labels = rules.new(self.out_channels)
            rules.pin(labels, "made by maxpool_depth, whose out_channels does not divide its input")
            return labels
        for start in range(self.out_channels, len(source), self.out_channels):
            rules.unite(source[: self.out_channels], source[start : start + self.out_channels])
        return source[: self.out_channels]

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """The maximum of constants."""
        values = one(inputs)
        return np.asarray(values.reshape(-1, self.out_channels).max(axis=0)) if self.depth else values

    def widths(self, kept_in: int, kept_out: int) -> dict[str, int]:
        """`out_channels` of maxpool_depth."""
        return {"out_channels": kept_out} if self.depth else {}


@register
@dataclass(frozen=True)
class LocalAvgPool(Passing):
    """Mean over the valid cells of a window; geometry as in [maxpool]."""

    names = ("local_avgpool", "local_avg")
    zero_if = slice(None)
    keeps_mean = True

    window: Window = key(Window.read)

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output map."""
        return self.window.output(one(inputs), "the pooling")

    def bflops(self, inputs: Sequence[Feature], output: Feature) -> float:
        """Computes size² x channels x positions / 1e9."""
        return self.window.size**2 * inputs[0].c * output.h * output.w / 1e9


@register
@dataclass(frozen=True)
class AvgPool(Passing):
    """Mean of each channel: c x 1 x 1."""

    names = ("avgpool", "avg")
    zero_if = slice(None)
    keeps_mean = True

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output map."""
        source = require_map(one(inputs), "[avgpool]")
        return Feature.map(source.c, 1, 1)
