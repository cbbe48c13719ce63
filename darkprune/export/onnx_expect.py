"""What a file should give, computed from a reference's maps by darkprune's own decoding and suppression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkprune.evaluation import Candidates, decode, suppress
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import Graph

Floats = NDArray[np.float32]
_EVERYTHING = -1.0  #: a threshold that every score is above


def expected_outputs(
    graph: Graph, facts: Mapping[str, Any], maps: Sequence[Floats], outputs: Sequence[str]
) -> dict[str, Floats]:
    """Computes a file's outputs.

    Args:
        graph: the network.
        facts: what the file says about itself.
        maps: per head the map (b, c, h, w) that it takes; or a classifier's output.
        outputs: names of the file's outputs, for the form `heads`.

    Returns:
        The outputs by name; for `efficientnms` and
        `deepstream` the `boxes` and `scores` that they are made of.
    """
    if facts["outputs"] == "heads":
        return dict(zip(outputs, maps, strict=True))
    heads, images = heads_of(graph), len(maps[0])
    everything = decode(heads, maps, _EVERYTHING)
    boxes = corners(everything.boxes).reshape(images, -1, 4)
    scores = everything.scores.reshape(images, boxes.shape[1], -1)
    if facts["outputs"] == "deepstream":
        size = np.tile(np.array([graph.net.input.w, graph.net.input.h], np.float32), 2)
        return {"boxes": boxes * size, "scores": scores}
    if facts["outputs"] == "nms":
        limits = facts["limits"]
        found = decode(heads, maps, limits["score"])
        return {"detections": detections(found, limits["iou"], limits["most"])}
    return {"boxes": boxes, "scores": scores}


def corners(boxes: Floats) -> Floats:
    """Turns boxes (n, 4) of centre and size into x1, y1, x2, y2."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def detections(candidates: Candidates, iou: float, most: int) -> Floats:
    """Suppresses by plain IoU and keeps the best `most` of a class: image, x1, y1, x2, y2, score, class (n, 7)."""
    found = suppress(candidates, "default", threshold=iou)
    order = np.lexsort((-found.scores, found.classes, found.image))
    group = found.image[order] * (1 + int(found.classes.max(initial=0))) + found.classes[order]
    rank = np.arange(len(order)) - np.searchsorted(group, group)
    order = order[rank < most]
    columns = (found.image[order, None], corners(found.boxes[order]), found.scores[order, None])
    return np.concatenate([*columns, found.classes[order, None]], axis=1).astype(np.float32)
