"""[convolutional] and [local] (darknet's `convolutional_layer.c`, `local_layer.c`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Layer
from darkprune.layers.base import positions
from darkprune.layers.convolution import Convolutional, Local
from darkprune.network.modules.activations import activation_function
from darkprune.network.modules.base import (
    LayerModule,
    batch_normalise,
    fold_batch_norm,
    module_for,
    slope_and_intercept,
    uniform,
)


class Convolution(LayerModule):
    """A convolution, its batch normalisation and its activation.

    Attributes:
        weights: (n, c/groups, size, size); (c/groups, size, size, n) with `flipped`, as the file has them.
        sharing: the convolution whose tensors are used instead of own ones (`share_index`): it alone says whether
            there is batch normalisation. A tuple, so that torch does not take it for a part of this module.
    """

    kind: Convolutional

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        geometry = self.kind.geometry
        if geometry.dilation > 1 and 2 * geometry.padding != geometry.size - 1:
            raise TrainingError(f"{self.place}: dilation without pad=1; darknet writes past its memory here")
        self.sharing: tuple[Convolution, ...] = ()
        # with antialiasing the blur takes the stride
        self.stride = (1, 1) if self.kind.antialiasing else (geometry.stride_y, geometry.stride_x)
        self.size, self.groups = geometry.size, geometry.groups
        self.dilation, self.padding = geometry.dilation, geometry.padding * geometry.dilation
        self.activation = activation_function(self.kind.activation, overwrite=True)

    def refer_to(self, modules: Sequence[LayerModule]) -> None:
        """Uses the tensors of the convolution that `share_index` names; the graph made sure that they fit."""
        self.sharing = tuple(module.owner for module in modules if isinstance(module, Convolution))

    @property
    def owner(self) -> Convolution:
        """The convolution whose tensors are used."""
        return self.sharing[0] if self.sharing else self

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n, out_h, out_w), before any blur."""
        return self.activated(self.sums(x))

    def sums(self, x: Tensor) -> Tensor:
        """Computes what batch normalisation reads, or without it what the activation reads."""
        owner = self.owner
        return self.convolve(x, owner.kernel(), None if owner.has_batch_norm else owner.biases)

    def activated(self, sums: Tensor) -> Tensor:
        """Applies batch normalisation, if any, and the activation; may overwrite its argument."""
        owner = self.owner
        if not owner.has_batch_norm:
            return self.activation(sums)
        # a sharing layer moves its owner's running statistics too, as darknet's shared arrays do
        return self.activation(batch_normalise(owner, sums, owner.training))

    def convolve(self, x: Tensor, kernel: Tensor, biases: Tensor | None) -> Tensor:
        """Convolves."""
        if max(self._missing(x)) > 0:
            return functional.conv2d(self.padded(x), kernel, biases, self.stride, 0, self.dilation, self.groups)
        return functional.conv2d(x, kernel, biases, self.stride, self.padding, self.dilation, self.groups)

    def padded(self, x: Tensor) -> Tensor:
        """Pads a map with the zeros that windows see; one that exceeds the padding sees zeros too, as in darknet."""
        below, right = (self.padding + max(0, missing) for missing in self._missing(x))
        return functional.pad(x, (self.padding, right, self.padding, below)) if below or right else x

    def _missing(self, x: Tensor) -> tuple[int, int]:
        """Returns by how many rows and columns the first window exceeds a padded map; at most 0 where it does not."""
        reach = self.dilation * (self.size - 1) + 1
        return reach - x.shape[-2] - 2 * self.padding, reach - x.shape[-1] - 2 * self.padding

    def kernel(self) -> Tensor:
        """Returns the weights as (n, c/groups, size, size)."""
        return self.weights.permute(3, 0, 1, 2) if self.kind.flipped else self.weights

    def seen_after(self, output: Tensor) -> Tensor:
        """Blurs."""
        antialiasing, geometry = self.kind.antialiasing, self.kind.geometry
        return blur(output, antialiasing, (geometry.stride_y, geometry.stride_x)) if antialiasing else output

    def draw(self, generator: torch.Generator) -> None:
        """Draws weights with fan-in (c/groups)·size²."""
        if not self.sharing:
            uniform(self.weights, generator, fan_in=self.kernel()[0].numel())

    def fuse(self) -> None:
        """Folds batch normalisation into kernel and biases."""
        if self.has_batch_norm:
            fold_batch_norm(self, self.kernel())


class BinaryConvolution(Convolution):
    """`xnor=1`: signs of the input times signs of the weights, times each filter's mean |w|.

    At inference as `calculate_binary_weights` leaves it: the weights are those with batch normalisation folded in, and
    padding counts as −1. In training batch normalisation stays behind and padding is 0; gradients pass the signs as
    darknet lets them: through inputs within ±1, and to all weights. With `bin_output` there is no activation at
    inference.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n, out_h, out_w)."""
        owner = self.owner
        signs = torch.where(x > 0, 1.0, -1.0)
        if owner.training:
            clipped = x.clamp(-1, 1)
            y = self.convolve(clipped + (signs - clipped).detach(), _binary(owner.kernel()), None)
            if not owner.has_batch_norm:
                return self.activation(y + owner.biases.view(-1, 1, 1))
            return self.activation(batch_normalise(owner, y, True))
        kernel, biases = owner.kernel(), owner.biases
        if owner.has_batch_norm:
            slope, intercept = slope_and_intercept(owner)
            kernel, biases = (kernel * slope.view(-1, 1, 1, 1)).float(), intercept.float()
        signs = functional.pad(signs, [self.padding] * 4, value=-1.0)
        y = functional.conv2d(signs, _binary(kernel), biases, self.stride, 0, self.dilation)
        return y if self.kind.bin_output else self.activation(y)


def _binary(kernel: Tensor) -> Tensor:
    """±mean|w| per filter (`binarize_weights`); its gradient is that of the weights themselves."""
    scale = kernel.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    signs = torch.where(kernel > 0, scale, -scale)
    return kernel + (signs - kernel).detach()


@module_for(Local)
class LocalConvolution(LayerModule):
    """A convolution with a kernel of its own at every position.

    Attributes:
        weights: (out_h·out_w, n, c, size, size).
        biases: (n, out_h, out_w).
    """

    kind: Local

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        # darknet pads by `pad` pixels but computes the output as if there were (size - 1)/2 of them
        kind, source, output = self.kind, layer.inputs[0], layer.output
        shown = [positions(length + 2 * int(kind.pad) - kind.size, kind.stride) for length in (source.h, source.w)]
        if shown != [output.h, output.w]:
            raise TrainingError(f"{self.place}: darknet misreads its memory here (size={kind.size} with pad=1)")
        self.activation = activation_function(kind.activation, overwrite=True)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n, out_h, out_w)."""
        kind = self.kind
        seen = functional.unfold(x, kind.size, padding=int(kind.pad), stride=kind.stride)  # (b, c·size², places)
        y = torch.einsum("pnk,bkp->bnp", self.weights.flatten(2), seen)
        return self.activation(y.reshape(len(x), *self.biases.shape) + self.biases)

    def draw(self, generator: torch.Generator) -> None:
        """Draws weights with fan-in c·size²."""
        uniform(self.weights, generator, fan_in=self.weights[0, 0].numel())


def blur(x: Tensor, antialiasing: int, stride: tuple[int, int]) -> Tensor:
    """Blurs each channel: 3x3 binomial padded by zeros, or a 2x2 mean without padding for antialiasing=2.

    Args:
        x: (b, c, h, w).
        antialiasing: the key's value.
        stride: rows, columns.
    """
    line = torch.tensor([1.0, 1.0] if antialiasing == 2 else [1.0, 2.0, 1.0], device=x.device, dtype=x.dtype)
    kernel = torch.outer(line, line) / line.sum() ** 2
    channels = x.shape[1]
    weights = kernel.expand(channels, 1, *kernel.shape)
    return functional.conv2d(x, weights, None, stride, 0 if antialiasing == 2 else 1, groups=channels)


@module_for(Convolutional)
def convolution(layer: Layer) -> Convolution:
    """Makes a convolution; `binary` changes nothing, as in the CPU build."""
    kind = layer.kind
    assert isinstance(kind, Convolutional)
    takes_signs = kind.xnor and kind.geometry.stride_x == kind.geometry.stride_y
    return BinaryConvolution(layer) if takes_signs else Convolution(layer)
