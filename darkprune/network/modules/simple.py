"""Dense layers, normalisations, identities, losses and constants."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Layer
from darkprune.layers.dense import Connected
from darkprune.layers.norm import BatchNorm, Normalization
from darkprune.layers.simple import Activation, Contrastive, Cost, Dropout, Empty, Implicit, Softmax
from darkprune.network.modules.activations import activation_function
from darkprune.network.modules.base import LayerModule, batch_normalise, fold_batch_norm, module_for, uniform


@module_for(Connected)
class Dense(LayerModule):
    """[connected]: a matrix over all values in memory order, batch normalisation, activation (`connected_layer.c`).

    Attributes:
        weights: (output, inputs).
    """

    kind: Connected

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.activation = activation_function(self.kind.activation, overwrite=True)

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


@module_for(BatchNorm)
class Normalisation(LayerModule):
    """[batchnorm] by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape."""
        return batch_normalise(self, x, self.training)


@module_for(Normalization)
class LocalResponse(LayerModule):
    """[normalization]: x·(κ + α·S)^−β, where S sums the squares of neighbouring channels (`normalization_layer.c`)."""

    kind: Normalization
    window: Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        window = torch.from_numpy(self.kind.window(layer.inputs[0].c))
        self.register_buffer("window", window[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape."""
        squares = functional.conv2d(x * x, self.window)
        return x * torch.pow(self.kind.kappa + self.kind.alpha * squares, -self.kind.beta)


@module_for(Empty)
class Identity(LayerModule):
    """[empty]: its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input."""
        return x


@module_for(Cost, Contrastive)
class Loss(LayerModule):
    """[cost], [contrastive]: losses in darknet, nothing here; they pass their input on, flat."""

    is_loss = True

    def forward(self, x: Tensor) -> Tensor:
        """(b, …) -> (b, n)."""
        return x.flatten(1)


@module_for(Dropout)
class Drop(LayerModule):
    """[dropout]: zeroes values with a probability and scales the others up; the identity at inference.

    It works in its input's memory: in training, layers after it that read its input see the dropped map too.
    `dropblock=1` drops single values, as in darknet's CPU build.
    """

    in_place = True
    kind: Dropout

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return functional.dropout(x, min(max(self.kind.probability, 0.0), 1.0), self.training)


@module_for(Activation)
class Activated(LayerModule):
    """[activation] by itself."""

    kind: Activation

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.activation = activation_function(self.kind.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return self.activation(x)


@module_for(Implicit)
class Constant(LayerModule):
    """[implicit]: learned values (`representation_layer.c`).

    Attributes:
        weights: (filters, atoms).
    """

    kind: Implicit

    def forward(self) -> Tensor:
        """-> (1, filters, atoms, 1)."""
        return self.weights[None, :, :, None].clone()  # a map like any other, not the parameter itself

    def draw(self, generator: torch.Generator) -> None:
        """Draws values uniformly from mean ± std, as darknet does."""
        low, high = self.kind.mean - self.kind.std, self.kind.mean + self.kind.std
        self.weights.copy_(
            torch.empty(self.weights.shape).uniform_(min(low, high), max(low, high), generator=generator)
        )


@module_for(Softmax)
class SoftmaxLayer(LayerModule):
    """[softmax] over equal parts of the values; with `spatial` over the channels of each pixel (as the GPU build)."""

    kind: Softmax

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        if self.kind.has_tree:
            raise TrainingError(f"{self.place}: a softmax over a tree= cannot be run here")
        self.spatial = self.kind.spatial and layer.inputs[0].is_map

    def forward(self, x: Tensor) -> Tensor:
        """(b, …) -> (b, n)."""
        if self.spatial:
            return torch.softmax(x, dim=1).flatten(1)
        parts = x.reshape(len(x), self.kind.groups, -1)
        return torch.softmax(parts / self.kind.temperature, dim=2).flatten(1)
