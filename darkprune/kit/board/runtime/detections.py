"""From the raw outputs of a network to detections, as darknet does it: decoding of heads, thresholds, NMS.

Boxes are (centre x, centre y, width, height), relative to the picture, 0..1. The formulas are those of yolo_layer.c,
gaussian_yolo_layer.c, region_layer.c and box.c; heads are those of `model.json`.
"""

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from . import RuntimeFailure
from .model import Head
from .pictures import letterbox_box

# box_diou in box.c raises the distance term to this power, whatever the cfg's beta_nms
_GREEDY_POWER = 0.6
# values per anchor before the classes; a region head has coords + 1
_VALUES = {"yolo": 5, "Gaussian_yolo": 9}


class Detections(NamedTuple):
    """What was found: `boxes` (n, 4) float32, `scores` (n,) float32, `classes` (n,) int, best first per class."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class Candidates(NamedTuple):
    """Boxes before suppression: `boxes` (n, 4), `scores` (n, classes); a score at or below the threshold is 0."""

    boxes: np.ndarray
    scores: np.ndarray


class Cells(NamedTuple):
    """The anchors of all cells of a head: `values` (n, values), column and row `grid` (n, 2), size `anchor` (n, 2)."""

    values: np.ndarray
    grid: np.ndarray
    anchor: np.ndarray

    def where(self, keep: np.ndarray) -> "Cells":
        """Returns those that `keep`, (n,) bool, names."""
        return Cells(self.values[keep], self.grid[keep], self.anchor[keep])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # in 64 bits and rounded to 32, as exp() of a float is in C
    result: np.ndarray = (1.0 / (1.0 + np.exp(-x.astype(np.float64)))).astype(np.float32)
    return result


def _exp(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.exp(x.astype(np.float64))
    return result


def decode(
    heads: List[Head], outputs: Dict[str, np.ndarray], size: Tuple[int, int], threshold: float, index: int = 0
) -> Candidates:
    """Decodes boxes and scores of one picture of a batch.

    Args:
        heads: of the network.
        outputs: tensor name to (batch, channels, rows, columns) float, the input of the head's section in the cfg.
        size: the network's input width and height in pixels.
        threshold: darknet's -thresh.
        index: which picture of the batch.

    Raises:
        RuntimeFailure: an output is missing or does not fit its head.
    """
    boxes = []
    scores = []
    for head in heads:
        if head.output not in outputs:
            raise RuntimeFailure("output {}: the engine does not have it".format(head.output))
        with np.errstate(over="ignore", invalid="ignore"):
            found = decode_head(head, np.asarray(outputs[head.output][index], dtype=np.float32), size, threshold)
        boxes.append(found.boxes)
        scores.append(found.scores)
    return Candidates(np.concatenate(boxes), np.concatenate(scores))


def decode_head(head: Head, output: np.ndarray, size: Tuple[int, int], threshold: float) -> Candidates:
    """Decodes boxes and scores of one head for one picture.

    Args:
        head: the head.
        output: (anchors * values, rows, columns) float32.
        size: the network's input width and height in pixels.
        threshold: scores at or below it count as nothing.
    """
    anchors = np.asarray(head.anchors, dtype=np.float32).reshape(-1, 2)
    values = _VALUES.get(head.kind, head.coords + 1) + head.classes
    if output.ndim != 3 or output.shape[0] != len(anchors) * values:
        raise RuntimeFailure(
            "output {}: has shape {}, its head needs {} channels".format(
                head.output, output.shape, len(anchors) * values
            )
        )
    rows, columns = output.shape[1:]
    # darknet walks cell by cell and through the anchors within a cell; equal scores are suppressed in that order
    by_cell = output.reshape(len(anchors), values, rows * columns).transpose(2, 0, 1).reshape(-1, values)
    row, column = [axis.ravel() for axis in np.mgrid[0:rows, 0:columns]]
    grid = np.repeat(np.stack([column, row], axis=1), len(anchors), axis=0).astype(np.float32)
    cells = Cells(by_cell, grid, np.tile(anchors, (rows * columns, 1)))
    cell_size = np.asarray([columns, rows], dtype=np.float32)
    net_size = np.asarray(size, dtype=np.float32)
    if head.kind == "region":
        return _decode_region(head, cells, cell_size, threshold)
    if head.kind == "Gaussian_yolo":
        return _decode_gaussian(head, cells, cell_size, net_size, threshold)
    return _decode_yolo(head, cells, cell_size, net_size, threshold)


def _cut(scores: np.ndarray, threshold: float) -> np.ndarray:
    scores[scores <= threshold] = 0
    return scores


def _centre(head: Head, values: np.ndarray) -> np.ndarray:
    scale = head.scale_x_y
    result: np.ndarray = values * np.float32(scale) + np.float32(-0.5 * (scale - 1))
    return result


def _decode_yolo(head: Head, cells: Cells, cell_size: np.ndarray, net_size: np.ndarray, threshold: float) -> Candidates:
    # with new_coords the convolution before the head is logistic already
    activate = np.asarray if head.new_coords else _sigmoid
    objectness = activate(cells.values[:, 4])
    cells, objectness = cells.where(objectness > threshold), objectness[objectness > threshold]
    values = cells.values
    centre = (cells.grid + _centre(head, activate(values[:, 0:2]))) / cell_size
    if head.new_coords:
        extent = values[:, 2:4] * values[:, 2:4] * np.float32(4) * cells.anchor / net_size
    else:
        extent = (_exp(values[:, 2:4]) * cells.anchor / net_size).astype(np.float32)
    scores = objectness[:, None] * activate(values[:, 5:])
    return Candidates(np.concatenate([centre, extent], axis=1), _cut(scores, threshold))


def _decode_gaussian(
    head: Head, cells: Cells, cell_size: np.ndarray, net_size: np.ndarray, threshold: float
) -> Candidates:
    # values: x, its spread, y, its spread, w, its spread, h, its spread, objectness, classes
    objectness = _sigmoid(cells.values[:, 8])
    cells, objectness = cells.where(objectness > threshold), objectness[objectness > threshold]
    values = cells.values
    centre = (cells.grid + _centre(head, _sigmoid(values[:, [0, 2]]))) / cell_size
    extent = (_exp(values[:, [4, 6]]) * cells.anchor / net_size).astype(np.float32)
    centre = centre + extent * np.float32({"left_top": 0.5, "right_bottom": -0.5}.get(head.yolo_point, 0.0))
    spread = _sigmoid(values[:, [1, 3, 5, 7]])
    mean = (spread[:, 0] + spread[:, 1] + spread[:, 2] + spread[:, 3]) / np.float32(4)
    products = (objectness[:, None] * _sigmoid(values[:, 9:])).astype(np.float64)
    scores = (products * (1.0 - mean.astype(np.float64))[:, None]).astype(np.float32)
    return Candidates(np.concatenate([centre, extent], axis=1), _cut(scores, threshold))


def _decode_region(head: Head, cells: Cells, cell_size: np.ndarray, threshold: float) -> Candidates:
    # Anchors are in cells here, not in pixels; the objectness scales the classes but does not gate the box. darknet
    # takes value 4 for the objectness and the classes from 5 on, whatever `coords` says.
    classes = np.ascontiguousarray(cells.values[:, 5 : 5 + head.classes])
    if head.softmax:
        powers = _exp(classes - classes.max(axis=1, keepdims=True)).astype(np.float32)
        classes = powers / powers.sum(axis=1, keepdims=True)
    scores = _cut(_sigmoid(cells.values[:, 4])[:, None] * classes, threshold)
    keep = scores.max(axis=1) > 0
    cells = cells.where(keep)
    centre = (cells.grid + _sigmoid(cells.values[:, 0:2])) / cell_size
    extent = (_exp(cells.values[:, 2:4]) * cells.anchor / cell_size).astype(np.float32)
    return Candidates(np.concatenate([centre, extent], axis=1), scores[keep])


def undo_letterbox(boxes: np.ndarray, picture: Tuple[int, int], size: Tuple[int, int]) -> np.ndarray:
    """Converts boxes relative to a letterboxed input to boxes relative to the picture (correct_yolo_boxes).

    Args:
        boxes: (n, 4), relative to the network's input.
        picture: width and height of the picture in pixels.
        size: the network's input width and height in pixels.
    """
    _, _, inner_width, inner_height = letterbox_box(picture[0], picture[1], size[0], size[1])
    net = np.asarray(size, dtype=np.int64)
    inner = np.asarray([inner_width, inner_height], dtype=np.int64)
    ratio = inner.astype(np.float32) / net.astype(np.float32)
    centre = (boxes[:, 0:2].astype(np.float64) - (net - inner) / 2.0 / net) / ratio
    return np.concatenate([centre.astype(np.float32), boxes[:, 2:4] * (np.float32(1) / ratio)], axis=1)


def suppress(candidates: Candidates, kind: str, threshold: float, beta: float = 0.6) -> Detections:
    """Suppresses as darknet does, class by class, on boxes relative to the picture.

    Args:
        candidates: boxes and scores, scores of 0 do not take part.
        kind: `default` compares IoU; `greedynms` IoU minus the distance term to the power 0.6; `diounms` to the
            power `beta`. (do_nms_sort and diounms_sort in box.c; any other word is `default` there, too.)
        threshold: a box that overlaps a better one by more than this goes.
        beta: beta_nms of the cfg.
    """
    boxes: List[np.ndarray] = []
    scores: List[np.ndarray] = []
    classes: List[np.ndarray] = []
    order = np.arange(len(candidates.boxes))
    for index in range(candidates.scores.shape[1]):
        if not candidates.scores[:, index].any():
            continue
        # darknet sorts the same array for one class after the other, so that ties keep the order of the class before
        order = order[np.argsort(-candidates.scores[order, index], kind="mergesort")]
        found = order[candidates.scores[order, index] > 0]
        kept = found[_suppress_class(candidates.boxes[found], kind, threshold, beta)]
        boxes.append(candidates.boxes[kept])
        scores.append(candidates.scores[kept, index])
        classes.append(np.full(len(kept), index, dtype=np.int64))
    if not boxes:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    return Detections(np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes))


def _suppress_class(boxes: np.ndarray, kind: str, threshold: float, beta: float) -> List[int]:
    """Returns the indices of the boxes that stay; `boxes` are sorted, the best first."""
    power = {"greedynms": _GREEDY_POWER, "diounms": beta}.get(kind)
    alive = np.ones(len(boxes), dtype=bool)
    kept = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        rest = boxes[index + 1 :]
        if len(rest):
            alive[index + 1 :] &= ~(overlap(boxes[index], rest, power) > threshold)
    return kept


def overlap(box: np.ndarray, others: np.ndarray, power: Optional[float] = None) -> np.ndarray:
    """Returns the IoU of one box with others, (n,); with `power` minus (d / c) ** power as in box_diou.

    d is the squared distance of the centres, c the squared diagonal of the box around both.
    """
    low = box[0:2] - box[2:4] / 2
    high = box[0:2] + box[2:4] / 2
    lows = others[:, 0:2] - others[:, 2:4] / 2
    highs = others[:, 0:2] + others[:, 2:4] / 2
    sides = np.minimum(high, highs) - np.maximum(low, lows)
    shared = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0)
    union = box[2] * box[3] + others[:, 2] * others[:, 3] - shared
    # no common area is an IoU of 0 even where both boxes are empty (box_iou)
    iou = np.where(shared > 0, shared / np.where(union != 0, union, 1), 0)
    if power is None:
        return iou
    around = np.maximum(high, highs) - np.minimum(low, lows)
    diagonal = around[:, 0] * around[:, 0] + around[:, 1] * around[:, 1]
    apart = box[0:2] - others[:, 0:2]
    distance = apart[:, 0] * apart[:, 0] + apart[:, 1] * apart[:, 1]
    ratio = distance / np.where(diagonal > 0, diagonal, 1)
    return np.where(diagonal > 0, iou - np.power(ratio.astype(np.float64), power).astype(np.float32), iou)
