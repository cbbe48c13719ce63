"""Detection heads decoded inside the graph: from the map that a head takes to boxes and scores, all in FP32.

The formulas are those of `darkprune.evaluation.heads` (darknet's `get_yolo_box`, `get_gaussian_yolo_box`,
`get_region_box`). Boxes are corners x1, y1, x2, y2; their order is darknet's: cell by cell, the anchors of a cell side
by side. Half a box's size is folded into the anchor, the grid and its unit into one constant each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkprune.layers import Kind
from darkprune.layers.heads import AnchorLayout, GaussianYolo, Head, Region, Yolo
from darkprune.onnx.nodes.layer_writer import LayerWriter

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Decoded:
    """A head's boxes and scores, still apart by anchor.

    Attributes:
        boxes: tensor (batch, anchors, 4, cells): x1, y1, x2, y2.
        scores: tensor (batch, anchors, classes, cells): objectness · class probability.
        count: anchors · cells.
        classes: number of classes.
    """

    boxes: str
    scores: str
    count: int
    classes: int


@dataclass(frozen=True)
class _Parts:
    """The pieces of a head's map, each (batch, anchors, some, cells), and the constants that they meet."""

    writer: LayerWriter[Kind]
    tensor: str
    layout: AnchorLayout
    grid: NDArray[Any]  # (1, 1, 2, cells): column and row
    unit: Numbers  # (1, 1, 2, 1): of the result, per cell
    half_anchors: Numbers  # (1, anchors, 2, 1): in the unit of the result

    def take(self, start: int, stop: int, step: str, stride: int = 1) -> str:
        return self.writer.slice(self.tensor, 2, start, stop, stride, step)

    def offsets(self) -> str:
        """x and y."""
        return self.take(self.layout.box[0], self.layout.box[2], "xy", self._stride)

    def sizes(self) -> str:
        """w and h."""
        return self.take(self.layout.box[2], self.layout.objectness, "wh", self._stride)

    def spreads(self) -> str:
        """The uncertainties of x, y, w and h."""
        return self.take(self.layout.spread[0], self.layout.objectness, "spread", self._stride)

    def objectness(self) -> str:
        """The objectness."""
        return self.take(self.layout.objectness, self.layout.objectness + 1, "objectness")

    def classes(self) -> str:
        """The values of the classes."""
        return self.take(self.layout.objectness + 1, self.layout.size, "classes")

    @property
    def _stride(self) -> int:
        return self.layout.box[1] - self.layout.box[0]

    def sigmoid(self, tensor: str, step: str) -> str:
        return self.writer.node("Sigmoid", [tensor], step)

    def centre(self, offset: str, stretch: float) -> str:
        """(column + offset·stretch − (stretch − 1)/2) · unit."""
        scaled = self.writer.multiply(offset, self.writer.constant("cell_unit", self.unit * stretch), "offset_scaled")
        shift = (self.grid - 0.5 * (stretch - 1)) * self.unit
        return self.writer.add(scaled, self.writer.constant("grid", shift), "centre")

    def half_size(self, factor: str) -> str:
        return self.writer.multiply(factor, self.writer.constant("half_anchors", self.half_anchors), "half_size")

    def corners(self, low: str, high: str) -> str:
        return self.writer.node("Concat", [low, high], "corners", axis=2)

    def around(self, centre: str, half: str) -> str:
        low = self.writer.node("Sub", [centre, half], "low")
        return self.corners(low, self.writer.add(centre, half, "high"))


def decode(writer: LayerWriter[Head], net_size: tuple[int, int], pixels: bool) -> Decoded:
    """Writes the decoding of a head's input; boxes in `pixels` of the input, or relative to it, 0 to 1.

    Raises:
        ExportError: a head that has no fixed formula (classes in a tree, coords other than 4).
    """
    kind, source = writer.kind, writer.inputs[0].feature
    cells = source.h * source.w
    with writer.builder.in_fp32():
        tensor = writer.reshape(writer.map_of(), 0, len(kind.anchors), kind.layout.size, cells, step="anchors")
        scale = np.array(net_size if pixels else (1, 1), np.float64)
        size = np.array((source.w, source.h), np.float64)
        # anchors of a region are in cells, the others in pixels
        anchor_unit = scale / (size if isinstance(kind, Region) else np.array(net_size, np.float64))
        rows, columns = np.divmod(np.arange(cells), source.w)
        parts = _Parts(
            writer,
            tensor,
            kind.layout,
            grid=np.stack([columns, rows]).reshape(1, 1, 2, cells),
            unit=(scale / size).reshape(1, 1, 2, 1),
            half_anchors=(np.array(kind.anchors) * anchor_unit / 2).reshape(1, -1, 2, 1),
        )
        boxes, scores = _DECODERS[type(kind)](parts, kind)
    return Decoded(boxes, scores, len(kind.anchors) * cells, kind.classes)


def _yolo(parts: _Parts, kind: Yolo) -> tuple[str, str]:
    writer = parts.writer
    centre, size, objectness, classes = parts.offsets(), parts.sizes(), parts.objectness(), parts.classes()
    if kind.new_coords:  # the convolution before is logistic already; (2v)²·anchor
        double = writer.multiply(size, 2.0, "wh_double")
        half = parts.half_size(writer.multiply(double, double, "wh_square"))
    else:
        centre, objectness = parts.sigmoid(centre, "xy_sigmoid"), parts.sigmoid(objectness, "objectness_sigmoid")
        classes = parts.sigmoid(classes, "classes_sigmoid")
        half = parts.half_size(writer.node("Exp", [size], "wh_exp"))
    boxes = parts.around(parts.centre(centre, kind.scale_x_y), half)
    return boxes, writer.multiply(classes, objectness, "scores")


def _gaussian(parts: _Parts, kind: GaussianYolo) -> tuple[str, str]:
    """Score = obj · class · (1 − mean σ)."""
    writer = parts.writer
    offset = parts.sigmoid(parts.offsets(), "xy_sigmoid")
    half = parts.half_size(writer.node("Exp", [parts.sizes()], "wh_exp"))
    point = parts.centre(offset, kind.scale_x_y)
    if kind.yolo_point == "left_top":
        boxes = parts.corners(point, writer.add(point, writer.multiply(half, 2.0, "size"), "high"))
    elif kind.yolo_point == "right_bottom":
        boxes = parts.corners(writer.node("Sub", [point, writer.multiply(half, 2.0, "size")], "low"), point)
    else:
        boxes = parts.around(point, half)
    spread = writer.reduce("ReduceMean", parts.sigmoid(parts.spreads(), "spread_sigmoid"), 2)
    certainty = writer.node("Sub", [writer.builder.scalar(1.0), spread], "certainty")
    objectness = parts.sigmoid(parts.objectness(), "objectness_sigmoid")
    weight = writer.multiply(objectness, certainty, "weight")
    classes = parts.sigmoid(parts.classes(), "classes_sigmoid")
    return boxes, writer.multiply(classes, weight, "scores")


def _region(parts: _Parts, kind: Region) -> tuple[str, str]:
    writer = parts.writer
    if kind.tree:
        raise writer.error(f"tree={kind.tree}: scores over a tree of classes cannot be computed in the file; use heads")
    if kind.coords != 4:
        raise writer.error(f"coords={kind.coords}: darknet's own decoder reads other places than it writes; use heads")
    offset = parts.sigmoid(parts.offsets(), "xy_sigmoid")
    half = parts.half_size(writer.node("Exp", [parts.sizes()], "wh_exp"))
    boxes = parts.around(parts.centre(offset, 1.0), half)
    objectness = parts.sigmoid(parts.objectness(), "objectness_sigmoid")
    classes = parts.classes()
    if kind.softmax:  # before opset 13 a softmax runs over all axes after its own: so over the last one
        last = writer.node("Softmax", [writer.transpose(classes, 0, 1, 3, 2, step="classes_last")], axis=3)
        classes = writer.transpose(last, 0, 1, 3, 2, step="classes_back")
    return boxes, writer.multiply(classes, objectness, "scores")


_DECODERS: dict[type[Head], Callable[[_Parts, Any], tuple[str, str]]] = {
    Yolo: _yolo,
    GaussianYolo: _gaussian,
    Region: _region,
}
