"""[yolo], [Gaussian_yolo], [region], [detection]: darknet's activated output of a head's raw map.

Losses and decoding start from the raw map, the head's input; what darknet's own forward pass makes of it is needed
only to compare programs, or where a later layer reads a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.layers.base import Kind
from darkprune.layers.heads import Detection, GaussianYolo, Region, Yolo
from darkprune.network.modules.base import LayerModule, module_for


def _by_anchor(raw: Tensor, values: int) -> Tensor:
    """(b, anchors·values, h, w) -> a copy (b, anchors, values, h, w)."""
    return raw.reshape(len(raw), -1, values, *raw.shape[2:]).clone()


def _stretch(values: Tensor, scale: float) -> Tensor:
    return values * scale - 0.5 * (scale - 1)


def _activate_yolo(raw: Tensor, kind: Yolo) -> Tensor:
    """Sigmoid on x, y, objectness, classes unless new_coords; then scale_x_y (`forward_yolo_layer`)."""
    cells = _by_anchor(raw, kind.layout.size)
    if not kind.new_coords:
        for part in (slice(0, 2), slice(kind.layout.objectness, None)):
            cells[:, :, part] = torch.sigmoid(cells[:, :, part])
    cells[:, :, :2] = _stretch(cells[:, :, :2], kind.scale_x_y)
    return cells.reshape(raw.shape)


def _activate_gaussian(raw: Tensor, kind: GaussianYolo) -> Tensor:
    """Sigmoid on all but the means of w and h; scale_x_y on the means of x and y (`forward_gaussian_yolo_layer`)."""
    cells = _by_anchor(raw, kind.layout.size)
    sizes, offsets = list(kind.layout.box[2:]), list(kind.layout.box[:2])
    raw_sizes = cells[:, :, sizes]
    cells = torch.sigmoid(cells)
    cells[:, :, sizes] = raw_sizes
    cells[:, :, offsets] = _stretch(cells[:, :, offsets], kind.scale_x_y)
    return cells.reshape(raw.shape)


def _activate_region(raw: Tensor, kind: Region) -> Tensor:
    """Lays the map out cell by cell; sigmoid on value 4, softmax over the classes (`forward_region_layer`).

    x and y stay raw (decoding squashes them), and so do classes without `softmax`.
    """
    cells = raw.reshape(len(raw), kind.num, -1, *raw.shape[2:]).permute(0, 3, 4, 1, 2).clone()
    cells[..., 4] = torch.sigmoid(cells[..., 4])  # whatever `coords` says
    if kind.softmax:
        classes = kind.layout.class_values
        cells[..., classes] = torch.softmax(cells[..., classes], dim=-1)
    return cells.reshape(raw.shape)


def _activate_detection(raw: Tensor, kind: Detection) -> Tensor:
    """Softmax over the classes of each cell, if asked for (`forward_detection_layer`)."""
    flat = raw.flatten(1)
    if not kind.softmax:
        return flat
    cells = kind.side**2
    classes = flat[:, : cells * kind.classes].reshape(len(flat), cells, kind.classes)
    return torch.cat([torch.softmax(classes, dim=2).flatten(1), flat[:, cells * kind.classes :]], dim=1)


_ACTIVATIONS: dict[type[Kind], Callable[[Tensor, Any], Tensor]] = {
    Yolo: _activate_yolo,
    GaussianYolo: _activate_gaussian,
    Region: _activate_region,
    Detection: _activate_detection,
}


@module_for(*_ACTIVATIONS)
class HeadModule(LayerModule):
    """A detection head: the map it reads is an output of the network; its own output is darknet's activated one."""

    is_head = True

    def forward(self, raw: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape ([detection]: (b, n)), in darknet's memory order."""
        if isinstance(self.kind, Region) and self.kind.tree:
            raise TrainingError(f"{self.place}: a softmax over a tree= of classes cannot be computed here")
        return _ACTIVATIONS[type(self.kind)](raw, self.kind)
