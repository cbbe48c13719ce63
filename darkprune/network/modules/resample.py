"""[upsample], [reorg], [reorg3d], [crop]: layers that move cells (darknet's files of these names)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.resample import Crop, Reorg, Reorg3d, Upsample
from darkprune.network.modules.base import LayerModule, module_for


class Enlargement(LayerModule):
    """Nearest-neighbour enlargement times a factor; a negative stride sums blocks instead."""

    def __init__(self, layer: Layer, kind: Upsample) -> None:
        super().__init__(layer)
        self.stride, self.scale = kind.stride, kind.scale

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h·stride, w·stride)."""
        if self.stride > 0:
            y = functional.interpolate(x, scale_factor=self.stride, mode="nearest")
        else:
            y = functional.avg_pool2d(x, -self.stride, divisor_override=1)
        return y if self.scale == 1 else y * self.scale


def space_to_depth(x: Tensor, s: int) -> Tensor:
    """out[o·c + k, y, x] = in[k, y·s + o/s, x·s + o%s]: (b, c, h, w) -> (b, c·s², h/s, w/s) (`reorg_cpu`)."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4).reshape(b, c * s * s, h // s, w // s)


def depth_to_space(x: Tensor, s: int) -> Tensor:
    """Inverse of `space_to_depth`: (b, c, h, w) -> (b, c/s², h·s, w·s)."""
    b, c, h, w = x.shape
    parts = x.reshape(b, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(b, c // (s * s), h * s, w * s)


class Reorganisation(LayerModule):
    """[reorg] and [reorg3d]: move s x s blocks between positions and channels.

    [reorg3d] is true space to depth; its reverse is the inverse of [reorg]. [reorg] reads its input's memory as if it
    were an s times larger map of c/s² channels; its reverse is the inverse of [reorg3d].
    """

    def __init__(self, layer: Layer, kind: Reorg | Reorg3d) -> None:
        super().__init__(layer)
        self.stride, self.reverse, self.old = kind.stride, kind.reverse, isinstance(kind, Reorg)
        source, s2 = layer.inputs[0], kind.stride**2
        # the reverse of [reorg3d] divides the channels twice on the way
        divisor = s2 if self.old else s2 * s2 if self.reverse else 1
        if source.c % divisor or (not self.reverse and (source.h % self.stride or source.w % self.stride)):
            raise TrainingError(f"{self.place}: stride={self.stride} does not divide {source}; darknet misreads memory")

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c·s², h/s, w/s), or with `reverse` (b, c/s², h·s, w·s)."""
        s, (b, c, h, w) = self.stride, x.shape
        if self.reverse:
            if self.old:
                return depth_to_space(x, s)
            enlarged = x.reshape(b, c // (s * s), h * s, w * s)
            return depth_to_space(enlarged, s).reshape(enlarged.shape)
        if self.old:
            askew = space_to_depth(x.reshape(b, c // (s * s), h * s, w * s), s)
            return askew.reshape(b, c * s * s, h // s, w // s)
        return space_to_depth(x, s)


class Cropping(LayerModule):
    """The centre, or in training a random part, perhaps mirrored; then 2x − 1 unless `noadjust`.

    darknet's GPU build also turns and recolours the image in training (`angle`, `saturation`, `exposure`): not here,
    where augmentation is the data loader's.
    """

    def __init__(self, layer: Layer, kind: Crop, flip: bool) -> None:
        super().__init__(layer)
        self.size, self.noadjust, self.flip = (kind.height, kind.width), kind.noadjust, flip

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, crop_height, crop_width)."""
        room = [have - want for have, want in zip(x.shape[-2:], self.size, strict=True)]
        if min(room) < 0:
            raise TrainingError(
                f"{self.place}: cannot crop {x.shape[-2]}x{x.shape[-1]} to {self.size[0]}x{self.size[1]}"
            )
        # one place for the whole batch, as in darknet
        top, left = (int(torch.randint(r + 1, ())) for r in room) if self.training else (r // 2 for r in room)
        y = x[..., top : top + self.size[0], left : left + self.size[1]]
        if self.training and self.flip and int(torch.randint(2, ())):
            y = y.flip(-1)
        return y if self.noadjust else 2 * y - 1


@module_for(Upsample)
def enlargement(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes an enlargement."""
    assert isinstance(layer.kind, Upsample)
    return Enlargement(layer, layer.kind)


@module_for(Reorg, Reorg3d)
def reorganisation(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a reorganisation."""
    assert isinstance(layer.kind, (Reorg, Reorg3d))
    return Reorganisation(layer, layer.kind)


@module_for(Crop)
def cropping(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a crop."""
    assert isinstance(layer.kind, Crop)
    return Cropping(layer, layer.kind, graph.options(layer).flag("flip"))
