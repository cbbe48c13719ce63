"""Totals of a network, rows of its tables, and how numbers are written in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import weights_bytes
from darkprune.json_types import JsonObject
from darkprune.layers.convolution import Convolutional, Geometry
from darkprune.layers.pooling import LocalAvgPool, MaxPool, Window
from darkprune.layers.resample import Upsample


@dataclass(frozen=True)
class Totals:
    """Size and cost of a network.

    Attributes:
        params: stored floats.
        trainable_params: without running statistics.
        macs: multiply-adds of convolutions and connected layers for one image.
        bflops: darknet's own figure, billions of operations.
        bytes: size of the weights file.
    """

    params: int
    trainable_params: int
    macs: int
    bflops: float
    bytes: int

    def to_json(self) -> JsonObject:
        """Returns what reports hold."""
        return asdict(self)


def totals(graph: Graph, header_size: int = 20) -> Totals:
    """Adds up a network."""
    return Totals(
        graph.params, graph.trainable_params, graph.macs, round(graph.bflops, 6), weights_bytes(graph, header_size)
    )


def layer_json(layer: Layer) -> JsonObject:
    """Returns one row of `info --json`."""
    out = layer.output
    return {
        "index": layer.index,
        "kind": layer.name,
        "out": [out.c, out.h, out.w] if out.is_map else None,
        "outputs": out.outputs,
        "params": layer.params,
        "macs": layer.macs,
        "bflops": round(layer.bflops, 6),
    }


def layer_detail(layer: Layer) -> str:
    """Returns what a layer does: taps and stride of convolutions and pools, a convolution's blocks and activation."""
    kind = layer.kind
    if isinstance(kind, MaxPool | LocalAvgPool):
        return "over channels" if isinstance(kind, MaxPool) and kind.depth else _window(kind.window)
    if isinstance(kind, Upsample):
        return f"x{kind.stride}" if kind.stride > 0 else f"/{-kind.stride}"
    if not isinstance(kind, Convolutional):
        return ""
    g = kind.geometry
    groups = f" g{g.groups}" if g.groups > 1 else ""
    return f"{_window(g)}{groups} {kind.activation}{' bn' if kind.batch_normalize else ''}"


def _window(window: Geometry | Window) -> str:
    stride = f"{window.stride_x}" if window.stride_x == window.stride_y else f"{window.stride_x}x{window.stride_y}"
    return f"{window.size}x{window.size}/{stride}"


def count(value: float) -> str:
    """Formats a number of things: 64.11 M, 29.83 G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1000 if unit == 'k' else limit):.2f} {unit}"
    return f"{value:.0f}"


def megabytes(value: float) -> str:
    """Formats bytes as MB (10^6)."""
    return f"{value / 1e6:.2f} MB"


def change(before: float, after: float) -> str:
    """Formats how much smaller something became."""
    return f"{100 * (after / before - 1):+.1f} %" if before and after != before else "±0 %"
