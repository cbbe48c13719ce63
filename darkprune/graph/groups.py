"""Division of a network's layers into groups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from darkprune.errors import PlanError, UsageError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers import INPUT
from darkprune.layers.resample import Upsample
from darkprune.layers.simple import Final

#: name -> (number of layers, last layer of each group); [GCP] §5 and the authors' program
PRESETS: dict[str, tuple[int, tuple[int, ...]]] = {
    "yolov4": (162, (55, 85, 116, 136, 161)),
    "yolov3": (107, (34, 60, 83, 95, 106)),
    "mobilenet-yolov3": (59, (10, 22, 35, 47, 58)),  # divided like YOLOv3: its groups are not published
}


@dataclass(frozen=True)
class PruneGroup:
    """A range of layers that share one ratio and one threshold.

    Attributes:
        name: g1, g2, … in order.
        first, last: layer indices, both included.
    """

    name: str
    first: int
    last: int

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.first <= layer <= self.last


def divide(graph: Graph, how: str) -> tuple[PruneGroup, ...]:
    """Divides a network into groups.

    Args:
        how: `auto`, a preset's name, or ranges such as `0-55,56-85`; layers in no range are not pruned.

    Raises:
        UsageError: ranges that cannot be read, overlap, run backwards or leave the network.
        PlanError: a preset of another network.
    """
    if how == "auto":
        return find_groups(graph)
    if how in PRESETS:
        layers, lasts = PRESETS[how]
        if len(graph) != layers:
            raise PlanError(f"--groups {how} is for a network of {layers} layers, this one has {len(graph)}; use auto")
        return _named([(first, last) for first, last in zip((0, *(n + 1 for n in lasts)), lasts, strict=False)])
    return _named(_parse_ranges(how, len(graph)))


def group_of(groups: Sequence[PruneGroup], layer: int) -> PruneGroup | None:
    """Returns the group that a layer lies in."""
    return next((group for group in groups if layer in group), None)


def find_groups(graph: Graph) -> tuple[PruneGroup, ...]:
    """Finds groups from the graph: backbone by scale, neck, heads.

    The backbone ends before the first layer that feeds an upsampling or a head. Its two coarsest scales are groups of
    their own, what is finer is one. Behind it, the neck ends where the branch to the first head begins; where heads
    hang on the backbone already (YOLOv3), it ends before the layer that feeds the last upsampling.
    """
    last = len(graph) - 1
    feeders = [_feeder(layer) for layer in graph if isinstance(layer.kind, Final | Upsample)]
    backbone_end = max(0, min([feeder for feeder in feeders if feeder > 0], default=len(graph)) - 1)
    cuts = _scale_cuts(graph, backbone_end)
    if backbone_end < last:
        cuts.append(backbone_end)
        neck_end = _neck_end(graph, backbone_end)
        if neck_end is not None:
            cuts.append(neck_end)
    cuts.append(last)
    edges = sorted(set(cuts))
    ranges = list(zip([0, *(edge + 1 for edge in edges[:-1])], edges, strict=True))
    return _named(_with_convolutions(graph, ranges))


def _feeder(layer: Layer) -> int:
    return layer.sources[0] if layer.sources else INPUT


def _scale_cuts(graph: Graph, backbone_end: int) -> list[int]:
    """Returns the last layers of the backbone's groups: all scales but the two coarsest together, then each."""
    starts: list[int] = []
    finest = graph.net.input.h * graph.net.input.w
    for layer in graph.layers[: backbone_end + 1]:
        area = layer.output.h * layer.output.w
        # a 1x1 map (squeeze-and-excitation, global pooling) is a side branch, not a scale
        if 1 < area < finest:
            starts.append(layer.index)
            finest = area
    return [start - 1 for start in starts[-2:] if start > 0]


def _neck_end(graph: Graph, backbone_end: int) -> int | None:
    """Returns the neck's last layer, or None if there is nothing to divide after the backbone."""
    heads = [layer for layer in graph if isinstance(layer.kind, Final)]
    if heads:
        start = heads[0].index
        while graph[start].sources and (source := graph[start].sources[0]) > backbone_end:
            if len(graph.consumers[source]) > 1:
                return source
            start = source
    upsamples = [layer for layer in graph if isinstance(layer.kind, Upsample) and _feeder(layer) - 1 > backbone_end]
    return _feeder(upsamples[-1]) - 1 if upsamples else None


def _with_convolutions(graph: Graph, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Joins a range without any convolution to the one before (or after) it."""
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and not any(layer.name in ("convolutional", "connected") for layer in graph.layers[first : last + 1]):
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _parse_ranges(text: str, layers: int) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*-\s*(\d{1,6})\s*", part)
        if match is None:
            raise UsageError(
                f"--groups {text[:80]}: '{part.strip()[:20]}' is no range; write 0-55,56-85,… or a preset: "
                f"auto, {', '.join(PRESETS)}"
            )
        first, last = int(match[1]), int(match[2])
        if first > last or last >= layers:
            raise UsageError(f"--groups: {first}-{last} does not lie within layers 0-{layers - 1}")
        ranges.append((first, last))
    for (a, b), (c, d) in zip(sorted(ranges), sorted(ranges)[1:], strict=False):
        if c <= b:
            raise UsageError(f"--groups: {a}-{b} and {c}-{d} overlap; every layer belongs to one group at most")
    return ranges


def _named(ranges: Sequence[tuple[int, int]]) -> tuple[PruneGroup, ...]:
    return tuple(PruneGroup(f"g{number}", first, last) for number, (first, last) in enumerate(ranges, start=1))
