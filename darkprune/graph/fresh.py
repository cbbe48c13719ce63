"""Fresh weights with sane statistics, for networks that have none (`darkprune init`)."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from darkprune.darknet.weights import Header
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import NetworkWriter
from darkprune.layers import Blob, Role
from darkprune.layers.base import Floats

PART = 1 << 20  #: numbers drawn at a time; how many does not change them


def write_fresh(graph: Graph, file: BinaryIO, seed: int, vary: bool = False) -> int:
    """Writes random weights.

    Filters are normal with 0.6 of He's deviation (variance 0.36·2/fan-in), γ = 1, β = 0, μ = 0, σ² = 1. He's own keeps
    the scale of a plain chain, but long sums of residual units would grow to 1e4 and more, and drown in rounding.
    darknet itself saves σ² = 0 for a network that was never trained, which multiplies by 316 per layer.

    Args:
        file: empty, open for writing in binary.
        seed: of the generator.
        vary: draw γ, β, μ and σ² around these values, as in a trained network (for tests and benchmarks).

    Returns:
        Bytes written.
    """
    random = np.random.default_rng(seed)
    writer = NetworkWriter(graph, file, Header())
    for layer in graph:
        for blob in layer.stored:
            row = blob.count // blob.shape[0]
            rows = max(1, PART // row)
            for first in range(0, blob.shape[0], rows):
                shape = (min(rows, blob.shape[0] - first), *blob.shape[1:])
                values = _draw(random, layer, blob, shape, vary)
                writer.write(layer, blob.name, values.astype(np.float32, copy=False), first)
    writer.finish()
    return writer.size


def _draw(random: np.random.Generator, layer: Layer, blob: Blob, shape: tuple[int, ...], vary: bool) -> Floats:
    """Draws some rows of a tensor."""
    name = blob.name.rsplit(".", 1)[-1]
    if name in ("scales", "rolling_variance") or layer.name == "shortcut":
        return random.uniform(0.5, 1.5, shape) if vary else np.ones(shape)
    if name in ("biases", "rolling_mean"):
        return random.normal(0, 0.2, shape) if vary else np.zeros(shape)
    if layer.name == "implicit":
        return random.normal(0, 0.2, shape)
    fan_in = blob.count // next((axis.size for axis in blob.axes if axis.role is Role.OUT), blob.shape[0])
    values = random.standard_normal(shape, np.float32)
    values *= np.float32(0.6 * np.sqrt(2 / fan_in))
    return np.asarray(values)
