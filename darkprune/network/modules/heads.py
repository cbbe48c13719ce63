"""[yolo], [Gaussian_yolo], [region], [detection]: darknet's activated output of a head's raw map.

Losses and decoding start from the raw map, the head's input; what darknet's own forward pass makes of it is needed
only to compare programs, or where a later layer reads a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.heads import Detection, GaussianYolo, Region, Yolo
from darkprune.network.modules.base import LayerModule, make_module, module_for, place_of


class HeadModule(LayerModule):
    """A detection head: the map it reads is an output of the network; its own output is darknet's activated one."""

    is_head = True

    def __init__(self, layer: Layer, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__(layer)
        self.activate = activate

    def forward(self, raw: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape ([detection]: (b, n)), in darknet's memory order."""
        return self.activate(raw)


def head_activation(layer: Layer, graph: Graph, raw: Tensor) -> Tensor:
    """Returns darknet's output of a head.

    Args:
        layer: a detection head.
        graph: its network.
        raw: what it reads, (b, c, h, w), as `NetworkOutput.heads` has it.

    Returns:
        The activated map; for [region] cell by cell, in memory (h, w, anchor, values), whatever the shape says.

    Raises:
        TrainingError: the layer is no head, or has a tree of classes.
    """
    module = make_module(layer, graph, ())
    if not module.is_head:
        raise TrainingError(f"{place_of(layer)}: is no detection head")
    activated: Tensor = module(raw)
    return activated


def _by_anchor(raw: Tensor, values: int) -> Tensor:
    """(b, anchors·values, h, w) -> a copy (b, anchors, values, h, w)."""
    return raw.reshape(len(raw), -1, values, *raw.shape[2:]).clone()


def _stretch(values: Tensor, scale: float) -> Tensor:
    return values * scale - 0.5 * (scale - 1)


def activate_yolo(raw: Tensor, kind: Yolo) -> Tensor:
    """Sigmoid on x, y, objectness, classes unless new_coords; then scale_x_y (`forward_yolo_layer`)."""
    cells = _by_anchor(raw, kind.layout.size)
    if not kind.new_coords:
        for part in (slice(0, 2), slice(kind.layout.objectness, None)):
            cells[:, :, part] = torch.sigmoid(cells[:, :, part])
    cells[:, :, :2] = _stretch(cells[:, :, :2], kind.scale_x_y)
    return cells.reshape(raw.shape)


def activate_gaussian(raw: Tensor, kind: GaussianYolo) -> Tensor:
    """Sigmoid on all but the means of w and h; scale_x_y on the means of x and y (`forward_gaussian_yolo_layer`)."""
    cells = _by_anchor(raw, kind.layout.size)
    sizes, offsets = list(kind.layout.box[2:]), list(kind.layout.box[:2])
    raw_sizes = cells[:, :, sizes]
    cells = torch.sigmoid(cells)
    cells[:, :, sizes] = raw_sizes
    cells[:, :, offsets] = _stretch(cells[:, :, offsets], kind.scale_x_y)
    return cells.reshape(raw.shape)


def activate_region(raw: Tensor, kind: Region) -> Tensor:
    """Lays the map out cell by cell; sigmoid on value 4, softmax over the classes (`forward_region_layer`).

    x and y stay raw (decoding squashes them), and so do classes without `softmax`.
    """
    cells = raw.reshape(len(raw), kind.num, -1, *raw.shape[2:]).permute(0, 3, 4, 1, 2).clone()
    cells[..., 4] = torch.sigmoid(cells[..., 4])  # whatever `coords` says
    if kind.softmax:
        classes = kind.layout.class_values
        cells[..., classes] = torch.softmax(cells[..., classes], dim=-1)
    return cells.reshape(raw.shape)


def activate_detection(raw: Tensor, kind: Detection) -> Tensor:
    """Softmax over the classes of each cell, if asked for (`forward_detection_layer`)."""
    flat = raw.flatten(1)
    if not kind.softmax:
        return flat
    cells = kind.side**2
    classes = flat[:, : cells * kind.classes].reshape(len(flat), cells, kind.classes)
    return torch.cat([torch.softmax(classes, dim=2).flatten(1), flat[:, cells * kind.classes :]], dim=1)


def _no_tree(raw: Tensor, place: str) -> Tensor:
    raise TrainingError(f"{place}: a softmax over a tree= of classes cannot be computed here")


@module_for(Yolo)
def yolo(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a YOLOv3/v4 head."""
    assert isinstance(layer.kind, Yolo)
    return HeadModule(layer, partial(activate_yolo, kind=layer.kind))


@module_for(GaussianYolo)
def gaussian_yolo(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a Gaussian YOLOv3 head."""
    assert isinstance(layer.kind, GaussianYolo)
    return HeadModule(layer, partial(activate_gaussian, kind=layer.kind))


@module_for(Region)
def region(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a YOLOv2 head; one with a tree of classes gives its raw map, but cannot be activated."""
    assert isinstance(layer.kind, Region)
    if layer.kind.tree:
        return HeadModule(layer, partial(_no_tree, place=place_of(layer)))
    return HeadModule(layer, partial(activate_region, kind=layer.kind))


@module_for(Detection)
def detection(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a YOLOv1 head."""
    assert isinstance(layer.kind, Detection)
    return HeadModule(layer, partial(activate_detection, kind=layer.kind))
