"""Least squares against numpy; refit of networks where the answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DETECTOR, surgery_of, write_pair
from torch import Tensor
from torch.nn import functional

from darkprune.data.samples import Sample, Samples, read_samples
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.graph.channels import map_channels
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network
from darkprune.network.loading import batches_for, load_network, run_of
from darkprune.network.modules.convolution import Convolution
from darkprune.network.walk import Walk, affordable_images, live_bytes
from darkprune.refit import least_squares
from darkprune.refit.batch_norm import _moments, reestimate
from darkprune.refit.least_squares import NormalEquations
from darkprune.refit.recover import cut_and_align, images_for
from darkprune.refit.refit import AlignedNetworks, RefitSettings, refit, stream_of
from darkprune.selection.decide import decide, rank
from darkprune.selection.settings import Selection
from darkprune.surgery.apply import Cut

CPU = torch.device("cpu")


def whole(weights: NetworkWeights) -> Cut:
    channels = map_channels(weights.graph)
    return Cut(channels, np.ones(channels.count, bool), np.zeros(channels.count, bool), "fold", "mean")


def without(weights: NetworkWeights, layer: int, positions: list[int], compensate: str = "fold") -> Cut:
    cut = whole(weights)
    cut.keep[cut.channels.of_layer[layer][positions]] = False
    return replace(cut, compensate=compensate)


def paired(weights: NetworkWeights, cut: Cut) -> AlignedNetworks:
    return cut_and_align(surgery_of(weights, cut))


def module_of(weights: NetworkWeights, layer: int) -> Convolution:
    module = load_network(weights).layers[layer]
    assert isinstance(module, Convolution)
    return module


@pytest.mark.parametrize("layer", [1, 2, 6, 7], ids=["pointwise", "depthwise", "stride", "grouped"])
@pytest.mark.parametrize("chunk", [1, 1 << 26])
def test_equations_are_those_of_numpy(
    weights: NetworkWeights, layer: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares, "CHUNK_BYTES", chunk)
    module = module_of(weights, layer)
    feature = weights.graph[layer].inputs[0]
    x = torch.randn(6, feature.c, feature.h, feature.w, generator=torch.Generator().manual_seed(1)) + 1
    shape = module.convolve(x, module.kernel(), None).shape
    target = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 0.1 + x.mean()
    equations = NormalEquations(module, len(x) * shape[2] * shape[3])
    equations.add(x[:4], target[:4])
    equations.add(x[4:], target[4:])
    change, offset = equations.solve(1e-3)

    windows = functional.unfold(x, module.size, module.dilation, module.padding, module.stride).double()
    groups, outputs = module.groups, shape[1] // module.groups
    columns = windows.shape[1] // groups
    for group in range(groups):
        rows = windows[:, group * columns : (group + 1) * columns].transpose(1, 2).reshape(-1, columns).numpy()
        for output in range(group * outputs, (group + 1) * outputs):
            wanted = target[:, output].flatten().double().numpy()
            centred, aim = rows - rows.mean(0), wanted - wanted.mean()
            gram = centred.T @ centred
            solved = np.linalg.solve(gram + 1e-3 * np.diag(gram).mean() * np.eye(columns), centred.T @ aim)
            np.testing.assert_allclose(change[output].flatten().numpy(), solved, rtol=1e-3, atol=2e-5)
            expected = wanted.mean() - rows.mean(0) @ solved
            np.testing.assert_allclose(float(offset[output]), expected, rtol=1e-3, atol=2e-5)


def test_places_are_sampled_where_the_equations_would_cost_too_much(
    weights: NetworkWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares, "OPERATIONS", 1)
    module = module_of(weights, 1)
    x = torch.randn(8, 12, 16, 16)
    equations = NormalEquations(module, 8 * 256)
    equations.add(x, module.convolve(x, module.kernel(), None))  # the change that doubles the weights
    change, _ = equations.solve(0.0)
    assert equations._count == 48  # four places for every column
    torch.testing.assert_close(change.float(), module.kernel(), rtol=1e-3, atol=1e-4)


def test_nothing_removed_nothing_changed(weights: NetworkWeights, samples: Samples) -> None:
    pair = paired(weights, whole(weights))
    before = {name: values.clone() for name, values in pair.slim.state_dict().items()}
    assert refit(pair, samples.fit) == [1, 2, 3, 6, 7, 9]
    for name, values in pair.slim.state_dict().items():
        assert torch.equal(values, before[name]), name


@pytest.mark.parametrize("layer", [1, 6])
def test_a_channel_that_another_explains_is_no_loss(tmp_path: Path, images: Path, layer: int) -> None:
    def twin(network: Network) -> None:
        module = network.layers[layer]
        for name in ("weights", "scales", "biases", "rolling_mean", "rolling_variance"):
            getattr(module, name)[3] = getattr(module, name)[5]
        if layer == 1:  # and in the depthwise layer that passes it on
            for name in ("weights", "scales", "biases", "rolling_mean", "rolling_variance"):
                getattr(network.layers[2], name)[3] = getattr(network.layers[2], name)[5]

    with write_pair(tmp_path, DETECTOR, edit=twin) as weights:
        samples = read_samples(images, weights.graph)
        cut = without(weights, layer, [3] if layer == 1 else [3, 11])
        pair = paired(weights, cut)
        distance = OutputDistance(run_of(pair.original), weights.graph, samples.held_out)
        before = distance.of(run_of(pair.slim))
        refit(pair, samples.fit, settings=RefitSettings(ridge=1e-6))
        after = distance.of(run_of(pair.slim))
    assert before > 0.01
    assert after < (0.02 if layer == 1 else 0.9) * before


def test_the_stream_is_corrected_by_what_is_added_to_it(weights: NetworkWeights, samples: Samples) -> None:
    assert stream_of(weights.graph, weights.graph[3]) is weights.graph[5]
    assert stream_of(weights.graph, weights.graph[9]) is None  # a head reads it
    cut = without(weights, 0, [0, 4])
    errors = []
    for stream in (False, True):
        pair = paired(weights, cut)
        with torch.no_grad():  # a stream that has lost something: the first convolution is not refitted
            pair.slim.layers[0].weights += 0.05
        refit(pair, samples.fit, settings=RefitSettings(stream=stream))
        kept = pair.kept(5)
        errors.append(
            sum(
                float((pair.original(x, {5}).taps[5][:, kept] - pair.slim(x, {5}).taps[5]).square().sum())
                for x in batches_for(pair.slim, samples.fit)
            )
        )
    assert errors[1] < 0.5 * errors[0]


def test_carriers_stay_constant(weights: NetworkWeights, samples: Samples) -> None:
    settings = Selection(ratio=0.3, criterion="l1", compensate="carrier", min_channels=2)
    decision = decide(rank(weights, settings), settings)
    pair = paired(weights, decision.cut)
    held = {layer: pair.carriers(layer) for layer in (0, 1, 6)}
    refitted = refit(pair, samples.fit)
    assert any(held[layer].any() for layer in refitted if layer in held)
    for layer, mask in held.items():
        module = pair.slim.layers[layer]
        assert not module.weights[mask].any()
        assert not module.scales[mask].any()
    for images in batches_for(pair.slim, samples.fit):
        taps = pair.slim(images, set(held)).taps
        for layer, mask in held.items():
            maps = taps[layer][:, mask]
            assert not maps.numel() or float(maps.max() - maps.min()) == 0


def test_memory_is_bounded_and_does_not_change_the_result(weights: NetworkWeights, samples: Samples) -> None:
    cut = without(weights, 1, [0, 1, 2, 7])
    results = []
    for memory in (0, 40_000 * len(samples.fit), 1 << 30):
        pair = paired(weights, cut)
        refit(pair, samples.fit, settings=RefitSettings(memory=memory))
        results.append(pair.slim.state_dict())
    for other in results[1:]:
        for name, values in results[0].items():
            torch.testing.assert_close(values, other[name], rtol=1e-5, atol=1e-6)


def test_a_walk_keeps_no_more_than_it_may(weights: NetworkWeights, samples: Samples) -> None:
    network = load_network(weights)
    limit = 4 * len(samples.fit) * 12 * 16 * 16 * 2  # the stream and one more map of its size
    walk, free = Walk(network, samples.fit, limit), Walk(network, samples.fit)
    for index in (1, 2, 3, 6, 9):
        for ours, theirs in zip(walk.before(index), free.before(index), strict=True):
            assert ours.keys() == theirs.keys()
            for source in ours:
                torch.testing.assert_close(ours[source], theirs[source])
        kept = {id(m.untyped_storage()): m.nbytes for maps in walk._kept or [] for m in maps.values()}
        assert sum(kept.values()) <= limit
    assert walk._reached == 9


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_a_walk_through_a_convolution_computes_its_sums_once(
    weights: NetworkWeights, samples: Samples, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(weights)
    walk, plain = Walk(network, samples.fit, memory), Walk(network, samples.fit)
    runs: list[Convolution] = []
    convolve = Convolution.convolve

    def counted(module: Convolution, *inputs: Tensor | None) -> Tensor:
        runs.append(module)
        return convolve(module, *inputs)  # type: ignore[arg-type]

    for index in (1, 3, 6):
        layer, module = weights.graph[index], network.layers[index]
        assert isinstance(module, Convolution)
        for (maps, sums), others in zip(walk.through(index), plain.before(index), strict=True):
            x = plain.input_of(layer, others)
            assert torch.equal(walk.input_of(layer, maps), x)
            assert torch.equal(sums, module.sums(x))
    monkeypatch.setattr(Convolution, "convolve", counted)
    for maps, others in zip(walk.before(7), plain.before(7), strict=True):
        assert maps.keys() == others.keys()
        assert all(torch.equal(maps[source], others[source]) for source in maps)
    batches, last = samples.fit.batch_count, network.layers[6]
    assert sum(module is last for module in runs) == (batches if memory else 2 * batches)  # `plain` runs it anyway


def test_batch_statistics_are_those_of_the_sample(weights: NetworkWeights, samples: Samples) -> None:
    network = load_network(weights)
    assert reestimate(network, samples.fit) == [0, 1, 2, 3, 6]
    images = torch.cat(list(batches_for(network, samples.fit)))

    def sums(index: int, x: Tensor) -> Tensor:
        module = network.layers[index]
        assert isinstance(module, Convolution)
        return module.convolve(x, module.kernel(), None)

    for index, x in ((0, images), (1, network(images, {0}).taps[0])):
        found = sums(index, x)
        module = network.layers[index]
        torch.testing.assert_close(module.rolling_mean, found.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        expected = found.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(module.rolling_variance, expected, rtol=1e-4, atol=1e-5)


def test_moments_do_not_depend_on_batches() -> None:
    """Batches of very different means: the variance holds what lies between them too."""
    maps = torch.randn(12, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    maps += torch.arange(12.0).view(-1, 1, 1, 1) + torch.tensor([0.0, 10.0, -300.0]).view(-1, 1, 1)
    mean, variance = _moments(maps.split([5, 4, 3]))
    torch.testing.assert_close(mean, maps.double().mean((0, 2, 3)), rtol=1e-9, atol=0)
    torch.testing.assert_close(variance, maps.double().var((0, 2, 3), unbiased=False), rtol=1e-9, atol=0)


def test_distance(weights: NetworkWeights, samples: Samples) -> None:
    original = run_of(load_network(weights))
    distance = OutputDistance(original, weights.graph, samples.held_out)
    assert distance.of(original) == 0
    silent = load_network(weights)
    with torch.no_grad():
        silent.layers[9].weights.zero_()
        silent.layers[9].biases.fill_(-50)
    assert distance.of(run_of(silent)) == pytest.approx(1)
    with torch.no_grad():
        silent.layers[9].biases.fill_(float("nan"))
    assert distance.of(run_of(silent)) == float("inf")


def test_a_sample_is_a_sample(samples: Samples) -> None:
    assert not set(samples.fit.paths) & set(samples.held_out.paths)
    assert (len(samples.fit), len(samples.held_out)) == (24, 8)
    assert isinstance(samples.fit.first(3), Sample)
    assert sum(len(batch) for batch in samples.fit.first(3).batches()) == 3


def test_as_many_images_as_fit_into_memory(weights: NetworkWeights) -> None:
    stream, wide = 4 * 12 * 256, 4 * 24 * 256
    assert live_bytes(weights.graph, 0) == 4 * 3 * 32 * 32
    assert live_bytes(weights.graph, 2) == stream + wide  # the shortcut reads the stream later
    assert live_bytes(weights.graph, 11) == 0
    assert affordable_images(weights.graph, 10 * (stream + wide)) == 10
    assert images_for("lsq", weights.graph) == 768


def test_few_images_are_seen_mirrored_and_in_part_too(samples: Samples) -> None:
    few = samples.fit.first(5)
    assert [len(few.filled(count)) for count in (4, 8, 20, 90)] == [4, 8, 20, 20]
    filled = few.filled(18)
    batches = [torch.from_numpy(batch) for batch in filled.batches()]
    assert len(batches) == filled.batch_count
    seen = torch.cat(batches)
    assert len(seen) == len(filled) == 18
    torch.testing.assert_close(seen[:5], torch.from_numpy(np.concatenate(list(few.batches()))))
    torch.testing.assert_close(seen[5:10], seen[:5].flip(3))
    assert all(float((seen[10 + place] - seen[place % 5]).abs().max()) > 0.01 for place in range(8))
    assert np.array_equal(seen, np.concatenate(list(filled.batches())))  # a walk reads it again
