"""[route], [shortcut], [scale_channels], [sam] (`route_layer.c`, `shortcut_layer.c`, `scale_channels_layer.c`, …)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.graph.graph import Layer
from darkprune.layers.merge import Route, Sam, ScaleChannels, Shortcut
from darkprune.network.modules.activations import activation_function
from darkprune.network.modules.base import LayerModule, module_for


@module_for(Route)
class Concatenation(LayerModule):
    """Joins maps; with groups the group_id-th slice of each, cut from its memory as darknet does."""

    kind: Route

    def forward(self, *inputs: Tensor) -> Tensor:
        """n maps (b, c_i, h, w) -> (b, Σ c_i / groups, h, w); likewise for flat inputs (b, n_i)."""
        groups = self.kind.groups
        if all(x.shape[1] % groups == 0 for x in inputs):
            parts = [self._slice(x) for x in inputs] if groups > 1 else list(inputs)
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        # slices that cut a channel apart: what is left of the last whole channel is read by nobody
        joined = torch.cat([self._slice(x.flatten(1)) for x in inputs], dim=1)
        channels, size = sum(x.shape[1] for x in inputs) // groups, inputs[0].shape[2:]
        return joined[:, : channels * size.numel()].reshape(len(joined), channels, *size)

    def _slice(self, x: Tensor) -> Tensor:
        width = x.shape[1] // self.kind.groups
        return x[:, width * self.kind.group_id : width * (self.kind.group_id + 1)]


@module_for(Shortcut)
class Sum(LayerModule):
    """Adds maps, weighted or not, to the one before; of a map of another width the common first channels count.

    Attributes:
        weights: (inputs,) or (inputs, c).
    """

    kind: Shortcut

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        first = layer.inputs[0]
        if any((f.h, f.w) != (first.h, first.w) for f in layer.inputs):
            shown = ", ".join(map(str, layer.inputs))
            raise TrainingError(f"{self.place}: adds maps of different sizes ({shown}); darknet aborts on it")
        self.weighted = self.kind.weights_type != "none"
        self.activation = activation_function(self.kind.activation)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """(b, c, h, w) and n maps (b, c_i, h, w) -> (b, c, h, w)."""
        if not self.weighted:
            return self.activation(self._add(first, others))
        # (inputs, 1 or c, 1, 1); of a wider map the channels beyond c are not added anyway
        factors = self.factors().reshape(1 + len(others), -1, 1, 1)
        maps = [x[:, : first.shape[1]] for x in (first, *others)]
        scaled = [x * factor[: x.shape[1]] for x, factor in zip(maps, factors, strict=True)]
        return self.activation(self._add(scaled[0], scaled[1:]))

    def factors(self) -> Tensor:
        """Returns what the inputs are multiplied by: (inputs,) or (inputs, c)."""
        if self.kind.weights_normalization == "relu":
            positive = self.weights.clamp(min=0.001)
            return positive / (1e-4 + positive.sum(dim=0))
        if self.kind.weights_normalization == "softmax":
            powers = torch.exp(self.weights - self.weights.amax(dim=0))
            return powers / (1e-4 + powers.sum(dim=0))
        return self.weights

    def draw(self, generator: torch.Generator) -> None:
        """All inputs count alike."""
        if self.weighted:
            self.weights.fill_(1.0)

    @staticmethod
    def _add(total: Tensor, others: Sequence[Tensor]) -> Tensor:
        for x in others:
            common = min(total.shape[1], x.shape[1])
            if common == total.shape[1] == x.shape[1]:
                total = total + x
            else:
                total = torch.cat([total[:, :common] + x[:, :common], total[:, common:]], dim=1)
        return total


@module_for(ScaleChannels, Sam)
class Product(LayerModule):
    """The map of `from` times the one before: one factor per channel, per position, or per value."""

    kind: ScaleChannels | Sam

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        trouble = self.kind.trouble(layer.inputs, layer.output)
        if trouble:
            raise TrainingError(f"{self.place}: {trouble}")
        self.activation = activation_function(self.kind.activation)

    def forward(self, factors: Tensor, x: Tensor) -> Tensor:
        """(b, c, 1, 1), (b, 1, h, w) or (b, c, h, w), and (b, c, h, w) -> (b, c, h, w)."""
        return self.activation(x * factors)
