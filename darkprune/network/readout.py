"""A network's outputs as numbers to differentiate: σ(obj)·σ(cls) and box·σ(obj) of every anchor.

L = Σ ± output with random signs is a random projection of all of them: the mean square of a derivative of L is the sum
of the squared derivatives of all outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from darkprune.graph.graph import Graph, Layer
from darkprune.layers.heads import Head, Region, Yolo
from darkprune.network import Network, NetworkOutput

PROBES = 2  #: random projections per image
SMALLEST_SCORE = 1e-4  #: added to scores before a root, whose slope at 0 is infinite


@dataclass(frozen=True)
class Readout:
    """Outputs for a batch.

    Attributes:
        scores: (b, n): objectness times class, for every anchor of every cell of every head; of a network without
            heads its output.
        boxes: (b, m): box values times objectness; (b, 0) without heads.
    """

    scores: Tensor
    boxes: Tensor


def read_out(graph: Graph, output: NetworkOutput, power: float = 1.0) -> Readout:
    """Reads scores and boxes off the heads' raw maps.

    Scores are raised to `power`: below 1, weak detections count as they do in the ranking of mAP.
    """
    parts = [_of_head(layer, output.heads[layer.index], power) for layer in graph.heads]
    if not parts:
        flat = output.output.flatten(1)
        return Readout(flat, flat[:, :0])
    scores, boxes = zip(*parts, strict=True)
    return Readout(torch.cat(scores, 1), torch.cat(boxes, 1))


def project(outputs: Readout, generator: torch.Generator) -> Tensor:
    """Returns L, the sum of all outputs with random signs."""
    parts = (outputs.scores, outputs.boxes)
    return sum((_signs(part, generator) * part).sum() for part in parts) + outputs.scores.new_zeros(())


def backward_passes(
    network: Network, images: Tensor, probes: int, generator: torch.Generator, power: float = 1.0
) -> Iterator[int]:
    """Runs a batch once, and backpropagates one random projection of its outputs after the other.

    Args:
        network: in eval mode, its parameters without gradients: hooks on maps receive them.
        images: (b, c, h, w).
        power: see `read_out`.

    Yields:
        The number of each projection, after its gradients were computed.
    """
    with torch.enable_grad():
        outputs = read_out(network.graph, network(images), power)
    for probe in range(probes):
        loss = project(outputs, generator)
        if loss.requires_grad:
            loss.backward(retain_graph=probe + 1 < probes)  # type: ignore[no-untyped-call]
        yield probe


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8).to(like.device)
    return signs.to(like.dtype).mul_(2).sub_(1)


def _of_head(layer: Layer, raw: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Returns (b, n) scores and (b, m) boxes of one head; boxes as the head's activations leave them."""
    kind = layer.kind
    assert isinstance(kind, Head)
    values = raw.reshape(len(raw), len(kind.anchors), -1, raw.shape[-2] * raw.shape[-1])
    layout = kind.layout
    activated = values if isinstance(kind, Yolo) and kind.new_coords else torch.sigmoid(values)
    box = torch.cat([activated[:, :, list(layout.box[:2])], values[:, :, list(layout.box[2:])]], 2)
    objectness, classes = activated[:, :, [layout.objectness]], activated[:, :, layout.class_values]
    if isinstance(kind, Region) and kind.softmax:
        classes = torch.softmax(values[:, :, layout.class_values], 2)
    return _raised(objectness * classes, power).flatten(1), (box * _raised(objectness, power)).flatten(1)


def _raised(values: Tensor, power: float) -> Tensor:
    return values if power == 1 else (values + SMALLEST_SCORE).pow(power)
