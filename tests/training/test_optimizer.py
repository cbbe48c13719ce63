"""Optimisers against darknet's own update, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import build_graph
from darkprune.network import tensor_of
from darkprune.training.recipe.ema import Ema, EmaSettings
from darkprune.training.recipe.freezing import Freezing
from darkprune.training.recipe.optimizer import Optimizer, OptimizerSettings, trained_parameters
from tests.training.tiny import CFG, fresh_network, tiny_graph

BATCH = 8


@pytest.mark.parametrize("adam", [False, True])
def test_updates_are_darknets(adam: bool) -> None:
    """`update_convolutional_layer_gpu` and `adam_update_gpu` on sums of deltas, in 64 bits."""
    network = fresh_network(tiny_graph())
    settings = OptimizerSettings(momentum=0.9, decay=0.01, adam=adam)
    optimizer = Optimizer(network, settings, BATCH, spare_batch_norm=False)
    names = ("weights", "biases", "scales")
    values = {name: tensor_of(network, 0, name).detach().double().numpy().copy() for name in names}
    updates = {name: np.zeros_like(values[name]) for name in names}
    m = {name: np.zeros_like(values[name]) for name in names}
    v = {name: np.zeros_like(values[name]) for name in names}
    random = np.random.default_rng(0)
    for step in range(1, 6):
        rate = 0.01 * step
        optimizer.set_rate(rate)
        optimizer.zero_grad()
        for name in names:
            delta = random.normal(0, 3, values[name].shape)
            tensor_of(network, 0, name).grad = torch.from_numpy(-delta / BATCH).float()
            updates[name] += delta
            if adam or name == "weights":
                updates[name] -= settings.decay * BATCH * values[name]
            if adam:
                m[name] = 0.9 * m[name] + 0.1 * updates[name]
                v[name] = 0.999 * v[name] + 0.001 * updates[name] ** 2
                root = np.sqrt(v[name] / (1 - 0.999**step)) + 1e-6
                values[name] += rate * m[name] / (1 - 0.9**step) / root
                updates[name] *= 0
            else:
                values[name] += rate / BATCH * updates[name]
                updates[name] *= 0.9
        optimizer.step()
    for name in names:
        np.testing.assert_allclose(tensor_of(network, 0, name).detach().numpy(), values[name], rtol=2e-5, atol=2e-6)


def test_batch_norm_is_spared_in_sparse_training() -> None:
    network = fresh_network(tiny_graph())
    settings = OptimizerSettings(decay=0.1, adam=True)
    optimizer = Optimizer(network, settings, BATCH, spare_batch_norm=True)
    decays = {id(p): group["weight_decay"] for group in optimizer.inner.param_groups for p in group["params"]}
    for parameter in trained_parameters(network):
        assert decays[id(parameter.tensor)] == (0 if parameter.is_batch_norm else 0.1)
    assert [p.blob for p in trained_parameters(network) if p.layer.index == 6] == ["biases", "weights"]


def test_a_layer_has_its_own_rate_and_limit() -> None:
    text = CFG.replace("filters=10\n", "filters=10\nlearning_rate=0.5\nclip=0.01\n")
    network = fresh_network(build_graph(parse_cfg(text, "x.cfg")))
    optimizer = Optimizer(network, OptimizerSettings(decay=0), BATCH, spare_batch_norm=False)
    optimizer.set_rate(1.0)
    before = [tensor_of(network, layer, "biases").detach().clone() for layer in (0, 1)]
    for layer in (0, 1):
        tensor_of(network, layer, "biases").grad = torch.full_like(before[layer], 2.0)
    optimizer.step()
    moved = [float((tensor_of(network, layer, "biases").detach() - before[layer]).mean()) for layer in (0, 1)]
    assert moved == pytest.approx([-2.0, -1.0])
    assert float(tensor_of(network, 1, "weights").detach().abs().max()) <= 0.01 + 1e-9


def test_holds_follow_the_keys() -> None:
    text = CFG.replace("filters=10\n", "filters=10\nstopbackward=3\n").replace(
        "filters=16\n", "filters=16\nonlyforward=1\n"
    )
    graph = build_graph(parse_cfg(text, "x.cfg"))
    network = fresh_network(graph)
    network.train()
    freezing = Freezing(graph, 0, 0)

    def learning(step: int) -> list[int]:
        freezing.apply(network, step)
        return [i for i, module in enumerate(network.layers) if any(p.requires_grad for p in module.parameters())]

    assert learning(1) == learning(3) == [2, 6]
    assert learning(4) == [0, 1, 2, 6]
    frozen = Freezing(graph, 2, 0)
    network.train()
    frozen.apply(network, 10)
    assert [network.layers[i].training for i in (0, 1, 2)] == [False, False, True]
    assert not tensor_of(network, 1, "weights").requires_grad
    only_bn = build_graph(parse_cfg(CFG.replace("filters=10\n", "filters=10\ntrain_only_bn=1\n"), "x.cfg"))
    network = fresh_network(only_bn)
    network.train()
    Freezing(only_bn, 0, 0).apply(network, 1)
    assert network.layers[0].training
    assert not tensor_of(network, 0, "weights").requires_grad
    assert tensor_of(network, 2, "weights").requires_grad


def test_the_average_follows_and_steps_aside() -> None:
    network = fresh_network(tiny_graph())
    ema = Ema(network, EmaSettings(0.5, start=2))
    gamma = tensor_of(network, 0, "scales")
    expected = 0.0
    for step, value in enumerate([5.0, 1.0, 3.0, 4.0], start=1):
        with torch.no_grad():
            gamma.fill_(value)
        ema.update(step)
        if step >= 2:
            expected = value if step == 2 else 0.5 * expected + 0.5 * value
    assert expected == 3.0
    with ema.in_place():
        assert gamma[0].item() == expected
    assert gamma[0].item() == 4.0
    again = Ema(network, EmaSettings(0.5, start=2))
    again.load_state_dict(ema.state_dict())
    with again.in_place():
        assert gamma[0].item() == expected


def test_darknets_average_is_handed_over() -> None:
    network = fresh_network(tiny_graph())
    ema = Ema(network, EmaSettings(0.5, start=1, apply_at=3))
    gamma = tensor_of(network, 0, "scales")
    for step, value in enumerate([2.0, 4.0, 100.0, 7.0], start=1):
        with torch.no_grad():
            gamma.fill_(value)
        ema.update(step)
        if step == 3:
            assert gamma[0].item() == 3.0
    assert not ema.values
    assert gamma[0].item() == 7.0
