"""The output forms of a file: what the tensors after the heads are called and hold.

| form | tensors | boxes |
|---|---|---|
| heads | one per head, named after the layer before it: (B, anchors·values, h, w); or a classifier's output | – |
| boxes | `boxes` (B, N, 4), `scores` (B, N, classes) | x1, y1, x2, y2 relative to the input, 0 to 1 |
| deepstream | `output` (B, N, 6): x1, y1, x2, y2, score, class | pixels of the input, as DeepStream-Yolo reads them |
| nms | `detections` (M, 7): image, x1, y1, x2, y2, score, class | relative |
| efficientnms | `num_dets` (B, 1), `det_boxes` (B, K, 4), `det_scores` (B, K), `det_classes` (B, K) | relative |

N counts head by head, cell by cell, anchor by anchor: darknet's order. Suppression in the file compares plain IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from darkprune.onnx.nodes.builder import GraphBuilder
from darkprune.onnx.nodes.heads import Decoded

FORMS = ("heads", "boxes", "deepstream", "nms", "efficientnms")
PLUGIN_DOMAIN = "TRT"  #: what exporters write; TensorRT's parser looks for the operator's name only


class Output(NamedTuple):
    """An output of the file: name, element type and sizes (a text for an open one)."""

    name: str
    type: int
    shape: tuple[int | str, ...]


class Suppression(NamedTuple):
    """Limits of the suppression in the file.

    Attributes:
        score: scores at or below it are dropped.
        iou: a box that overlaps a better one of its class by more is dropped.
        most: largest number of detections; per image and class (nms) or per image (efficientnms).
    """

    score: float = 0.25
    iou: float = 0.45
    most: int = 100


def write_outputs(builder: GraphBuilder, form: str, heads: Sequence[Decoded], limits: Suppression) -> list[Output]:
    """Writes the end of a file of any form but `heads`, and lists its outputs."""
    batch = builder.batch_axis
    count, classes = sum(head.count for head in heads), heads[0].classes
    with builder.in_fp32():
        boxes = _joined(builder, "boxes", [_rows(builder, head.boxes, head.count, 4) for head in heads])
        if form == "nms":
            return _nms(builder, boxes, heads, limits)
        scores = _joined(builder, "scores", [_rows(builder, head.scores, head.count, classes) for head in heads])
        if form == "boxes":
            return [
                Output(boxes, TensorProto.FLOAT, (batch, count, 4)),
                Output(scores, TensorProto.FLOAT, (batch, count, classes)),
            ]
        if form == "deepstream":
            return _deepstream(builder, boxes, scores, (batch, count, 6))
        return _efficient(builder, boxes, scores, limits, batch)


def _rows(builder: GraphBuilder, tensor: str, count: int, values: int) -> str:
    """(batch, anchors, values, cells) as (batch, cells·anchors, values)."""
    turned = builder.node("Transpose", [tensor], f"{tensor}_last", perm=[0, 3, 1, 2])
    return builder.node("Reshape", [*turned, builder.integers(0, count, values)], f"{tensor}_rows")[0]


def _joined(builder: GraphBuilder, name: str, parts: Sequence[str], axis: int = 1) -> str:
    if len(parts) == 1:
        builder.rename(len(builder.nodes) - 1, parts[0], name)
        return name
    return builder.node("Concat", parts, name, axis=axis)[0]


def _deepstream(builder: GraphBuilder, boxes: str, scores: str, shape: tuple[int | str, ...]) -> list[Output]:
    one = builder.constant("deepstream/one", np.array([1], np.int64))
    best, number = builder.node("TopK", [scores, one], "deepstream/best", outputs=2, axis=2)
    as_float = builder.node("Cast", [number], "deepstream/class", to=TensorProto.FLOAT)
    output = builder.node("Concat", [boxes, best, *as_float], "output", axis=2)
    return [Output(output[0], TensorProto.FLOAT, shape)]


def _nms(builder: GraphBuilder, boxes: str, heads: Sequence[Decoded], limits: Suppression) -> list[Output]:
    """ONNX NonMaxSuppression names (image, class, box) of what stays; the rest fetches it."""
    count, classes = sum(head.count for head in heads), heads[0].classes
    by_class = []
    for head in heads:  # (batch, anchors, classes, cells) as (batch, classes, cells·anchors)
        turned = builder.node("Transpose", [head.scores], f"{head.scores}_by_class", perm=[0, 2, 3, 1])
        shape = builder.integers(0, classes, head.count)
        by_class += builder.node("Reshape", [*turned, shape], f"{head.scores}_by_class_rows")
    scores = _joined(builder, "scores", by_class, axis=2)
    most = builder.constant("nms/most", np.array([limits.most], np.int64))
    iou = builder.constant("nms/iou", np.array([limits.iou], np.float32))
    score = builder.constant("nms/score", np.array([limits.score], np.float32))
    kept = builder.node("NonMaxSuppression", [boxes, scores, most, iou, score], "nms/kept", center_point_box=0)[0]
    image, number, box = (_column(builder, kept, index, name) for index, name in enumerate(("image", "class", "box")))
    box_row = _add(builder, _times(builder, image, count, "nms/image_start"), box, "nms/box_row")
    row = _add(builder, _times(builder, image, classes, "nms/image_classes"), number, "nms/class_row")
    score_row = _add(builder, _times(builder, row, count, "nms/class_start"), box, "nms/score_row")
    columns = [
        _as_column(builder, image, "nms/image_float"),
        _fetch(builder, boxes, box_row, 4, "nms/box_rows"),
        _fetch(builder, scores, score_row, 1, "nms/score_rows"),
        _as_column(builder, number, "nms/class_float"),
    ]
    output = builder.node("Concat", columns, "detections", axis=1)
    return [Output(output[0], TensorProto.FLOAT, ("found", 7))]


def _column(builder: GraphBuilder, kept: str, index: int, name: str) -> str:
    inputs = [kept, builder.integers(index), builder.integers(index + 1), builder.integers(1)]
    column = builder.node("Slice", inputs, f"nms/{name}_column")
    return builder.node("Reshape", [*column, builder.integers(-1)], f"nms/{name}")[0]


def _times(builder: GraphBuilder, tensor: str, factor: int, name: str) -> str:
    return builder.node("Mul", [tensor, builder.integers(factor)], name)[0]


def _add(builder: GraphBuilder, left: str, right: str, name: str) -> str:
    return builder.node("Add", [left, right], name)[0]


def _as_column(builder: GraphBuilder, tensor: str, name: str) -> str:
    cast = builder.node("Cast", [tensor], name, to=TensorProto.FLOAT)
    return builder.node("Reshape", [*cast, builder.integers(-1, 1)], f"{name}_column")[0]


def _fetch(builder: GraphBuilder, tensor: str, rows: str, values: int, name: str) -> str:
    table = builder.node("Reshape", [tensor, builder.integers(-1, values)], f"{name}_table")
    return builder.node("Gather", [*table, rows], name, axis=0)[0]


def _efficient(builder: GraphBuilder, boxes: str, scores: str, limits: Suppression, batch: int | str) -> list[Output]:
    """TensorRT's plugin; source of the attributes: NVIDIA/TensorRT plugin/efficientNMSPlugin/README.md."""
    made = builder.node(
        "EfficientNMS_TRT",
        [boxes, scores],
        "efficient_nms",
        outputs=4,
        domain=PLUGIN_DOMAIN,
        plugin_version="1",
        score_threshold=limits.score,
        iou_threshold=limits.iou,
        max_output_boxes=limits.most,
        background_class=-1,
        score_activation=0,  # scores are probabilities already
        box_coding=0,  # corners
    )
    names = ("num_dets", "det_boxes", "det_scores", "det_classes")
    for old, new in zip(made, names, strict=True):
        builder.rename(len(builder.nodes) - 1, old, new)
    shapes: tuple[tuple[int | str, ...], ...] = ((1,), (limits.most, 4), (limits.most,), (limits.most,))
    types = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    return [Output(name, kind, (batch, *shape)) for name, kind, shape in zip(names, types, shapes, strict=True)]
