"""ThiNet (Luo et al. 2017): greedily removes the channels whose loss changes the next layer's output least.

What a consumer loses without the channels T is Σ_{c∈T} (w_c * (x_c − μ_c)), with their means folded into its offset.
Its square over all outputs, positions and images is Σ_{c,d∈T} M_cd, where M is the inner product of filters times that
of the maps' windows: one Gram matrix per consumer holds the cost of every choice, exactly, without sampling. The greedy
order of removal within a set of coupled layers is the score; the allocation says which share of each is removed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from darkprune.data.samples import Sample
from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers import INPUT
from darkprune.layers.base import Floats, Indices
from darkprune.network import Network
from darkprune.network.loading import load_network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.walk import Walk
from darkprune.progress import track
from darkprune.refit.effects import slope_of
from darkprune.refit.least_squares import NormalEquations
from darkprune.scores.sensitivity import image_scores, is_dense, mean_outputs
from darkprune.selection.importance import ImageScores


def score_by_reconstruction(weights: TensorSource, channels: ChannelMap, sample: Sample) -> ImageScores:
    """Scores every layer that has channels to choose from by the greedy order: 0 is removed first, just below 1 last.

    Raises:
        PlanError: maps that are not finite numbers.
    """
    network = load_network(weights)
    means = mean_outputs(network, sample)
    costs = list(_costs(network, channels, sample))
    order = np.zeros(channels.count)
    for atom in channels.atoms:
        parts = [_within(cost, classes, atom) for classes, cost in costs]
        total = sum((part for part in parts if part is not None), np.zeros((len(atom), len(atom))))
        if not np.isfinite(total).all():
            raise PlanError(f"{weights.path}: maps on these images hold NaN or infinite values")
        order[atom[greedy_order(total)]] = (np.arange(len(atom)) + 0.5) / len(atom)
    return image_scores(channels, order, means)


def greedy_order(cost: Floats) -> Indices:
    """Returns positions in the order of removal: always the one that keeps the sum of all losses smallest.

    Args:
        cost: (n, n), Gram matrix of the losses.
    """
    left = np.ones(len(cost), bool)
    with_lost = np.zeros(len(cost))  # inner product with all that is removed already
    own = cost.diagonal()
    order = []
    for _ in range(len(cost)):
        step = np.where(left, own + 2 * with_lost, np.inf)
        chosen = int(step.argmin())
        order.append(chosen)
        left[chosen] = False
        with_lost = with_lost + cost[chosen]
    return np.array(order, np.intp)


@torch.no_grad()
def _costs(network: Network, channels: ChannelMap, sample: Sample) -> Iterator[tuple[Indices, Floats]]:
    """Yields for every dense convolution the classes that it reads, and M over them as a share of its whole output."""
    walk = Walk(network, sample)
    step = track("measuring inputs", len(network.graph), "layer")
    for layer in network.graph:
        module = network.layers[layer.index]
        if isinstance(module, Convolution) and layer.sources[0] != INPUT and is_dense(layer):
            blocks = channels.inputs(layer).reshape(module.groups, -1)
            cost = _cost(module, layer, walk).cpu().numpy()
            total = cost.sum()
            for block, part in zip(blocks, cost, strict=True):
                yield block, part / total if total > 0 else part
        step()


def _cost(module: Convolution, layer: Layer, walk: Walk) -> Tensor:
    """Computes M per group of a convolution: (groups, c/groups, c/groups), in units of its batch normalisation."""
    height, width = layer.output.h, layer.output.w
    equations = NormalEquations(module, len(walk.sample) * height * width)
    for maps in walk.before(layer.index):
        x = walk.input_of(layer, maps)
        size = module.convolve(x[:1], module.kernel(), None).shape[1:]
        equations.add(x, x.new_zeros(1).expand(len(x), *size))
    filters = (module.kernel() * slope_of(module).view(-1, 1, 1, 1)).double()
    filters = filters.reshape(module.groups, -1, filters[0].numel())  # (groups, outputs, columns)
    product = filters.mT @ filters * equations.covariance()
    groups, taps = module.groups, module.size**2
    each: Tensor = product.reshape(groups, -1, taps, product.shape[1] // taps, taps).sum((2, 4))
    return each


def _within(cost: Floats, read: Indices, atom: Indices) -> Floats | None:
    """Adds up a consumer's costs by the classes of an atom; None if it reads none of them."""
    place = np.full(int(max(read.max(initial=-1), atom.max())) + 2, -1)
    place[atom] = np.arange(len(atom))
    where = place[read]  # −1, the network's input, is the last entry, which is no class of the atom
    chosen = np.flatnonzero(where >= 0)
    if not len(chosen):
        return None
    share = np.zeros((len(chosen), len(atom)))
    share[np.arange(len(chosen)), where[chosen]] = 1
    return np.asarray(share.T @ cost[np.ix_(chosen, chosen)] @ share)
