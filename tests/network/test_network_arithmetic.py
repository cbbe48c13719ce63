"""Every kind and activation, layer by layer, against the independent reference forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reference import forward, load, random_weights
from reference.test_against_darknet import ACTIVATIONS, CONV, SYNTHETIC, everywhere, net

from darkprune.layers import KINDS
from darkprune.network import Network, initialise, load_weights
from darkprune.network.modules import MODULES

from .building import graph_of, images_for, loaded, open_text, relative

MORE = {
    "deep padding": net(7, 7, 3, f"{CONV} filters=3", "maxpool size=2 stride=2 padding=5"),
    "maxpool_depth that does not divide": net(6, 5, 3, f"{CONV} filters=7", "maxpool maxpool_depth=1 out_channels=3"),
    "wider map added by weights": net(
        5, 4, 3, f"{CONV} filters=9", f"{CONV} filters=4",
        "shortcut from=0 weights_type=per_channel weights_normalization=relu",
    ),
    "head in the middle": net(
        6, 6, 3, "convolutional filters=16 size=1 activation=linear", "yolo classes=3 num=2 anchors=1,2,3,4",
        f"{CONV} filters=4", "route layers=-1,1",
    ),
    "antialiasing of a pooling": net(
        17, 18, 3, f"{CONV} filters=6", "maxpool size=2 stride=2 antialiasing=1", f"{CONV} filters=4",
        "maxpool size=3 stride=2 antialiasing=2", f"{CONV} filters=4",
    ),
}  # fmt: skip
CASES = SYNTHETIC | MORE | {f"activation {name}": everywhere(name) for name in ACTIVATIONS}


@pytest.mark.parametrize("name", CASES)
def test_every_layer_agrees_with_the_reference(name: str, tmp_path: Path) -> None:
    reference = load(CASES[name], random_weights(CASES[name], seed=7))
    network = loaded(CASES[name], tmp_path)
    images = images_for(network.graph)
    with torch.inference_mode():
        taps = network(images, taps=range(len(network.graph))).taps
    for number, image in enumerate(images.numpy()):
        for index, expected in enumerate(forward(reference, image)):
            difference = relative(taps[index][number], expected)
            assert difference <= 1e-5, f"layer {index} ({network.graph[index].name}): {difference:.2e}"


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_of_the_graph(name: str, tmp_path: Path) -> None:
    network = loaded(CASES[name], tmp_path)
    with torch.inference_mode():
        taps = network(images_for(network.graph, batch=1), taps=range(len(network.graph))).taps
    for layer in network.graph:
        shape = layer.kind.seen_after(layer.output)
        expected = (shape.c, shape.h, shape.w) if shape.is_map else (shape.outputs,)
        assert tuple(taps[layer.index].shape) == (1, *expected), f"layer {layer.index} ({layer.name})"


def test_fused_and_channels_last_compute_the_same(tmp_path: Path) -> None:
    for name in ("convolution", "flipped and binary", "share_index", "gates", "connected", "reorder", "route", "local"):
        plain, other = loaded(CASES[name], tmp_path), loaded(CASES[name], tmp_path, channels_last=True)
        other.fuse()
        everything = range(len(plain.graph))
        images = images_for(plain.graph)
        with torch.inference_mode():
            ours, theirs = other(images, taps=everything).taps, plain(images, taps=everything).taps
        for index in everything:
            assert relative(ours[index], theirs[index]) <= 1e-5, (name, index)


def test_every_kind_has_a_module() -> None:
    """The list of kinds that can be run; a new kind has to be added here and to the modules."""
    kinds = set(KINDS.values())
    untrainable = kinds - set(MODULES)
    assert {kind.names[0] for kind in untrainable} == {"crnn", "rnn", "gru", "lstm", "conv_lstm", "history"}
    tested = {layer.kind.__class__ for text in CASES.values() for layer in graph_of(text)}
    assert set(MODULES) - tested == {KINDS["contrastive"]}


def xnor_text(keys: str) -> str:
    return net(
        9, 7, 3, f"{CONV} filters=32", f"convolutional xnor=1 filters=5 size=3 pad=1 {keys}", f"{CONV} filters=2"
    )


@pytest.mark.parametrize("keys", ["batch_normalize=1 activation=leaky", "activation=relu", "bin_output=1 stride=2"])
def test_xnor_takes_signs_and_pads_with_minus_one(keys: str, tmp_path: Path) -> None:
    network = loaded(xnor_text(keys), tmp_path)
    with torch.inference_mode():
        taps = network(images_for(network.graph), taps=(0, 1)).taps
    module = network.layers[1]
    weights, biases = module.weights.double(), module.biases.double()
    if module.has_batch_norm:
        slope = module.scales.double() / (module.rolling_variance.double() + 1e-5).sqrt()
        weights, biases = weights * slope.view(-1, 1, 1, 1), biases - slope * module.rolling_mean.double()
    scale = weights.abs().mean(dim=(1, 2, 3))
    signs = torch.nn.functional.pad(torch.where(taps[0] > 0, 1.0, -1.0), [1] * 4, value=-1.0)
    counted = torch.nn.functional.conv2d(
        signs.double(), torch.where(weights > 0, 1.0, -1.0).double(), stride=module.stride
    )
    expected = counted * scale.view(-1, 1, 1) + biases.view(-1, 1, 1)
    if "activation" in keys:
        expected = torch.where(expected > 0, expected, expected * (0.1 if "leaky" in keys else 0))
    assert relative(taps[1], expected.detach()) <= 1e-5


def test_xnor_trains_its_weights(tmp_path: Path) -> None:
    network = loaded(xnor_text("batch_normalize=1 activation=leaky"), tmp_path).train()
    network(images_for(network.graph)).output.square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_implicit_values_fill_the_batch(tmp_path: Path) -> None:
    network = loaded(net(4, 4, 3, f"{CONV} filters=5", "implicit filters=5", "avgpool", "route layers=-1,1"), tmp_path)
    assert network(images_for(network.graph, batch=3)).output.shape == (3, 10, 1, 1)


def test_softmax_may_be_spatial(tmp_path: Path) -> None:
    network = loaded(net(4, 4, 3, f"{CONV} filters=5", "softmax spatial=1"), tmp_path)
    output = network(images_for(network.graph)).output
    assert torch.allclose(output.reshape(2, 5, 16).sum(dim=1), torch.ones(2, 16))


def test_values_instead_of_an_image(tmp_path: Path) -> None:
    text = "[net]\ninputs=6\n[connected]\noutput=4\nactivation=linear\n[softmax]\n"
    values = np.random.default_rng(0).uniform(0, 1, 6).astype(np.float32)
    with open_text(text, tmp_path) as weights:
        network = Network(weights.graph)
        load_weights(network, weights)
    expected = forward(load(text, random_weights(text, seed=7)), values)[-1]
    assert relative(network(torch.from_numpy(values[None])).output.detach(), expected) <= 1e-6


def test_a_kernel_larger_than_its_map_sees_zeros() -> None:
    """C's division rounds towards zero: 3 rows of kernel over 2 rows of map are one position, as long as stride > 1."""
    network = Network(graph_of(net(4, 2, 3, "convolutional filters=4 size=3 stride=2 activation=linear")))
    initialise(network, 1)
    images = images_for(network.graph)
    below = torch.nn.functional.pad(images, (0, 0, 0, 1))
    module = network.layers[0]
    expected = torch.nn.functional.conv2d(below, module.weights, module.biases, stride=2)
    assert torch.equal(network(images).output, expected)
    assert network.graph[0].output.h == 1
