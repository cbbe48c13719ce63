"""Dense layers, normalisations, identities, losses and constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.dense import Connected
from darkprune.layers.norm import BatchNorm, Normalization
from darkprune.layers.simple import Activation, Contrastive, Cost, Dropout, Empty, Implicit, Softmax
from darkprune.network.modules.activations import activation_function
from darkprune.network.modules.base import (
    LayerModule,
    batch_normalise,
    fold_batch_norm,
    module_for,
    place_of,
    uniform,
)


class Dense(LayerModule):
    """[connected]: a matrix over all values in memory order, batch normalisation, activation (`connected_layer.c`).

    Attributes:
        weights: (output, inputs).
    """

    def __init__(self, layer: Layer, kind: Connected) -> None:
        super().__init__(layer)
        self.activation = activation_function(kind.activation, overwrite=True)

    def forward(self, x: Tensor) -> Tensor:
        """(b, …) -> (b, output, 1, 1)."""
        flat = x.flatten(1)
        if self.has_batch_norm:
            y = batch_normalise(self, functional.linear(flat, self.weights), self.training)
        else:
            y = functional.linear(flat, self.weights, self.biases)
        return self.activation(y[:, :, None, None])

    def draw(self, generator: torch.Generator) -> None:
        """Draws weights."""
        uniform(self.weights, generator, fan_in=self.weights.shape[1])

    def fuse(self) -> None:
        """Folds batch normalisation into the matrix."""
        if self.has_batch_norm:
            fold_batch_norm(self, self.weights)


class Normalisation(LayerModule):
    """[batchnorm] by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape."""
        return batch_normalise(self, x, self.training)


class LocalResponse(LayerModule):
    """[normalization]: x·(κ + α·S)^−β, where S sums the squares of neighbouring channels (`normalization_layer.c`).

    darknet keeps S as a running sum that starts one channel short: channel size/2 is never added, yet subtracted later.
    """

    window: Tensor

    def __init__(self, layer: Layer, kind: Normalization) -> None:
        super().__init__(layer)
        self.alpha, self.beta, self.kappa = kind.alpha, kind.beta, kind.kappa
        window = torch.from_numpy(running_window(layer.inputs[0].c, kind.size))
        self.register_buffer("window", window[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape."""
        squares = functional.conv2d(x * x, self.window)
        return x * torch.pow(self.kappa + self.alpha * squares, -self.beta)


def running_window(channels: int, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Returns how often channel j counts in the sum of channel k: (channels, channels), entries 1, 0 and −1."""
    steps = np.zeros((channels, channels), np.float32)
    steps[0, : size // 2] = 1
    for k in range(1, channels):
        leaving, entering = k - (size - 1) // 2 - 1, k + size // 2
        if leaving >= 0:
            steps[k, leaving] -= 1
        if entering < channels:
            steps[k, entering] += 1
    return np.cumsum(steps, axis=0, dtype=np.float32)


class Identity(LayerModule):
    """[empty]: its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input."""
        return x


class Loss(LayerModule):
    """[cost], [contrastive]: losses in darknet, nothing here; they pass their input on, flat."""

    is_loss = True

    def forward(self, x: Tensor) -> Tensor:
        """(b, …) -> (b, n)."""
        return x.flatten(1)


class Drop(LayerModule):
    """[dropout]: zeroes values with a probability and scales the others up; the identity at inference.

    It works in its input's memory: in training, layers after it that read its input see the dropped map too.
    `dropblock=1` drops single values, as in darknet's CPU build.
    """

    in_place = True

    def __init__(self, layer: Layer, kind: Dropout) -> None:
        super().__init__(layer)
        self.probability = min(max(kind.probability, 0.0), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return functional.dropout(x, self.probability, self.training)


class Activated(LayerModule):
    """[activation] by itself."""

    def __init__(self, layer: Layer, kind: Activation) -> None:
        super().__init__(layer)
        self.activation = activation_function(kind.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return self.activation(x)


class Constant(LayerModule):
    """[implicit]: learned values (`representation_layer.c`).

    Attributes:
        weights: (filters, atoms).
    """

    def __init__(self, layer: Layer, mean: float, spread: float) -> None:
        super().__init__(layer)
        self.mean, self.spread = mean, spread

    def forward(self) -> Tensor:
        """-> (1, filters, atoms, 1)."""
        return self.weights[None, :, :, None].clone()  # a map like any other, not the parameter itself

    def draw(self, generator: torch.Generator) -> None:
        """Draws values uniformly from mean ± std, as darknet does."""
        low, high = self.mean - self.spread, self.mean + self.spread
        self.weights.copy_(
            torch.empty(self.weights.shape).uniform_(min(low, high), max(low, high), generator=generator)
        )


class SoftmaxLayer(LayerModule):
    """[softmax] over equal parts of the values; with `spatial` over the channels of each pixel (as the GPU build)."""

    def __init__(self, layer: Layer, kind: Softmax) -> None:
        super().__init__(layer)
        self.groups, self.temperature = kind.groups, kind.temperature
        self.spatial = kind.spatial and layer.inputs[0].is_map

    def forward(self, x: Tensor) -> Tensor:
        """(b, …) -> (b, n)."""
        if self.spatial:
            return torch.softmax(x, dim=1).flatten(1)
        parts = x.reshape(len(x), self.groups, -1)
        return torch.softmax(parts / self.temperature, dim=2).flatten(1)


@module_for(Connected)
def dense(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a dense layer."""
    assert isinstance(layer.kind, Connected)
    return Dense(layer, layer.kind)


@module_for(BatchNorm)
def normalisation(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a batch normalisation."""
    return Normalisation(layer)


@module_for(Normalization)
def local_response(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a local response normalisation."""
    assert isinstance(layer.kind, Normalization)
    return LocalResponse(layer, layer.kind)


@module_for(Empty)
def identity(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes an identity."""
    return Identity(layer)


@module_for(Cost, Contrastive)
def loss(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a stand-in for a loss."""
    return Loss(layer)


@module_for(Dropout)
def dropout(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a dropout."""
    assert isinstance(layer.kind, Dropout)
    return Drop(layer, layer.kind)


@module_for(Activation)
def activation(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes an activation."""
    assert isinstance(layer.kind, Activation)
    return Activated(layer, layer.kind)


@module_for(Implicit)
def constant(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a learned constant."""
    options = graph.options(layer)
    return Constant(layer, options.float("mean", 0.0), options.float("std", 0.2))


@module_for(Softmax)
def softmax(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> LayerModule:
    """Makes a softmax."""
    assert isinstance(layer.kind, Softmax)
    if graph.options(layer).has("tree"):
        raise TrainingError(f"{place_of(layer)}: a softmax over a tree= cannot be run here")
    return SoftmaxLayer(layer, layer.kind)
