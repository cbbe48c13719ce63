"""What the boxes of a file should be, computed from a reference's maps by darkprune's own decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from darkprune.evaluation.heads import decode
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import Graph

Floats = NDArray[np.float32]
_EVERYTHING = -1.0  #: a threshold that every score is above


def expected_boxes(graph: Graph, maps: Sequence[Floats], *, pixels: bool) -> tuple[Floats, Floats]:
    """Decodes a reference's maps.

    Args:
        graph: the network.
        maps: per head the map (b, c, h, w) that it takes.
        pixels: boxes in pixels of the network's input; else relative to it, 0 to 1.

    Returns:
        Boxes (b, n, 4) as x1, y1, x2, y2 and scores (b, n, classes), in darknet's order.
    """
    images = len(maps[0])
    everything = decode(heads_of(graph), maps, _EVERYTHING)
    half = everything.boxes[:, 2:] / 2
    boxes = np.concatenate([everything.boxes[:, :2] - half, everything.boxes[:, :2] + half], axis=1)
    boxes = boxes.reshape(images, -1, 4)
    size = (graph.net.input.w, graph.net.input.h) if pixels else (1, 1)
    return boxes * np.tile(np.array(size, np.float32), 2), everything.scores.reshape(images, boxes.shape[1], -1)
