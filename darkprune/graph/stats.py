"""Totals of a network, and rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import weights_bytes


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

    def to_json(self) -> dict[str, Any]:
        """Returns what reports hold."""
        return {
            "params": self.params,
            "trainable_params": self.trainable_params,
            "macs": self.macs,
            "bflops": self.bflops,
            "bytes": self.bytes,
        }


def totals(graph: Graph, header_size: int = 20) -> Totals:
    """Adds up a network."""
    return Totals(
        graph.params, graph.trainable_params, graph.macs, round(graph.bflops, 6), weights_bytes(graph, header_size)
    )


def layer_json(layer: Layer) -> dict[str, Any]:
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
