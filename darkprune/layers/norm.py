"""[batchnorm], [normalization]: darknet's `batchnorm_layer.c`, `normalization_layer.c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darkprune.layers.base import (
    Axis,
    Blob,
    BlobReader,
    ChannelRules,
    Feature,
    Floats,
    Kind,
    Labels,
    Role,
    key,
    one,
    register,
    require_map,
)
from darkprune.layers.convolution import batch_norm, norm_blobs
from darkprune.layers.pooling import Passing


@register
@dataclass(frozen=True)
class BatchNorm(Passing):
    """Batch normalisation of the layer before, without activation."""

    names = ("batchnorm",)

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Keeps the shape."""
        return require_map(one(inputs), "[batchnorm]")

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """biases, scales, rolling_mean, rolling_variance."""
        channels = Axis(Role.OUT, output.c)
        return (Blob("biases", (channels,)), *norm_blobs(channels))

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Normalises the constant."""
        slope, intercept = batch_norm(blob)
        result: Floats = slope * one(inputs) + intercept
        return result


@register
@dataclass(frozen=True)
class Normalization(Kind):
    """Local response normalisation over neighbouring channels, with the window of `forward_normalization_layer`."""

    names = ("normalization", "lrn")

    alpha: float = key(lambda options: options.float("alpha", 1e-4))
    beta: float = key(lambda options: options.float("beta", 0.75))
    kappa: float = key(lambda options: options.float("kappa", 1.0))
    size: int = key(lambda options: options.positive("size", 5, 4096))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Keeps the shape."""
        return require_map(one(inputs), "[normalization]")

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Pins: each channel is divided by its neighbours."""
        source = one(inputs)
        rules.pin(source, "normalised by its neighbour channels ([normalization])")
        return source

    def window(self, channels: int) -> NDArray[np.float32]:
        """Returns how often channel j counts in the sum of channel k: (channels, channels), entries 1, 0 and −1.

        darknet's running sum starts with size/2 channels instead of size/2 + 1: channel size/2 is never added, yet
        subtracted later.
        """
        steps = np.zeros((channels, channels), np.float32)
        steps[0, : self.size // 2] = 1
        for k in range(1, channels):
            leaving, entering = k - (self.size - 1) // 2 - 1, k + self.size // 2
            if leaving >= 0:
                steps[k, leaving] -= 1
            if entering < channels:
                steps[k, entering] += 1
        return np.cumsum(steps, axis=0, dtype=np.float32)
