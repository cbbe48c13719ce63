"""Weights in and out: byte-identical round trips, layouts, fresh weights."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import random_weights
from reference.test_against_darknet import CONV, SYNTHETIC, net

from darkprune.darknet.weights import Header
from darkprune.errors import WeightsError
from darkprune.network import Network, initialise, load_weights, save_weights, tensor_of
from tests.assets import ABSENT, open_pair

from .building import CHECKPOINTS, DETECTOR, graph_of, loaded, open_text


def saved(network: Network, header: Header) -> bytes:
    file = io.BytesIO()
    save_weights(network, file, header)
    return file.getvalue()


@pytest.mark.parametrize("name", SYNTHETIC)
def test_loading_and_saving_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    data = random_weights(SYNTHETIC[name], seed=3)
    with open_text(SYNTHETIC[name], tmp_path, data) as weights:
        network = Network(weights.graph)
        load_weights(network, weights)
        assert saved(network, weights.file.header) == data


@pytest.mark.skipif(not CHECKPOINTS, reason=ABSENT)
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_checkpoints_round_trip(folder: Path) -> None:
    (cfg,), (path,) = folder.glob("*.cfg"), folder.glob("*.weights")
    with open_pair(cfg, path) as weights:
        network = Network(weights.graph, channels_last=True)
        load_weights(network, weights)
        assert saved(network, weights.file.header) == path.read_bytes()


def test_ancient_files_hold_connected_layers_transposed(tmp_path: Path) -> None:
    text = net(1, 1, 3, "connected output=2")
    data = struct.pack("<3iQ8f", 1001, 0, 0, 7, 0, 0, 1, 2, 3, 4, 5, 6)
    with open_text(text, tmp_path, data) as weights:
        network = Network(weights.graph)
        load_weights(network, weights)
        assert tensor_of(network, 0, "weights").tolist() == [[1, 3, 5], [2, 4, 6]]
        assert saved(network, weights.file.header) == data
        assert saved(network, Header())[20:] == np.array([0, 0, 1, 3, 5, 2, 4, 6], "<f4").tobytes()


def test_bits_survive_whatever_they_mean(tmp_path: Path) -> None:
    bits = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x00000001], "<u4").tobytes()
    data = struct.pack("<3iQ", 0, 2, 5, 0) + bits
    with open_text(net(2, 2, 1, "convolutional filters=2"), tmp_path, data) as weights:
        network = Network(weights.graph)
        load_weights(network, weights)
        assert saved(network, weights.file.header) == data


def test_what_is_not_in_the_file_stays(tmp_path: Path) -> None:
    text = net(4, 4, 1, "convolutional filters=1 batch_normalize=1 dontloadscales=1", "convolutional dontload=1")
    data = struct.pack("<3iQ2f", 0, 2, 5, 0, 8, 9)
    with open_text(text, tmp_path, data) as weights:
        network = Network(weights.graph)
        initialise(network, 1)
        before = tensor_of(network, 1, "weights").clone()
        load_weights(network, weights)
        assert saved(network, weights.file.header) == data
    assert tensor_of(network, 0, "biases").item() == 8
    assert tensor_of(network, 0, "rolling_variance").item() == 1
    assert torch.equal(tensor_of(network, 1, "weights"), before)


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    with (
        open_text(DETECTOR, tmp_path) as weights,
        pytest.raises(WeightsError, match="tensors of another network"),
    ):
        load_weights(Network(graph_of(net(4, 4, 3, f"{CONV} filters=5"))), weights)


def test_fused_networks_neither_load_nor_save(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path).fuse()
    with pytest.raises(WeightsError, match="folded"):
        saved(network, Header())
    with open_text(DETECTOR, tmp_path) as weights, pytest.raises(WeightsError, match="folded"):
        load_weights(network, weights)


def test_there_is_no_tensor_of_that_name(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path)
    for layer, name in ((3, "weights"), (0, "anything"), (11, "scales"), (0, "forward")):
        with pytest.raises(WeightsError, match=f"layer {layer} .* has no {name}"):
            tensor_of(network, layer, name)


def test_fresh_weights_are_darknets(tmp_path: Path) -> None:
    text = net(
        16, 16, 32, f"{CONV} filters=64 groups=4", "convolutional filters=64 size=3 flipped=1 activation=linear",
        "local filters=16 size=3", "connected output=64 batch_normalize=1", "implicit filters=200 mean=1 std=.5",
        "route layers=1", "shortcut from=1 weights_type=per_channel weights_normalization=relu",
    )  # fmt: skip
    network = loaded(text, tmp_path)
    initialise(network, 5)
    for layer, fan_in in ((0, 8 * 9), (1, 64 * 9), (2, 64 * 9), (3, 16 * 12 * 12)):
        weights = tensor_of(network, layer, "weights")
        bound = (2 / fan_in) ** 0.5
        assert 0.99 * bound < weights.abs().max() <= bound
        assert abs(weights.std() / bound * 3**0.5 - 1) < 0.05
        assert tensor_of(network, layer, "biases").abs().max() == 0
    for layer in (0, 3):
        for name, value in (("scales", 1), ("rolling_variance", 1), ("rolling_mean", 0)):
            assert bool((tensor_of(network, layer, name) == value).all())
    implicit = tensor_of(network, 4, "weights")
    assert 0.5 <= implicit.min() < 0.52
    assert 1.48 < implicit.max() <= 1.5
    assert bool((tensor_of(network, 6, "weights") == 1).all())
    again = Network(network.graph)
    initialise(again, 5)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
