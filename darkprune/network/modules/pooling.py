"""[maxpool], [local_avgpool], [avgpool] (darknet's `maxpool_layer.c`, `avgpool_layer.c`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.graph.graph import Graph, Layer
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

    def __init__(self, layer: Layer, kind: MaxPool) -> None:
        super().__init__(layer)
        window = kind.window
        self.window = window
        self.antialiasing, self.blur_stride = kind.antialiasing, (window.stride_y, window.stride_x)
        self.stride = (1, 1) if kind.antialiasing else self.blur_stride

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, out_h, out_w)."""
        # darknet starts at -FLT_MAX, which a window of padding alone gives
        return functional.max_pool2d(
            padded(x, self.window, self.stride, torch.finfo(x.dtype).min), self.window.size, self.stride
        )

    def seen_after(self, output: Tensor) -> Tensor:
        """Blurs."""
        return blur(output, self.antialiasing, self.blur_stride) if self.antialiasing else output


class MaxOverChannels(LayerModule):
    """`maxpool_depth`: output channel g is the maximum of input channels g, g + out_channels, …"""

    def __init__(self, layer: Layer, kind: MaxPool) -> None:
        super().__init__(layer)
        self.channels = kind.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, out_channels, h, w)."""
        best = x[:, : self.channels]
        for start in range(self.channels, x.shape[1], self.channels):
            part = x[:, start : start + self.channels]
            rest = best[:, part.shape[1] :]  # the last part is shorter where out_channels does not divide c
            best = torch.cat([torch.maximum(best[:, : part.shape[1]], part), rest], dim=1)
        return best


class LocalMean(LayerModule):
    """Mean over the cells of a window that lie in the map."""

    def __init__(self, layer: Layer, kind: LocalAvgPool) -> None:
        super().__init__(layer)
        self.window = kind.window
        self.stride = (kind.window.stride_y, kind.window.stride_x)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, out_h, out_w)."""
        inside = torch.ones_like(x[:1, :1])
        return self._sum(x) / self._sum(inside)

    def _sum(self, x: Tensor) -> Tensor:
        x = padded(x, self.window, self.stride, 0.0)
        return functional.avg_pool2d(x, self.window.size, self.stride, divisor_override=1)


class Mean(LayerModule):
    """Mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, 1, 1)."""
        return x.mean(dim=(2, 3), keepdim=True)


@module_for(MaxPool)
def max_pooling(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a maximum over windows or over channels."""
    assert isinstance(layer.kind, MaxPool)
    return MaxOverChannels(layer, layer.kind) if layer.kind.depth else MaxPooling(layer, layer.kind)


@module_for(LocalAvgPool)
def local_mean(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a mean over windows."""
    assert isinstance(layer.kind, LocalAvgPool)
    return LocalMean(layer, layer.kind)


@module_for(AvgPool)
def mean(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a mean over the map."""
    return Mean(layer)
