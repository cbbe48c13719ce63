"""What a layer is in torch, and the registry of the classes.

Every kind has one class (or a function that chooses one), registered with `module_for`; nothing else in this package
knows what a kind does. A module carries darknet's tensors under darknet's names and in the axis order of the file
(`weights`, `biases`, `scales`, `rolling_mean`, `rolling_variance`), as its kind declares them: reading, writing,
sparsity and distillation all speak of `layers[index].scales`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Layer
from darkprune.layers.base import Kind
from darkprune.layers.convolution import BN_EPSILON
from darkprune.layers.recurrent import Recurrent

#: Share of a batch's statistics in the running ones. AlexeyAB's CPU code has 0.1 (0.05 for [connected]), its GPU code
#: 0.01. 0.1 is torch's habit as well, and after the few hundred steps of a fine-tuning 0.01 would still show the
#: statistics of the network before it was pruned. As in torch (and cuDNN) a batch is normalised by its biased variance
#: and the unbiased one is kept; darknet's CPU code uses the unbiased one for both.
BN_MOMENTUM = 0.1

#: blobs that are 1 in a fresh layer; the others are 0
_ONES = ("scales", "rolling_variance")


class LayerModule(nn.Module):
    """Base of all layers: declares the kind's blobs as parameters and, where they are not trained, as buffers.

    Class attributes:
        is_head: the layer is a detection head: its input is what training and decoding want, its own output is
            darknet's activated map, computed only where somebody reads it.
        is_loss: the layer computes a loss in darknet; its output is no output of the network.
        in_place: in training its output takes the place of its input (darknet's layers that share memory).

    Attributes:
        kind: what its section says.
        place: its name in messages.
    """

    is_head = False
    is_loss = False
    in_place = False

    kind: Kind
    biases: Tensor
    weights: Tensor
    scales: Tensor
    rolling_mean: Tensor
    rolling_variance: Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.kind = layer.kind
        self.place = layer.place
        for blob in layer.blobs:
            values = torch.ones(blob.shape) if blob.name in _ONES else torch.zeros(blob.shape)
            if blob.trained:
                self.register_parameter(blob.name, nn.Parameter(values))
            else:
                self.register_buffer(blob.name, values)
        self._blobs = tuple(blob.name for blob in layer.blobs)

    @property
    def has_batch_norm(self) -> bool:
        """Whether batch normalisation is (still) computed here."""
        return "rolling_mean" in self._buffers

    def reset(self, generator: torch.Generator) -> None:
        """Gives the layer's own tensors fresh values: γ = 1, σ² = 1, others 0, and weights by `draw`."""
        with torch.no_grad():
            for name in self._blobs:
                getattr(self, name).fill_(1.0 if name in _ONES else 0.0)
            self.draw(generator)

    def draw(self, generator: torch.Generator) -> None:
        """Draws fresh weights, where a layer has some."""

    def fuse(self) -> None:
        """Folds batch normalisation into the weights, for inference; a layer without any stays as it is."""

    def refer_to(self, modules: Sequence[LayerModule]) -> None:
        """Takes notice of the layers that this one points at without reading them (`share_index`)."""

    def seen_after(self, output: Tensor) -> Tensor:
        """Returns what the layer directly after it reads: `output`, or its blur."""
        return output


Maker = Callable[[Layer], LayerModule]
#: section kind -> what makes its module; recurrent kinds have none
MODULES: dict[type[Kind], Maker] = {}
M = TypeVar("M", bound=Maker)


def module_for(*kinds: type[Kind]) -> Callable[[M], M]:
    """Class decorator (or a function's, that chooses the class): it makes the modules of these kinds."""

    def decorate(maker: M) -> M:
        for kind in kinds:
            if kind in MODULES:
                raise ValueError(f"two modules for {kind.__name__}")
            MODULES[kind] = maker
        return maker

    return decorate


def make_module(layer: Layer, before: Sequence[LayerModule]) -> LayerModule:
    """Makes the module of a layer, given those of all layers before it.

    Raises:
        TrainingError: the kind cannot be run here.
    """
    maker = MODULES.get(type(layer.kind))
    if maker is None:
        what = "a network with a recurrent " if isinstance(layer.kind, Recurrent) else ""
        raise TrainingError(f"{layer.place}: {what}[{layer.name}] cannot be trained here, nor run")
    module = maker(layer)
    module.refer_to([before[index] for index in layer.references])
    return module


def batch_normalise(owner: LayerModule, x: Tensor, training: bool) -> Tensor:
    """Normalises over all axes but the second: γ·(x − μ)/sqrt(σ² + 1e-5) + β (`forward_batchnorm_layer`).

    Training takes the statistics of the batch, (batch, c) or (batch, c, h, w), and updates the owner's running ones.

    Raises:
        TrainingError: training with one value per channel, whose variance does not exist (darknet gives NaN).
    """
    if training and x.numel() == x.shape[1]:
        raise TrainingError(
            f"{owner.place}: batch normalisation cannot train on one value per channel; "
            "give each part of a batch at least 2 images (batch/subdivisions)"
        )
    return functional.batch_norm(
        x, owner.rolling_mean, owner.rolling_variance, owner.scales, owner.biases, training, BN_MOMENTUM, BN_EPSILON
    )


def fold_batch_norm(owner: LayerModule, rows: Tensor) -> None:
    """Folds the statistics into weights and biases, in 64 bits as `fuse_conv_batchnorm` does, and drops them.

    Args:
        owner: a module with batch normalisation.
        rows: a view of its weights with output channels first.
    """
    slope, intercept = slope_and_intercept(owner)
    with torch.no_grad():
        rows.copy_(rows.double() * slope.view(-1, *[1] * (rows.dim() - 1)))
        owner.biases.copy_(intercept)
    for name in ("scales", "rolling_mean", "rolling_variance"):
        delattr(owner, name)


def slope_and_intercept(owner: LayerModule) -> tuple[Tensor, Tensor]:
    """Returns batch normalisation at inference as y = slope·x + intercept: two (c,) float64 tensors."""
    slope = owner.scales.double() / torch.sqrt(owner.rolling_variance.double() + BN_EPSILON)
    return slope, owner.biases.double() - slope * owner.rolling_mean.double()


def uniform(tensor: Tensor, generator: torch.Generator, *, fan_in: int) -> None:
    """Draws weights as darknet does: uniform within ±sqrt(2/fan_in); on the generator's device, wherever they live."""
    bound = (2.0 / fan_in) ** 0.5
    tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator))
