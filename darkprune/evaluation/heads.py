"""Decoding of detection heads, from the map before the head's own activation.

Source: `get_yolo_detections`, `get_gaussian_yolo_detections`, `get_region_boxes` and the heads' forward functions of
AlexeyAB's darknet. Exponentials are taken in 64 bits and rounded to 32, as C does there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from darkprune.errors import DataError
from darkprune.evaluation.rows import Rows
from darkprune.layers.heads import AnchorLayout

Floats = npt.NDArray[np.float32]
HeadKind = Literal["yolo", "Gaussian_yolo", "region"]


@dataclass(frozen=True)
class Head:
    """A detection layer, as decoding needs it.

    Attributes:
        kind: the section's name.
        classes: number of classes.
        anchors: width and height of the anchors in use (after `mask`), in network pixels, for `region` in cells.
        net_width, net_height: input of the network, in pixels.
        scale_x_y: stretch of the cell offsets, `v·s − (s − 1)/2`.
        new_coords: yolo only: no activation, sizes are (2v)²·anchor.
        coords: region only: values per anchor before the objectness.
        softmax: region only: softmax over the classes, else they stay raw.
        nms_kind: `default`, `greedynms`, `diounms`, `cornersnms` or any other text, which means `default`.
        beta_nms: exponent of `diounms`.
        yolo_point: Gaussian_yolo only: what x and y mark: `center`, `left_top` or `right_bottom`.
        tree: region only: parent class of every class, −1 for roots, for a hierarchical softmax; None without.
    """

    kind: HeadKind
    classes: int
    anchors: tuple[tuple[float, float], ...]
    net_width: int
    net_height: int
    scale_x_y: float = 1.0
    new_coords: bool = False
    coords: int = 4
    softmax: bool = False
    nms_kind: str = "default"
    beta_nms: float = 0.6
    yolo_point: str = "center"
    tree: tuple[int, ...] | None = None

    @property
    def layout(self) -> AnchorLayout:
        """Where the values of an anchor lie."""
        return AnchorLayout.of(self.kind, self.classes, self.coords)

    @property
    def channels(self) -> int:
        """Channels of the map that the head takes."""
        return self.layout.size * len(self.anchors)


@dataclass(frozen=True, eq=False)
class Candidates(Rows):
    """Boxes above the threshold, before suppression, of a batch of images; in darknet's order within each image.

    Attributes:
        image: (n,) int64, position in the batch, ascending.
        boxes: (n, 4) float32, cx, cy, w, h relative to the network's input.
        objectness: (n,) float32; 1 for `region`, as darknet has it.
        scores: (n, classes) float32, objectness · class probability, 0 where not above the threshold.
    """

    image: npt.NDArray[np.int64]
    boxes: Floats
    objectness: Floats
    scores: Floats


def decode(heads: Sequence[Head], outputs: Sequence[Floats], threshold: float = 0.005) -> Candidates:
    """Decodes the maps of all heads of a network.

    Args:
        heads: in the order of the layers.
        outputs: per head the map that it takes, (b, c, h, w).
        threshold: objectness and score have to be above it.

    Raises:
        DataError: maps and heads do not fit together.
    """
    if not heads or len(heads) != len(outputs):
        raise DataError(f"the network gave {len(outputs)} maps for {len(heads)} detection heads")
    classes = {head.classes for head in heads}
    if len(classes) > 1:
        raise DataError(f"the heads have different numbers of classes ({', '.join(map(str, sorted(classes)))})")
    parts = []
    for number, (head, output) in enumerate(zip(heads, outputs, strict=True)):
        if output.ndim != 4 or output.shape[1] != head.channels:
            raise DataError(f"head {number} ([{head.kind}]) needs a map (b, {head.channels}, h, w), not {output.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            parts.append(_DECODERS[head.kind](head, output, np.float32(threshold)))
    joined = Candidates.join(parts)
    return joined.select(np.argsort(joined.image, kind="stable"))  # image by image, in it head by head


def correct_letterbox(boxes: Floats, sizes: npt.NDArray[np.int64], net_width: int, net_height: int) -> Floats:
    """Turns boxes relative to a letterboxed input into boxes relative to the image (`correct_yolo_boxes`).

    Args:
        boxes: (n, 4), relative to the network's input.
        sizes: (n, 2), width and height of the image of each box, in pixels.
        net_width, net_height: in pixels.
    """
    width, height = sizes[:, 0], sizes[:, 1]
    net = np.array([net_width, net_height], np.int64)
    by_width = np.float32(net_width) / width.astype(np.float32) < np.float32(net_height) / height.astype(np.float32)
    inner = np.stack(
        [
            np.where(by_width, net_width, width * net_height // height),
            np.where(by_width, height * net_width // width, net_height),
        ],
        axis=1,
    )
    ratio = inner.astype(np.float32) / net.astype(np.float32)
    centre = (boxes[:, :2].astype(np.float64) - (net - inner) / 2.0 / net) / ratio
    return np.concatenate([centre.astype(np.float32), boxes[:, 2:] * (np.float32(1) / ratio)], axis=1)


def _sigmoid(values: npt.NDArray[np.floating]) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-values.astype(np.float64))), np.float32)


def _exp(values: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(np.exp(values.astype(np.float64)), np.float64)


def _cells(head: Head, output: Floats) -> Floats:
    """Views a map as (b, h, w, anchors, features): in darknet's order of detections."""
    b, _, h, w = output.shape
    anchors = np.reshape(output, (b, len(head.anchors), head.layout.size, h, w))
    return np.transpose(anchors, (0, 3, 4, 1, 2))


def _offset(head: Head, values: Floats) -> Floats:
    stretched = values * np.float32(head.scale_x_y) + np.float32(-0.5 * (head.scale_x_y - 1))
    return np.asarray(stretched, np.float32)


def _above(scores: Floats, threshold: np.float32) -> Floats:
    return np.asarray(np.where(scores > threshold, scores, 0), np.float32)


def _decode_yolo(head: Head, output: Floats, threshold: np.float32) -> Candidates:
    cells, layout = _cells(head, output), head.layout
    activated: Callable[[Floats], Floats] = np.asarray if head.new_coords else _sigmoid  # by the convolution before
    objectness = activated(cells[..., layout.objectness])
    image, row, column, anchor = np.nonzero(objectness > threshold)
    values = cells[image, row, column, anchor]
    found = objectness[image, row, column, anchor]
    offset = _offset(head, activated(values[:, :2]))
    centre = (np.stack([column, row], axis=1).astype(np.float32) + offset) / _grid(output)
    anchors = np.array(head.anchors, np.float32)[anchor]
    net = np.array([head.net_width, head.net_height], np.float32)
    if head.new_coords:
        size = values[:, 2:4] * values[:, 2:4] * np.float32(4) * anchors / net
    else:
        size = (_exp(values[:, 2:4]) * anchors / net).astype(np.float32)
    scores = _above(found[:, None] * activated(values[:, layout.class_values]), threshold)
    return Candidates(image.astype(np.int64), np.concatenate([centre, size], axis=1), found, scores)


def _decode_gaussian(head: Head, output: Floats, threshold: np.float32) -> Candidates:
    cells, layout = _cells(head, output), head.layout
    place, extent, spreads = list(layout.box[:2]), list(layout.box[2:]), list(layout.spread)
    objectness = _sigmoid(cells[..., layout.objectness])
    image, row, column, anchor = np.nonzero(objectness > threshold)
    values = cells[image, row, column, anchor]
    found = objectness[image, row, column, anchor]
    offset = _offset(head, _sigmoid(values[:, place]))
    spread = _sigmoid(values[:, spreads])
    centre = (np.stack([column, row], axis=1).astype(np.float32) + offset) / _grid(output)
    anchors = np.array(head.anchors, np.float32)[anchor]
    net = np.array([head.net_width, head.net_height], np.float32)
    size = (_exp(values[:, extent]) * anchors / net).astype(np.float32)
    if head.yolo_point == "left_top":
        centre = centre + size / np.float32(2)
    elif head.yolo_point == "right_bottom":
        centre = centre - size / np.float32(2)
    mean = (spread[:, 0] + spread[:, 1] + spread[:, 2] + spread[:, 3]) / np.float32(4)
    probabilities = _sigmoid(values[:, layout.class_values])
    certain = (1.0 - mean.astype(np.float64))[:, None]
    scores = ((found[:, None] * probabilities).astype(np.float64) * certain).astype(np.float32)
    return Candidates(image.astype(np.int64), np.concatenate([centre, size], axis=1), found, _above(scores, threshold))


def _decode_region(head: Head, output: Floats, threshold: np.float32) -> Candidates:
    cells = _cells(head, output)
    layout = AnchorLayout.of("region", head.classes)  # AlexeyAB's decoder takes coords for 4, whatever the cfg says
    objectness = _sigmoid(cells[..., layout.objectness])
    if head.tree is None and not head.softmax:
        may = (objectness[..., None] * cells[..., layout.class_values]).max(axis=-1) > threshold
    else:
        may = objectness > threshold  # probabilities are at most 1
    image, row, column, anchor = np.nonzero(may)
    values = cells[image, row, column, anchor]
    found = objectness[image, row, column, anchor]
    centre = (np.stack([column, row], axis=1).astype(np.float32) + _sigmoid(values[:, :2])) / _grid(output)
    anchors = np.array(head.anchors, np.float32)[anchor]
    size = (_exp(values[:, 2:4]) * anchors / _grid(output)).astype(np.float32)
    probabilities = np.ascontiguousarray(values[:, layout.class_values])
    if head.tree is not None:
        scores = _tree_scores(probabilities, head.tree)
    else:
        probabilities = _softmax(probabilities) if head.softmax else probabilities
        scores = _above(found[:, None] * probabilities, threshold)
    boxes = np.concatenate([centre, size], axis=1)
    every = Candidates(image.astype(np.int64), boxes, np.ones(len(boxes), np.float32), scores)
    return every.select(np.asarray(scores.any(axis=1), np.bool_))


def _grid(output: Floats) -> Floats:
    return np.array([output.shape[3], output.shape[2]], np.float32)


def _softmax(values: Floats) -> Floats:
    exponentials = np.exp((values - values.max(axis=1, keepdims=True)).astype(np.float64)).astype(np.float32)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def _tree_scores(values: Floats, tree: Sequence[int]) -> Floats:
    """Hierarchical softmax: 1-hot-like scores of the last class in the tree with a path probability above one half."""
    parents = np.array(tree, np.int64)
    starts = np.flatnonzero(np.diff(parents, prepend=-2))
    probabilities = np.empty_like(values)
    for low, high in zip(starts, [*starts[1:], len(parents)], strict=True):
        probabilities[:, low:high] = _softmax(values[:, low:high])
    for number in np.flatnonzero(parents >= 0):  # parents come before their children
        probabilities[:, number] *= probabilities[:, parents[number]]
    likely = probabilities > np.float32(0.5)
    last = likely.shape[1] - 1 - likely[:, ::-1].argmax(axis=1)
    scores = np.zeros_like(probabilities)
    rows = np.flatnonzero(likely.any(axis=1))
    scores[rows, last[rows]] = probabilities[rows, last[rows]]
    return scores


_DECODERS = {"yolo": _decode_yolo, "Gaussian_yolo": _decode_gaussian, "region": _decode_region}
