"""[upsample], [reorg], [reorg3d], [crop]: layers that move cells (darknet's files of these names)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Layer
from darkprune.layers.resample import Crop, Reorg, Reorg3d, Upsample
from darkprune.network.modules.base import LayerModule, module_for


@module_for(Upsample)
class Enlargement(LayerModule):
    """Nearest-neighbour enlargement times a factor; a negative stride sums blocks instead."""

    kind: Upsample

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h·stride, w·stride)."""
        stride, scale = self.kind.stride, self.kind.scale
        if stride > 0:
            y = functional.interpolate(x, scale_factor=stride, mode="nearest")
        else:
            y = functional.avg_pool2d(x, -stride, divisor_override=1)
        return y if scale == 1 else y * scale


def space_to_depth(x: Tensor, s: int) -> Tensor:
    """out[o·c + k, y, x] = in[k, y·s + o/s, x·s + o%s]: (b, c, h, w) -> (b, c·s², h/s, w/s) (`reorg_cpu`)."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4).reshape(b, c * s * s, h // s, w // s)


def depth_to_space(x: Tensor, s: int) -> Tensor:
    """Inverse of `space_to_depth`: (b, c, h, w) -> (b, c/s², h·s, w·s)."""
    b, c, h, w = x.shape
    parts = x.reshape(b, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(b, c // (s * s), h * s, w * s)


@module_for(Reorg, Reorg3d)
class Reorganisation(LayerModule):
    """[reorg] and [reorg3d]: move s x s blocks between positions and channels.

    [reorg3d] is true space to depth; its reverse is the inverse of [reorg]. [reorg] reads its input's memory as if it
    were an s times larger map of c/s² channels; its reverse is the inverse of [reorg3d].
    """

    kind: Reorg | Reorg3d

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.old = isinstance(self.kind, Reorg)
        source, s, reverse = layer.inputs[0], self.kind.stride, self.kind.reverse
        # the reverse of [reorg3d] divides the channels twice on the way
        divisor = s**2 if self.old else s**4 if reverse else 1
        if source.c % divisor or (not reverse and (source.h % s or source.w % s)):
            raise TrainingError(f"{self.place}: stride={s} does not divide {source}; darknet misreads memory")

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c·s², h/s, w/s), or with `reverse` (b, c/s², h·s, w·s)."""
        s, (b, c, h, w) = self.kind.stride, x.shape
        if self.kind.reverse:
            if self.old:
                return depth_to_space(x, s)
            enlarged = x.reshape(b, c // (s * s), h * s, w * s)
            return depth_to_space(enlarged, s).reshape(enlarged.shape)
        if self.old:
            askew = space_to_depth(x.reshape(b, c // (s * s), h * s, w * s), s)
            return askew.reshape(b, c * s * s, h // s, w // s)
        return space_to_depth(x, s)


@module_for(Crop)
class Cropping(LayerModule):
    """The centre, or in training a random part, perhaps mirrored; then 2x − 1 unless `noadjust`.

    darknet's GPU build also turns and recolours the image in training (`angle`, `saturation`, `exposure`): not here,
    where augmentation is the data loader's.
    """

    kind: Crop

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, crop_height, crop_width)."""
        height, width = self.kind.height, self.kind.width
        room = (x.shape[-2] - height, x.shape[-1] - width)
        if min(room) < 0:
            raise TrainingError(f"{self.place}: cannot crop {x.shape[-2]}x{x.shape[-1]} to {height}x{width}")
        # one place for the whole batch, as in darknet
        top, left = (int(torch.randint(r + 1, ())) for r in room) if self.training else (r // 2 for r in room)
        y = x[..., top : top + height, left : left + width]
        if self.training and self.kind.flip and int(torch.randint(2, ())):
            y = y.flip(-1)
        return y if self.kind.noadjust else 2 * y - 1
