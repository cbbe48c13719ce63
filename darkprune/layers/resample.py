"""[upsample], [reorg], [reorg3d], [crop]: kinds that move cells between rows, columns and channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkprune.darknet.options import Options
from darkprune.errors import CfgError
from darkprune.layers.base import (
    BlobReader,
    ChannelRules,
    Feature,
    Floats,
    Indices,
    Kind,
    Labels,
    bounded,
    key,
    one,
    register,
    require_map,
)
from darkprune.layers.pooling import Passing


def _enlargement(options: Options) -> int:
    stride = options.int("stride", 2)
    if stride == 0 or abs(stride) > 4096:
        raise options.error(f"stride={stride} is out of range", "stride")
    return stride


@register
@dataclass(frozen=True)
class Upsample(Passing):
    """Nearest-neighbour enlargement times `scale`; a negative stride sums blocks instead (`upsample_layer.c`)."""

    names = ("upsample",)
    zero_if = slice(None)

    stride: int = key(_enlargement)
    scale: float = key(lambda options: options.float("scale", 1.0))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output map."""
        source = require_map(one(inputs), "[upsample]")
        if self.stride > 0:
            return bounded(source.c, source.h * self.stride, source.w * self.stride, "[upsample]")
        return bounded(source.c, source.h // -self.stride, source.w // -self.stride, "[upsample]")

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Scales; a downsampling adds stride² cells."""
        values = one(inputs)
        return values * (self.scale if self.stride > 0 else self.scale * self.stride**2)


@dataclass(frozen=True)
class _Moving(Kind):
    """Base of the two reorganisations: stride, direction, and where each output channel comes from."""

    zero_if = slice(None)

    stride: int = key(lambda options: options.positive("stride", 1, 4096))
    reverse: bool = key(lambda options: options.flag("reverse"))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output map: c·s² x h/s x w/s, or the other way round."""
        source = require_map(one(inputs), "a reorganisation")
        s = self.stride
        if self.reverse:
            return bounded(source.c // (s * s), source.h * s, source.w * s, "the reorganisation")
        return bounded(source.c * s * s, source.h // s, source.w // s, "the reorganisation")

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """darknet does not check that the stride divides the map."""
        source = one(inputs)
        if not self.reverse and (source.h % self.stride or source.w % self.stride):
            return f"darknet misreads its rows: a stride of {self.stride} does not divide {source.w}x{source.h}"
        return None

    def fits(self, channels: int) -> bool:
        """Whether channels move as wholes: [reorg] moves them in blocks of s², one after the other or c/s² apart."""
        return channels % (self.stride**2) == 0

    def origins(self, channels: int) -> Indices:
        """Returns for each output channel the input channel that it shows, or the first of those that it shows."""
        raise NotImplementedError

    def blocks(self, channels: int) -> Indices:
        """Returns input channels as rows of coupled blocks."""
        raise NotImplementedError

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Moves the constants as the channels."""
        values = one(inputs)
        return np.asarray(values[self.origins(len(values))])

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Couples the channels of a block and repeats the label wherever its cells go."""
        source = one(inputs)
        if not self.fits(len(source)):
            rules.pin(source, "read by a reorganisation that cuts channels apart")
            labels = rules.new(output.c)
            rules.pin(labels, "made by a reorganisation that cuts channels apart")
            return labels
        blocks = source[self.blocks(len(source))]
        for column in range(1, blocks.shape[1]):
            rules.unite(blocks[:, 0], blocks[:, column])
        return np.asarray(source[self.origins(len(source))])


@register
@dataclass(frozen=True)
class Reorg3d(_Moving):
    """Space to depth: out[o·c + k, y, x] = in[k, y·s + o/s, x·s + o%s].

    With `reverse` darknet computes the inverse of [reorg], not of this (it swaps sizes on the way).
    """

    names = ("reorg3d",)

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """The reverse direction divides its output's channels by s² once more."""
        if self.reverse and output.c < self.stride**2:
            return f"darknet stops with a division by zero: {output.c} channels are fewer than {self.stride**2}"
        return super().trouble(inputs, output)

    def fits(self, channels: int) -> bool:
        """The reverse direction spreads a channel over others: no rule."""
        return not self.reverse

    def blocks(self, channels: int) -> Indices:
        """Every channel moves by itself."""
        return np.arange(channels)[:, None]

    def origins(self, channels: int) -> Indices:
        """Output channel o·c + k shows cells of input channel k."""
        return np.tile(np.arange(channels), self.stride**2)


@register
@dataclass(frozen=True)
class Reorg(_Moving):
    """The reorganisation of YOLOv2 (`reorg_old_layer.c`): mixes s² consecutive channels.

    X (c, h, w) is read as V (c/s², h·s, w·s), Z[o·c/s² + k, y, x] = V[k, y·s + o/s, x·s + o%s], and Z's memory is
    read as (c·s², h/s, w/s). With `reverse` it is plain depth to space: out[k, y·s + o/s, x·s + o%s] = in[o·c/s² + k].
    """

    names = ("reorg",)

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output map."""
        source = one(inputs)
        if source.is_map and source.c < self.stride**2:
            raise CfgError(
                f"[reorg] with stride {self.stride} needs at least {self.stride**2} channels, not {source.c}"
            )
        return super().output(inputs)

    def blocks(self, channels: int) -> Indices:
        """s² consecutive channels are one of V; in reverse channels k, k + c/s², … end in one."""
        if self.reverse:
            return np.asarray(np.arange(channels).reshape(self.stride**2, -1).T)
        return np.arange(channels).reshape(-1, self.stride**2)

    def origins(self, channels: int) -> Indices:
        """Z channel o·m + k comes from block k, and becomes s² consecutive output channels.

        The t-th of them shows the block's t-th channel (a row at either end apart, where s² does not divide h).
        """
        s2 = self.stride**2
        if self.reverse:
            return np.arange(channels // s2)
        block = np.tile(np.arange(channels // s2), s2)
        return np.asarray((block[:, None] * s2 + np.arange(s2)).ravel())

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Moves the constants; in reverse each output channel mixes a block, whose mean is its best constant."""
        values = one(inputs)
        if self.reverse:
            return np.asarray(values[self.blocks(len(values))].mean(axis=1))
        return super().constant(inputs, blob)


@register
@dataclass(frozen=True)
class Crop(Passing):
    """At inference the centre crop, then 2x − 1 unless `noadjust` (`crop_layer.c`)."""

    names = ("crop",)
    other_keys = frozenset(["angle", "saturation", "exposure", "shift"])

    height: int = key(lambda options: options.positive("crop_height", 1))
    width: int = key(lambda options: options.positive("crop_width", 1))
    noadjust: bool = key(lambda options: options.flag("noadjust"))
    flip: bool = key(lambda options: options.flag("flip"))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output map."""
        source = require_map(one(inputs), "[crop]")
        return bounded(source.c, self.height, self.width, "[crop]")

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Adjusts the value range as the layer does."""
        values = one(inputs)
        return values if self.noadjust else 2 * values - 1
