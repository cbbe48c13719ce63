"""Moments of convolutions on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from darkprune.data.samples import Sample
from darkprune.errors import PlanError
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.lowrank.moments import Moments
from darkprune.network.loading import batches_for, load_network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.readout import PROBES, backward_passes
from darkprune.progress import track
from darkprune.surgery.factors.network import factorisable

POWER = 0.5  #: of scores; see `darkprune.network.readout.read_out`


@dataclass
class _Sums:
    """Sums over all positions of all images; float64.

    Attributes:
        products, total: of a convolution's sums y: Σ y yᵀ and Σ y.
        effect: Σ g gᵀ over positions, images and probes.
        inputs: Σ x xᵀ.
        positions, input_positions: how many were added.
    """

    products: Tensor
    total: Tensor
    effect: Tensor
    inputs: Tensor
    positions: int = 0
    input_positions: int = 0

    @classmethod
    def of(cls, layer: Layer, device: torch.device) -> _Sums:
        """Allocates them."""
        n, c = layer.output.c, layer.inputs[0].c
        products, total, effect, inputs = (
            torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((n, n), (n,), (n, n), (c, c))
        )
        return cls(products, total, effect, inputs)

    def add_maps(self, x: Tensor, sums: Tensor) -> None:
        """Adds inputs and sums of a batch."""
        rows, seen = (maps.detach().transpose(0, 1).flatten(1) for maps in (sums, x))
        self.products += (rows @ rows.T).double()
        self.total += rows.sum(1, dtype=torch.float64)
        self.inputs += (seen @ seen.T).double()
        self.positions += rows.shape[1]
        self.input_positions += seen.shape[1]

    def add_gradient(self, gradient: Tensor) -> None:
        """Adds derivatives by the sums of a batch."""
        rows = gradient.transpose(0, 1).flatten(1)
        self.effect += (rows @ rows.T).double()


def measure_moments(weights: TensorSource, sample: Sample, *, seed: int = 0) -> Callable[[Layer], Moments]:
    """Measures the moments of every convolution that can be factorised.

    Args:
        seed: of the random projections of the outputs.

    Returns:
        What gives the moments of a layer, once.

    Raises:
        PlanError: maps or derivatives that are not finite numbers.
    """
    network = load_network(weights)
    found = {
        layer.index: _Sums.of(layer, network.device) for layer in weights.graph if factorisable(weights.graph, layer)
    }
    modules = {index: network.layers[index] for index in found}
    generator = torch.Generator().manual_seed(seed)
    step = track("measuring moments", sample.batch_count, "batch")
    images = 0
    with _recording({i: m for i, m in modules.items() if isinstance(m, Convolution)}, found):
        for batch in batches_for(network, sample):
            for _ in backward_passes(network, batch, PROBES, generator, POWER):
                pass
            images += len(batch)
            step()

    def moments(layer: Layer) -> Moments:
        sums, module = found.pop(layer.index), modules[layer.index]
        assert isinstance(module, Convolution)
        mean = sums.total / max(sums.positions, 1)
        covariance = sums.products / max(sums.positions, 1) - torch.outer(mean, mean)
        if not module.has_batch_norm:
            mean = mean - module.biases.double()
        effect = sums.effect / max(PROBES * images, 1)
        inputs = sums.inputs / max(sums.input_positions, 1)
        values = [part.cpu().numpy() for part in (covariance, mean, effect, inputs)]
        filters = module.kernel().double().flatten(2).cpu().numpy()
        if not all(bool(part.isfinite().all()) for part in (covariance, effect, inputs)):
            raise PlanError(f"{weights.path}: the network's maps on these images hold NaN or infinite values")
        return Moments(filters, *values)

    return moments


@contextmanager
def _recording(modules: Mapping[int, Convolution], found: Mapping[int, _Sums]) -> Iterator[None]:
    """Within the block every forward pass adds maps, and every backward pass derivatives."""
    for index, module in modules.items():
        module.convolve = partial(_convolve, module.convolve, found[index])  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in modules.values():
            del module.convolve


def _convolve(
    inner: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    found: _Sums,
    x: Tensor,
    kernel: Tensor,
    biases: Tensor | None,
) -> Tensor:
    sums = inner(x, kernel, biases)
    found.add_maps(x, sums)
    if not sums.requires_grad:  # the first one starts the graph: a leaf, which must not be overwritten
        sums = sums.detach().requires_grad_().clone()
    sums.register_hook(found.add_gradient)  # type: ignore[no-untyped-call]
    return sums
