"""Sparse training: the sub-gradient, who is spared, what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import TrainingError, UsageError
from darkprune.graph.graph import build_graph
from darkprune.graph.groups import divide
from darkprune.network import tensor_of
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.presets import SPARSITY_PRESETS
from darkprune.training.settings import RunSettings, SparsitySettings
from darkprune.training.sparsity.sparsity import Sparsity, sparse_layers
from tests.training.tiny import fresh_network, make_trainer, tiny_graph, write_images


def sparsity(steps: int = 10, **settings: object) -> Sparsity:
    network = fresh_network(tiny_graph())
    for layer in (0, 1, 2, 4):
        gamma = tensor_of(network, layer, "scales")
        with torch.no_grad():
            gamma.copy_(torch.linspace(-1, 1, len(gamma)) * (layer + 1))
        gamma.grad = torch.full_like(gamma, 0.25)
    chosen = SparsitySettings(**settings)  # type: ignore[arg-type]
    return Sparsity(network, divide(network.graph, "auto"), chosen, steps)


def added(sparse: Sparsity, layer: int) -> list[float]:
    gradient = tensor_of(sparse.network, layer, "scales").grad
    assert gradient is not None
    return (gradient - 0.25).tolist()


def test_the_sub_gradient_is_s_times_the_sign() -> None:
    sparse = sparsity(sparsity="constant", s=0.003)
    sparse.before_step(1)
    gamma = tensor_of(sparse.network, 1, "scales").detach()
    assert added(sparse, 1) == pytest.approx((0.003 * gamma.sign()).tolist(), abs=1e-7)
    assert [layer.layer for layer in sparse.layers] == [0, 1, 2, 4]
    total = sum(float(tensor_of(sparse.network, layer, "scales").detach().abs().sum()) for layer in (0, 1, 2, 4))
    assert sparse.figures()["sparsity"] == pytest.approx(0.003 * total, rel=1e-5)


def test_a_gamma_of_zero_is_not_pushed() -> None:
    sparse = sparsity(sparsity="constant", s=0.1)
    with torch.no_grad():
        tensor_of(sparse.network, 0, "scales").zero_()
    sparse.before_step(1)
    assert added(sparse, 0) == [0.0] * 12


def test_dynamic_spares_the_largest_after_the_switch() -> None:
    sparse = sparsity(steps=10, sparsity="dynamic", s=0.01, switch=0.5, keep_fraction=0.3)
    sizes = torch.cat([tensor_of(sparse.network, layer, "scales").detach().abs() for layer in (0, 1, 2, 4)])
    for step in range(1, 6):
        sparse.before_step(step)
        assert all(float(weight.min()) == pytest.approx(0.01) for weight in sparse.weights())
    sparse.before_step(6)
    weights = torch.cat(sparse.weights())
    spared = weights < 0.005
    assert int(spared.sum()) == round(0.3 * len(sizes))
    assert float(sizes[spared].min()) >= float(sizes[~spared].max())
    assert weights[spared].tolist() == pytest.approx([0.0001] * int(spared.sum()))
    with torch.no_grad():  # who was chosen once stays chosen
        tensor_of(sparse.network, 4, "scales").zero_()
    sparse.before_step(7)
    assert torch.equal(torch.cat(sparse.weights()), weights)
    sparse.after_epoch(1)
    assert torch.equal(torch.cat(sparse.weights()), weights)


def test_selection_can_follow() -> None:
    sparse = sparsity(steps=2, sparsity="dynamic", s=0.01, switch=0.0, reselect=True)
    sparse.before_step(1)
    before = torch.cat(sparse.weights())
    with torch.no_grad():
        tensor_of(sparse.network, 4, "scales").zero_()
    sparse.after_epoch(1)
    assert not torch.equal(torch.cat(sparse.weights()), before)


def test_state_brings_the_selection_back() -> None:
    sparse = sparsity(steps=4, sparsity="dynamic", switch=0.0)
    sparse.before_step(1)
    sparse.after_epoch(1)
    again = sparsity(steps=4, sparsity="dynamic", switch=0.0)
    with torch.no_grad():
        tensor_of(again.network, 4, "scales").zero_()
    again.load_state_dict(sparse.state_dict())
    again.before_step(2)
    assert torch.equal(torch.cat(again.weights()), torch.cat(sparse.weights()))
    assert again.history.epochs == [1]
    assert np.array_equal(again.history.counts[0], sparse.history.counts[0])


def test_coupled_layers_can_be_left_out() -> None:
    graph = tiny_graph()
    groups = divide(graph, "auto")
    assert [layer.layer for layer in sparse_layers(graph, groups, coupled=True)] == [0, 1, 2, 4]
    assert [layer.layer for layer in sparse_layers(graph, groups, coupled=False)] == [1, 4]


def test_pinned_channels_are_left_alone() -> None:
    text = (
        "[net]\nwidth=16\nheight=16\nchannels=3\n[convolutional]\nbatch_normalize=1\nfilters=8\n"
        "[convolutional]\nbatch_normalize=1\nfilters=14\n[yolo]\nclasses=2\nnum=2\nanchors=1,1,2,2\n"
    )
    graph = build_graph(parse_cfg(text, "x.cfg"))
    assert [layer.layer for layer in sparse_layers(graph, divide(graph, "auto"), coupled=True)] == [0]
    bare = build_graph(parse_cfg(text.replace("batch_normalize=1\n", ""), "x.cfg"))
    with pytest.raises(TrainingError, match="no batch-normalised"):
        sparse_layers(bare, divide(bare, "auto"), coupled=True)


def test_the_ratio_is_shown_with_its_threshold() -> None:
    sparse = sparsity(sparsity="constant", target_ratio=0.5)
    sizes = np.sort(
        np.concatenate([np.abs(tensor_of(sparse.network, i, "scales").detach().numpy()) for i in (0, 1, 2, 4)])
    )
    found = sparse.figures()
    assert found["gamma_at_ratio"] == pytest.approx(sizes[len(sizes) // 2 - 1], rel=1e-5)
    assert found["gamma_small"] == pytest.approx((sizes < 0.01).mean(), abs=1e-6)
    assert "of 50 % wanted" in sparse.status()


@pytest.mark.parametrize("wrong", [{"s": -1.0}, {"switch": 1.5}, {"keep_fraction": -0.1}, {"target_ratio": 2.0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SparsitySettings(sparsity="constant", **wrong)  # type: ignore[arg-type]


def test_published_settings() -> None:
    assert {name: (p.s, p.batch) for name, p in SPARSITY_PRESETS.items()} == {
        "yolov4": (0.00075, 16),
        "yolov3": (0.003, 32),
        "mobilenet-yolov3": (0.005, 32),
    }
    assert all((p.lr, p.epochs, p.size) == (0.002, 200, 416) for p in SPARSITY_PRESETS.values())


def test_a_run_becomes_sparse_and_keeps_its_histograms(tmp_path: Path) -> None:
    graph = tiny_graph()
    data = write_images(tmp_path / "data", 8)
    network = fresh_network(graph)
    folder = RunFolder(tmp_path / "run", "tiny")
    before = torch.cat([tensor_of(network, i, "scales").detach().abs() for i in (0, 1, 2, 4)]).mean()
    hook = Sparsity(network, divide(graph, "auto"), SparsitySettings(sparsity="constant", s=0.3), 12, folder)
    trainer = make_trainer(
        graph, data, tmp_path / "run", network=network, hooks=(hook,), settings=RunSettings(iterations=12, lr=0.02)
    )
    trainer.run()
    after = torch.cat([tensor_of(network, i, "scales").detach().abs() for i in (0, 1, 2, 4)]).mean()
    assert float(after) < 0.8 * float(before)
    stored = np.load(tmp_path / "run" / "gamma.npz")
    assert stored["epochs"].tolist() == list(range(1, 13))
    assert stored["counts"].shape == (12, len(stored["groups"]), 100)
    assert stored["counts"].sum(axis=(1, 2)).tolist() == [50] * 12
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    assert "gamma_at_ratio" in header
