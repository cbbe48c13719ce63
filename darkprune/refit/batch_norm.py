"""`--recover bn`: batch-normalisation statistics estimated anew on the slim network's own maps, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from darkprune.data.samples import Sample
from darkprune.network import Network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.walk import Walk
from darkprune.progress import track


@torch.no_grad()
def reestimate(network: Network, sample: Sample) -> list[int]:
    """Re-estimates mean and variance of every convolution's batch normalisation, in place.

    Each layer sees the outputs of the layers before it with their new statistics.

    Args:
        network: in eval mode.
        sample: some hundred unlabelled images.

    Returns:
        The layers whose statistics are new.
    """
    walk = Walk(network, sample)
    step = track("batch statistics", len(network.graph), "layer")
    changed = []
    for layer in network.graph:
        module = network.layers[layer.index]
        if isinstance(module, Convolution) and module.has_batch_norm and not module.sharing:
            mean, variance = _moments(
                module.convolve(walk.input_of(layer, maps), module.kernel(), None) for maps in walk.before(layer.index)
            )
            module.rolling_mean.copy_(mean)
            module.rolling_variance.copy_(variance)
            changed.append(layer.index)
        step()
    return changed


def _moments(maps: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Computes mean and variance per channel over images and positions, (c,) float64 each."""
    shift = total = squares = torch.zeros(0)
    count = 0
    for sums in maps:
        values = sums.transpose(0, 1).flatten(1).double()
        if not count:  # centred by the first batch's mean: the squares would cancel otherwise
            shift = values.mean(1, keepdim=True)
            total, squares = torch.zeros_like(shift[:, 0]), torch.zeros_like(shift[:, 0])
        values = values - shift
        total, squares = total + values.sum(1), squares + values.square().sum(1)
        count += values.shape[1]
    mean = total / max(count, 1)
    return shift[:, 0] + mean, (squares / max(count, 1) - mean.square()).clamp_min(0)
