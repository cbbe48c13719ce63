"""[maxpool], [local_avgpool], [avgpool] (darknet's `maxpool_layer.c`, `avgpool_layer.c`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.graph.graph import Layer
from darkprune.layers.base import positions
from darkprune.layers.pooling import AvgPool, LocalAvgPool, MaxPool, Window
from darkprune.network.modules.base import LayerModule, module_for
from darkprune.network.modules.convolution import blur


def padded(x: Tensor, window: Window, stride: tuple[int, int], value: float) -> Tensor:
    """Pads a map for a window: the smaller half of the total at the top and left, what is looked at at the other sides.

    Args:
        x: (b, c, h, w).
        window: size and total padding.
        stride: rows, columns.
        value: of the padding.
    """
    sides = []
    for length, step in zip(x.shape[:1:-1], stride[::-1], strict=True):  # columns first, as torch's pad wants it
        last = (positions(length + window.padding - window.size, step) - 1) * step + window.size
        sides += [window.before, max(0, last - window.before - length)]
    return functional.pad(x, sides, value=value) if any(sides) else x


class MaxPooling(LayerModule):
    """Maximum over a window; padding never wins. With antialiasing the blur takes the stride."""

    kind: MaxPool

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, out_h, out_w)."""
        window = self.kind.window
        stride = (1, 1) if self.kind.antialiasing else (window.stride_y, window.stride_x)
        # darknet starts at -FLT_MAX, which a window of padding alone gives
        return functional.max_pool2d(padded(x, window, stride, torch.finfo(x.dtype).min), window.size, stride)

    def seen_after(self, output: Tensor) -> Tensor:
        """Blurs."""
        antialiasing, window = self.kind.antialiasing, self.kind.window
        return blur(output, antialiasing, (window.stride_y, window.stride_x)) if antialiasing else output


class MaxOverChannels(LayerModule):
    """`maxpool_depth`: output channel g is the maximum of input channels g, g + out_channels, …"""

    kind: MaxPool

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, out_channels, h, w)."""
        channels = self.kind.out_channels
        best = x[:, :channels]
        for start in range(channels, x.shape[1], channels):
            part = x[:, start : start + channels]
            rest = best[:, part.shape[1] :]  # the last part is shorter where out_channels does not divide c
            best = torch.cat([torch.maximum(best[:, : part.shape[1]], part), rest], dim=1)
        return best


@module_for(LocalAvgPool)
class LocalMean(LayerModule):
    """Mean over the cells of a window that lie in the map."""

    kind: LocalAvgPool

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, out_h, out_w)."""
        inside = torch.ones_like(x[:1, :1])
        return self._sum(x) / self._sum(inside)

    def _sum(self, x: Tensor) -> Tensor:
        window = self.kind.window
        stride = (window.stride_y, window.stride_x)
        return functional.avg_pool2d(padded(x, window, stride, 0.0), window.size, stride, divisor_override=1)


@module_for(AvgPool)
class Mean(LayerModule):
    """Mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, 1, 1)."""
        return x.mean(dim=(2, 3), keepdim=True)


@module_for(MaxPool)
def max_pooling(layer: Layer) -> LayerModule:
    """Makes a maximum over windows or over channels."""
    assert isinstance(layer.kind, MaxPool)
    return MaxOverChannels(layer) if layer.kind.depth else MaxPooling(layer)
