"""Effects on a network's outputs, per channel and per position, against autograd; refits weighted by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import surgery_of
from torch.nn import functional

from darkprune.data.samples import Sample, Samples
from darkprune.graph.channels import map_channels
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network
from darkprune.network.loading import batches_for, load_network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.readout import project, read_out
from darkprune.refit import effects
from darkprune.refit.effects import PositionWeights, convolutions, measure_effects
from darkprune.refit.least_squares import NormalEquations
from darkprune.refit.recover import cut_and_align
from darkprune.refit.refit import AlignedNetworks, refit
from darkprune.surgery.apply import Cut

CPU = torch.device("cpu")


def gradients(network: Network, sample: Sample, layer: int) -> Iterator[torch.Tensor]:
    """Yields ∂L/∂sum of a layer, batch by batch, for one probe."""
    generator = torch.Generator().manual_seed(0)
    slot: list[torch.Tensor] = []

    def hold(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        slot[:] = [output.detach().requires_grad_()]
        return slot[0].clone()

    with_hook = network.layers[layer].register_forward_hook(hold)
    for images in batches_for(network, sample):
        loss = project(read_out(network.graph, network(images)), generator)
        (gradient,) = torch.autograd.grad(loss, slot)
        yield (gradient * slope(network, layer, slot[0])).double()
    with_hook.remove()


def slope(network: Network, layer: int, output: torch.Tensor) -> torch.Tensor:
    """Returns the derivative of a layer's output by its sums: layer 3 is linear, 7 leaky without normalisation."""
    module = network.layers[layer]
    if layer == 7:
        return torch.where(output > 0, 1.0, 0.1)
    return (module.scales / torch.sqrt(module.rolling_variance + 1e-5)).view(-1, 1, 1)


@pytest.mark.parametrize("layer", [3, 7])
def test_effects_are_squared_derivatives(
    weights: NetworkWeights, samples: Samples, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "PROBES", 1)
    network = load_network(weights)
    sample = samples.fit.first(4)
    found = measure_effects(network, sample).channels[layer]
    each = [gradient.square().sum((0, 2, 3)) for gradient in gradients(network, sample, layer)]
    torch.testing.assert_close(found, torch.stack(each).sum(0) / len(sample), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("layer", [3, 7])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weights_of_positions_are_effects(
    weights: NetworkWeights, samples: Samples, layer: int, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "PROBES", 1)
    monkeypatch.setattr(effects, "POWER", power)
    network = load_network(weights)
    sample = replace(samples.fit.first(5), batch=2)
    positions = measure_effects(network, sample).positions
    found = torch.cat([positions.of(layer, batch) for batch in range(3)])
    wanted = torch.cat([gradient.square().sum(1) ** power for gradient in gradients(network, sample, layer)])
    assert found.shape == wanted.shape
    assert float(found.mean()) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(found.double(), wanted / wanted.mean(), rtol=2e-3, atol=1e-3)


def test_the_network_is_as_it_was(weights: NetworkWeights, samples: Samples) -> None:
    network = load_network(weights)
    before = {layer.index: module.activation for layer, module in convolutions(network)}
    assert before.keys() == {1, 2, 3, 6, 7, 9}  # not the one that reads the image
    measure_effects(network, samples.fit.first(2))
    assert {layer.index: module.activation for layer, module in convolutions(network)} == before
    assert all(parameter.grad is None for parameter in network.parameters())


def test_without_any_effect_all_positions_are_equal() -> None:
    nothing, infinite = [torch.zeros(2, 3, 3)], [torch.full((2, 3, 3), torch.inf)]
    positions = PositionWeights({3: infinite, 4: nothing, 5: [torch.ones(2, 3, 3), 3 * torch.ones(1, 3, 3)]})
    assert positions.of(3, 0) is None
    assert positions.of(4, 0) is None
    assert positions.of(7, 0) is None
    both = [positions.of(5, batch) for batch in (0, 1)]
    assert [float(weights.mean()) for weights in both if weights is not None] == pytest.approx([0.6, 1.8], rel=1e-3)


@pytest.mark.parametrize("layer", [1, 2, 6, 7], ids=["pointwise", "depthwise", "stride", "grouped"])
def test_weighted_equations_are_those_of_numpy(weights: NetworkWeights, layer: int) -> None:
    module = load_network(weights).layers[layer]
    assert isinstance(module, Convolution)
    feature = weights.graph[layer].inputs[0]
    x = torch.randn(6, feature.c, feature.h, feature.w, generator=torch.Generator().manual_seed(1)) + 1
    shape = module.convolve(x, module.kernel(), None).shape
    target = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 0.1 + x.mean()
    counts = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(3)) ** 3
    equations = NormalEquations(module, len(x) * shape[2] * shape[3])
    equations.add(x[:4], target[:4], counts[:4])
    equations.add(x[4:], target[4:], counts[4:])
    change, offset = equations.solve(1e-3)

    windows = functional.unfold(x, module.size, module.dilation, module.padding, module.stride).double()
    groups, outputs = module.groups, shape[1] // module.groups
    columns = windows.shape[1] // groups
    weight = counts.flatten().double().numpy()
    for group in range(groups):
        rows = windows[:, group * columns : (group + 1) * columns].transpose(1, 2).reshape(-1, columns).numpy()
        mean = np.average(rows, axis=0, weights=weight)
        for output in range(group * outputs, (group + 1) * outputs):
            wanted = target[:, output].flatten().double().numpy()
            level = np.average(wanted, weights=weight)
            gram = (rows - mean).T @ (weight[:, None] * (rows - mean))
            cross = (rows - mean).T @ (weight * (wanted - level))
            solved = np.linalg.solve(gram + 1e-3 * np.diag(gram).mean() * np.eye(columns), cross)
            np.testing.assert_allclose(change[output].flatten().numpy(), solved, rtol=1e-3, atol=2e-5)
            np.testing.assert_allclose(float(offset[output]), level - mean @ solved, rtol=1e-3, atol=2e-5)


def test_a_refit_is_better_where_it_counts(weights: NetworkWeights, samples: Samples) -> None:
    """Only the upper half counts: there less is lost than by a refit with equal weights."""

    class UpperHalf(PositionWeights):
        def of(self, index: int, batch: int) -> torch.Tensor:
            output = weights.graph[index].output
            upper = torch.arange(output.h) < output.h // 2
            return upper.float().view(1, -1, 1).expand(len(samples.fit.first(8)), output.h, output.w)

    sample = samples.fit.first(8)
    lost = []
    for positions in (None, UpperHalf({})):
        pair = _paired(weights)
        refit(pair, sample, positions)
        errors = [(pair.original(x, {6}).taps[6] - pair.slim(x, {6}).taps[6]) for x in batches_for(pair.slim, sample)]
        lost.append(sum(float(error[:, :, : error.shape[2] // 2].square().sum()) for error in errors))
    assert lost[1] < lost[0]


def _paired(weights: NetworkWeights) -> AlignedNetworks:
    channels = map_channels(weights.graph)
    cut = Cut(channels, np.ones(channels.count, bool), np.zeros(channels.count, bool), "fold", "mean")
    cut.keep[channels.of_layer[1][[0, 3, 4, 9, 11, 13, 17, 20]]] = False
    return cut_and_align(surgery_of(weights, cut))
