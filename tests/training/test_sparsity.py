"""Sparse training: the proximal step, who is spared, how s is steered, what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import darkprune as dp
from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.weights import Header
from darkprune.errors import TrainingError, UsageError
from darkprune.graph.graph import Graph, build_graph, read_graph, with_input_size
from darkprune.graph.groups import divide
from darkprune.network import save_weights, tensor_of
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.presets import SPARSITY_PRESETS, with_preset
from darkprune.training.recipe.optimizer import Optimizer, OptimizerSettings
from darkprune.training.recipe.recipe import read_recipe
from darkprune.training.settings import TrainSettings
from darkprune.training.sparsity.layers import sparse_layers
from darkprune.training.sparsity.sparsity import Sparsity
from darkprune.training.sparsity.strength import SteeredS
from darkprune.zoo import resolve
from tests.training.tiny import CFG, fresh_network, make_trainer, tiny_graph, write_images

LAYERS = (0, 1, 2, 4)


def sparsity(steps: int = 10, **settings: object) -> Sparsity:
    network = fresh_network(tiny_graph())
    for layer in LAYERS:
        gamma = tensor_of(network, layer, "scales")
        with torch.no_grad():
            gamma.copy_(torch.linspace(-1, 1, len(gamma)) * (layer + 1))
    chosen = TrainSettings(iterations=steps, **settings)  # type: ignore[arg-type]
    return Sparsity(network, chosen, read_recipe(network.graph, 20, chosen))


def gamma_of(sparse: Sparsity, layer: int) -> torch.Tensor:
    return tensor_of(sparse.network, layer, "scales").detach()


def test_a_step_shrinks_by_rate_times_s_and_stops_at_zero() -> None:
    sparse = sparsity(sparsity="constant", s=0.5)
    before = {layer: gamma_of(sparse, layer).clone() for layer in LAYERS}
    total = sum(float(value.abs().sum()) for value in before.values())
    assert sparse.figures()["sparsity"] == pytest.approx(0.5 * total, rel=1e-5)
    sparse.after_step(1, rate=0.2)
    for layer, value in before.items():
        wanted = value.sign() * (value.abs() - 0.1).clamp(min=0)
        torch.testing.assert_close(gamma_of(sparse, layer), wanted)
    assert (gamma_of(sparse, 0) == 0).sum() == 2  # ±1/11
    assert [layer.layer for layer in sparse.layers] == list(LAYERS)


@pytest.mark.parametrize("adam", [False, True])
def test_the_penalty_does_not_go_through_the_optimiser(adam: bool) -> None:
    """Adam would divide it by the size of the gradient; with plain SGD it is the sub-gradient."""
    sparse = sparsity(sparsity="constant", s=0.05)
    optimizer = Optimizer(sparse.network, OptimizerSettings(momentum=0.0, adam=adam), 8, spare_batch_norm=True)
    before, gradient = gamma_of(sparse, 1).clone(), torch.linspace(-3, 3, 10)
    tensor_of(sparse.network, 1, "scales").grad = gradient.clone()
    optimizer.set_rate(0.01)
    optimizer.step()
    stepped = gamma_of(sparse, 1).clone()
    sparse.after_step(1, rate=0.01)
    torch.testing.assert_close(gamma_of(sparse, 1), stepped - 0.01 * 0.05 * stepped.sign(), rtol=1e-4, atol=1e-7)
    if not adam:
        torch.testing.assert_close(gamma_of(sparse, 1), before - 0.01 * (gradient + 0.05 * before.sign()))


def test_frozen_and_excluded_layers_are_not_penalised() -> None:
    for settings in ({"freeze": 1}, {"exclude": (1,)}):
        sparse = sparsity(sparsity="constant", s=1.0, **settings)
        before = {layer: gamma_of(sparse, layer).clone() for layer in LAYERS}
        sparse.after_step(1, rate=0.1)
        still = {layer for layer in LAYERS if torch.equal(gamma_of(sparse, layer), before[layer])}
        # layers 0 and 2 are added by a shortcut: what stays in one stays in the other
        assert still == ({0, 2} if "freeze" in settings else {1})


def test_dynamic_spares_the_largest_after_the_switch() -> None:
    sparse = sparsity(steps=10, sparsity="dynamic", s=0.01, switch=0.5, keep_fraction=0.3)
    for step in range(1, 6):
        sparse.after_step(step, 0.001)
        assert all(float(weight.min()) == pytest.approx(0.01) for weight in sparse.weights())
    sizes = torch.cat([gamma_of(sparse, layer).abs() for layer in LAYERS])
    sparse.after_step(6, 0.001)
    weights = torch.cat(sparse.weights())
    spared = weights < 0.005
    assert int(spared.sum()) == round(0.3 * len(sizes))
    assert float(sizes[spared].min()) >= float(sizes[~spared].max())
    assert weights[spared].tolist() == pytest.approx([0.0001] * int(spared.sum()))
    with torch.no_grad():  # who was chosen once stays chosen
        tensor_of(sparse.network, 4, "scales").zero_()
    sparse.after_step(7, 0.001)
    assert torch.equal(torch.cat(sparse.weights()), weights)
    sparse.after_epoch(1)
    assert torch.equal(torch.cat(sparse.weights()), weights)


def test_selection_can_follow() -> None:
    sparse = sparsity(steps=2, sparsity="dynamic", s=0.01, switch=0.0, reselect=True)
    sparse.after_step(1, 0.001)
    before = torch.cat(sparse.weights())
    with torch.no_grad():
        tensor_of(sparse.network, 4, "scales").zero_()
    sparse.after_epoch(1)
    assert not torch.equal(torch.cat(sparse.weights()), before)


def test_state_restores_selection_and_strength() -> None:
    sparse = sparsity(steps=40, sparsity="dynamic", switch=0.5)
    for step in range(1, 22):
        sparse.after_step(step, 0.01)
    sparse.after_epoch(1)
    again = sparsity(steps=40, sparsity="dynamic", switch=0.5)
    assert [again.s_of(layer) for layer in again.layers] != [sparse.s_of(layer) for layer in sparse.layers]
    with torch.no_grad():
        tensor_of(again.network, 4, "scales").zero_()
    again.load_state_dict(sparse.state_dict())
    assert [again.s_of(layer) for layer in again.layers] == [sparse.s_of(layer) for layer in sparse.layers]
    assert torch.equal(torch.cat(again.weights()), torch.cat(sparse.weights()))
    assert again.history.epochs.tolist() == [1]
    assert np.array_equal(again.history.counts, sparse.history.counts)


def test_coupled_layers_can_be_left_out() -> None:
    graph = tiny_graph()
    groups = divide(graph, "auto")
    assert [layer.layer for layer in sparse_layers(graph, groups, ())] == list(LAYERS)
    sparse = sparsity(steps=2, sparsity="constant", no_coupled=True)
    assert [layer.layer for layer in sparse.layers] == [1, 4]


def test_pinned_channels_are_left_alone() -> None:
    text = (
        "[net]\nwidth=16\nheight=16\nchannels=3\n[convolutional]\nbatch_normalize=1\nfilters=8\n"
        "[convolutional]\nbatch_normalize=1\nfilters=14\n[yolo]\nclasses=2\nnum=2\nanchors=1,1,2,2\n"
    )
    graph = build_graph(parse_cfg(text, "x.cfg"))
    assert [layer.layer for layer in sparse_layers(graph, divide(graph, "auto"), ())] == [0]
    bare = build_graph(parse_cfg(text.replace("batch_normalize=1\n", ""), "x.cfg"))
    with pytest.raises(TrainingError, match="no batch-normalised"):
        sparse_layers(bare, divide(bare, "auto"), ())


@pytest.mark.parametrize("pull", [0.0, 3.0, 40.0])
def test_s_is_steered_to_arrive_at_the_switch(pull: float) -> None:
    """A level that the loss pulls up with a force that the controller does not know."""
    rates = [0.01 * min(1.0, step / 20) for step in range(1, 401)]
    level, switch = 0.9, 200
    strength = SteeredS(rates, switch, level)
    seen = []
    for step, rate in enumerate(rates, 1):
        level = max(0.0, level + rate * (pull * min(1.0, level) - strength.s))
        strength.update(step, level)
        seen.append(level)
    assert seen[switch - 1] < 0.02
    assert max(seen[switch:]) < 0.02
    assert seen[switch // 2] > 0.15  # not long before: what is to stay is not pushed harder than needed


def test_s_falls_while_the_level_is_zero() -> None:
    strength = SteeredS([0.01] * 400, 100, 0.9)
    for step in range(1, 101):
        strength.update(step, 0.9 * (1 - step / 100))
    reached = strength.s
    for step in range(101, 151):
        strength.update(step, 0.0)
    lowest = strength.s
    assert 0 < lowest < 0.1 * reached
    for step in range(151, 201):
        strength.update(step, 0.001 * (step - 150))  # the loss draws it up again
    assert strength.s > lowest


@pytest.mark.parametrize("adam", [False, True])
def test_gamma_can_reach_zero_at_an_s_that_adam_can_resist(adam: bool) -> None:
    """Adam's steps are at most one rate long: an s of more than 1 would shrink every γ, whatever the loss."""
    short = sparsity(steps=20, sparsity="dynamic", ratio=0.5, lr=0.001, adam=adam, burn_in=1)
    strongest = max(short.s_of(layer) for layer in short.layers)
    if not adam:
        assert short.gamma_rate == 1
        assert strongest > 50
        return
    assert strongest == pytest.approx(0.5)
    assert short.gamma_rate > 100
    layer = next(layer for layer in short.layers if layer.layer == 4)
    largest, s = float(gamma_of(short, 4).abs().max()), short.s_of(layer)
    short.after_step(1, rate=0.001)
    assert largest - float(gamma_of(short, 4).abs().max()) == pytest.approx(0.001 * short.gamma_rate * s, rel=1e-3)
    optimizer = Optimizer(
        short.network, OptimizerSettings(adam=True), 8, spare_batch_norm=True, gamma_rate=short.gamma_rate
    )
    optimizer.set_rate(0.001)
    rates = sorted({group["lr"] for group in optimizer.inner.param_groups})
    assert rates == pytest.approx([0.001, 0.001 * short.gamma_rate])


def wide_graph() -> Graph:
    """The tiny network with layers that no floor keeps whole."""
    wider = {"filters=12": "filters=40", "filters=10": "filters=32", "filters=16": "filters=48"}
    text = CFG
    for narrow, wide in wider.items():
        text = text.replace(narrow, wide)
    return build_graph(parse_cfg(text, "wide.cfg"))


def test_dynamic_spares_what_pruning_would_keep(tmp_path: Path) -> None:
    graph = wide_graph()
    network = fresh_network(graph, seed=1)
    random = torch.Generator().manual_seed(0)
    for layer in LAYERS:  # of coupled channels some are large in one layer and small in the other
        with torch.no_grad():
            gamma = tensor_of(network, layer, "scales")
            gamma.copy_(torch.rand(len(gamma), generator=random) + 0.1)
    settings = TrainSettings(iterations=10, sparsity="dynamic", s=0.01, switch=0.0, ratio=0.6)
    sparse = Sparsity(network, settings, read_recipe(graph, 8, settings))
    cfg, weights = tmp_path / "wide.cfg", tmp_path / "wide.weights"
    cfg.write_bytes(graph.cfg.encode())
    with weights.open("wb") as file:
        save_weights(network, file, Header())
    surgery = dp.prune(dp.load(cfg, weights), dp.PruneSettings(ratio=0.6, criterion="bn_gamma", force=True))
    kept = {index: set(keep) for index, (_, keep, _) in surgery.plan.layers.items()}

    sparse.after_step(1, 0.001)
    spared = {layer.layer: weight < 0.005 for layer, weight in zip(sparse.layers, sparse.weights(), strict=True)}
    assert {index: set(torch.nonzero(mask).flatten().tolist()) for index, mask in spared.items()} == kept
    assert torch.equal(spared[0], spared[2])  # coupled by a shortcut
    assert 0 < int(spared[0].sum()) < 40


@pytest.mark.slow
def test_an_automatic_s_makes_the_channels_vanish_that_pruning_removes(tmp_path: Path) -> None:
    graph = wide_graph()
    data = write_images(tmp_path / "data", 8)
    shares = {}
    for s in ("auto", 0.00075):
        network = fresh_network(graph)
        settings = TrainSettings(iterations=60, lr=0.01, adam=True, sparsity="dynamic", s=s, ratio=0.5)
        hook = Sparsity(network, settings, read_recipe(graph, 8, settings))
        make_trainer(graph, data, tmp_path / str(s), network=network, hooks=(hook,), settings=settings).run()
        sizes = np.concatenate([gamma_of(hook, layer).abs().numpy() for layer in LAYERS])
        shares[s] = (sizes < 0.01).mean()
        if s == "auto":  # pulled below 0 at every step, whatever the loss does
            spared = torch.cat(hook.weights()) < 1
            assert float(torch.cat([gamma_of(hook, layer) for layer in LAYERS])[~spared].abs().max()) == 0
    assert shares["auto"] >= 0.48
    assert shares[0.00075] < 0.1


def test_the_ratio_is_shown_with_its_threshold() -> None:
    sparse = sparsity(sparsity="constant", s=0.001, ratio=0.5)
    sizes = np.sort(np.concatenate([gamma_of(sparse, layer).abs().numpy() for layer in LAYERS]))
    found = sparse.figures()
    first = np.sort(np.concatenate([gamma_of(sparse, layer).abs().numpy() for layer in LAYERS[:3]]))
    second = np.sort(gamma_of(sparse, 4).abs().numpy())  # the groups are layers 0-3 and 4-5
    assert found["gamma_at_ratio"] == pytest.approx(max(first[len(first) // 2 - 1], second[7]), rel=1e-5)
    assert found["gamma_small"] == pytest.approx((sizes < 0.01).mean(), abs=1e-6)
    assert "of 50 %" in sparse.status()
    assert sparse.status().endswith("s 0.001")


@pytest.mark.parametrize("wrong", [{"s": -1.0}, {"s": "many"}, {"switch": 1.5}, {"keep_fraction": -0.1},
                                   {"ratio": 2.0}])  # fmt: skip
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        TrainSettings(sparsity="constant", **wrong)  # type: ignore[arg-type]


def test_published_settings() -> None:
    assert {name: (p["s"], p["batch"]) for name, p in SPARSITY_PRESETS.items()} == {
        "yolov4": (0.00075, 16),
        "yolov3": (0.003, 32),
        "mobilenet-yolov3": (0.005, 32),
    }
    assert all((p["lr"], p["epochs"], p["size"]) == (0.002, 200, "416") for p in SPARSITY_PRESETS.values())


def test_a_preset_sets_what_the_paper_sets_and_the_user_does_not() -> None:
    graph = read_graph(resolve("builtin:mobilenet-yolov3-voc"))
    whole = with_preset(TrainSettings(sparsity_preset="mobilenet-yolov3"), graph)
    recipe = read_recipe(with_input_size(graph, 416, 416), 3200, whole)
    assert (recipe.batch, recipe.part, recipe.steps, recipe.optimizer.adam) == (32, 32, 20_000, False)
    assert recipe.schedule.at(20_000) == pytest.approx(0.05 * 0.002)
    assert (whole.sparsity, whole.s, whole.size, whole.groups) == ("dynamic", 0.005, "416", "mobilenet-yolov3")
    assert [group.last for group in divide(graph, whole.groups)] == [10, 22, 35, 47, 58]
    own = TrainSettings(sparsity_preset="yolov4", size="320", s="auto", adam=True, iterations=7, sparsity="constant")
    kept = with_preset(own, graph)
    assert (kept.size, kept.s, kept.adam, kept.iterations, kept.epochs) == ("320", "auto", True, 7, None)
    assert (kept.sparsity, kept.groups) == ("constant", "auto")  # groups of another network


def test_a_run_becomes_sparse_and_keeps_its_histograms(tmp_path: Path) -> None:
    graph = tiny_graph()
    data = write_images(tmp_path / "data", 8)
    network = fresh_network(graph)
    folder = RunFolder(tmp_path / "run", "tiny")
    before = torch.cat([tensor_of(network, layer, "scales").detach().abs() for layer in LAYERS]).mean()
    settings = TrainSettings(iterations=12, lr=0.02, sparsity="constant", s=1.5)
    hook = Sparsity(network, settings, read_recipe(graph, 8, settings), folder)
    make_trainer(graph, data, tmp_path / "run", network=network, hooks=(hook,), settings=settings).run()
    after = torch.cat([gamma_of(hook, layer).abs() for layer in LAYERS]).mean()
    assert float(after) < 0.8 * float(before)
    stored = np.load(tmp_path / "run" / "gamma.npz")
    assert stored["epochs"].tolist() == list(range(1, 13))
    assert stored["counts"].shape == (12, len(stored["groups"]), 100)
    assert stored["counts"].sum(axis=(1, 2)).tolist() == [50] * 12
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    assert "gamma_at_ratio" in header
