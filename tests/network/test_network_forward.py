"""What a forward pass gives and keeps, other sizes, training mode, and what is refused."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path

import pytest
import torch
from reference.test_against_darknet import CONV, net
from torch import nn

from darkprune.errors import GraphError, TrainingError, WeightsError
from darkprune.network import BN_MOMENTUM, Network, initialise, tensor_of

from .building import DETECTOR, graph_of, images_for, loaded, relative


def test_output_has_raw_heads_and_the_taps_asked_for(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path)
    result = network(images_for(network.graph), taps=[3, 11, 12])
    assert list(result.heads) == [12, 15]
    assert [tuple(head.shape) for head in result.heads.values()] == [(2, 16, 16, 16), (2, 16, 8, 8)]
    assert sorted(result.taps) == [3, 11, 12]
    assert torch.equal(result.heads[12], result.taps[11])
    assert torch.equal(result.output, result.heads[15])
    assert torch.equal(result.taps[12], network.layers[12](result.heads[12]))
    assert not torch.equal(result.taps[12], result.heads[12])


def test_a_trailing_cost_is_not_the_output(tmp_path: Path) -> None:
    network = loaded(net(4, 4, 3, f"{CONV} filters=5", "avgpool", "softmax", "cost"), tmp_path)
    result = network(images_for(network.graph), taps=[2])
    assert torch.equal(result.output, result.taps[2])
    assert result.output.shape == (2, 5)


def test_maps_are_freed_behind_their_last_reader(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path)
    made: dict[int, weakref.ref[torch.Tensor]] = {}
    alive: dict[int, set[int]] = {}

    def watch(index: int) -> None:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            alive[index] = {i for i, reference in made.items() if reference() is not None}
            made[index] = weakref.ref(output)

        network.layers[index].register_forward_hook(hook)

    for layer in network.graph:
        watch(layer.index)
    with torch.inference_mode():
        network(images_for(network.graph))
    assert alive[7] == {3, 6}  # layer 3 is read again by the route of layer 10
    assert alive[11] == {8, 10}


def test_other_input_sizes_than_the_cfg_says(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path)
    wide = images_for(graph_of(DETECTOR.replace("width=32", "width=64")))
    heads = network(wide).heads
    assert heads[15].shape == (2, 16, 8, 16)
    same = loaded(DETECTOR.replace("width=32", "width=64"), tmp_path)
    assert relative(heads[15].detach(), same(wide).heads[15].detach()) == 0


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (DETECTOR, (3, 34, 32), "different sizes"),
        (DETECTOR, (1, 32, 32), "takes images of 3 channels"),
        (DETECTOR, (32,), "takes images of 3 channels"),
        (net(8, 8, 3, "connected output=4"), (3, 16, 8), "made for that size"),
        (net(8, 8, 3, "local filters=4 size=3"), (3, 16, 8), "made for that size"),
        (net(8, 8, 8, "reorg stride=2"), (8, 8, 9), "does not divide"),
        (net(8, 8, 3, "crop crop_width=8 crop_height=8"), (3, 6, 8), "cannot crop"),
        ("[net]\ninputs=6\n[connected]\n", (7,), "takes 6 values"),
    ],
)
def test_images_that_do_not_fit_are_refused(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises((GraphError, TrainingError), match=message):
        Network(graph_of(text)).eval()(torch.zeros(1, *shape))


def test_a_tap_that_is_not_there_is_refused(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path)
    with pytest.raises(GraphError, match="no layer 16 to tap"):
        network(images_for(network.graph), taps=[16])


@pytest.mark.parametrize("section", ["crnn", "rnn", "gru", "lstm", "conv_lstm", "history"])
def test_recurrent_kinds_are_refused(section: str) -> None:
    with pytest.raises(TrainingError, match=rf"layer 1 \({section}, line \d+\).*cannot be trained here"):
        Network(graph_of(net(8, 8, 3, f"{CONV} filters=3", section)))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([f"{CONV} filters=4", "maxpool size=2 stride=2", "shortcut from=0"], "maps of different sizes"),
        ([f"{CONV} filters=4 dilation=2 padding=2".replace("pad=1 ", "")], "dilation without pad=1"),
        (["local size=5 pad=1"], "misreads"),
        (["softmax tree=a.tree"], "tree"),
        ([f"{CONV} filters=6", "reorg stride=2"], "does not divide"),
    ],
)
def test_what_darknet_cannot_do_is_refused(sections: list[str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Network(graph_of(net(8, 8, 3, *sections)))


def test_region_with_a_tree_gives_its_raw_map() -> None:
    region = "region classes=3 num=2 tree=data/9k.tree softmax=1"
    network = Network(graph_of(net(4, 4, 3, "convolutional filters=16 size=1", region))).eval()
    images = images_for(network.graph)
    assert network(images).heads[1].shape == (2, 16, 4, 4)
    with pytest.raises(TrainingError, match="tree"):
        network(images, taps=[1])


def test_training_normalises_by_the_batch_and_moves_the_statistics(tmp_path: Path) -> None:
    text = net(6, 6, 3, "convolutional batch_normalize=1 filters=4 size=3 pad=1 activation=linear", "batchnorm")
    network = loaded(text, tmp_path).train()
    first, second = network.layers[0], network.layers[1]
    kept = [m.rolling_variance.clone() for m in (first, second)]
    images = images_for(network.graph, batch=3)
    taps = network(images, taps=[0, 1]).taps
    plain = nn.functional.conv2d(images, first.weights, padding=1)
    mean, variance = plain.mean((0, 2, 3)), plain.var((0, 2, 3), unbiased=True)
    normal = (plain - mean.view(-1, 1, 1)) / (plain.var((0, 2, 3), unbiased=False) + 1e-5).sqrt().view(-1, 1, 1)
    expected = normal * first.scales.view(-1, 1, 1) + first.biases.view(-1, 1, 1)
    assert relative(taps[0].detach(), expected.detach()) <= 1e-5
    moved = (1 - BN_MOMENTUM) * kept[0] + BN_MOMENTUM * variance
    assert torch.allclose(first.rolling_variance, moved, rtol=1e-5)
    assert not torch.equal(second.rolling_variance, kept[1])


def test_one_value_per_channel_cannot_be_normalised_in_training(tmp_path: Path) -> None:
    network = loaded(net(6, 6, 3, "avgpool", f"{CONV} filters=4"), tmp_path).train()
    with pytest.raises(TrainingError, match=r"layer 1 .*at least 2 images"):
        network(images_for(network.graph, batch=1))
    network(images_for(network.graph, batch=2))


def test_gradients_reach_every_parameter(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path).train()
    heads = network(images_for(network.graph)).heads
    sum(head.square().sum() for head in heads.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_overwriting_activations_leave_the_gradient_right(tmp_path: Path) -> None:
    """Leaky and relu overwrite the convolution's fresh output; numerical differentiation does not know that."""
    text = net(
        3, 3, 1, "convolutional filters=2 size=3 pad=1 activation=leaky", f"{CONV} filters=2", "shortcut from=-2",
        "convolutional filters=2 size=1 activation=relu",
    )  # fmt: skip
    network = loaded(text, tmp_path).double().train()
    images = images_for(network.graph, batch=2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network(x).output, (images,), eps=1e-7, atol=1e-5, fast_mode=True)


def test_dropout_drops_in_the_memory_of_its_input(tmp_path: Path) -> None:
    text = net(16, 16, 3, f"{CONV} filters=4", "dropout probability=.5", "route layers=0", "route layers=1")
    network = loaded(text, tmp_path)
    images = images_for(network.graph)
    quiet = network(images, taps=[0, 1, 2]).taps
    assert torch.equal(quiet[0], quiet[1])
    network.layers[1].train()
    taps = network(images, taps=[0, 1, 2]).taps
    assert torch.equal(taps[1], taps[2])
    dropped = taps[1] == 0
    assert 0.4 < dropped.float().mean() < 0.6
    assert torch.allclose(taps[1][~dropped], 2 * taps[0][~dropped])


def test_crop_moves_in_training_only(tmp_path: Path) -> None:
    network = loaded(net(40, 40, 3, "crop crop_width=8 crop_height=8 flip=1 noadjust=1"), tmp_path)
    images = images_for(network.graph)
    assert torch.equal(network(images).output, images[..., 16:24, 16:24])
    torch.manual_seed(0)
    assert len({network.train()(images).output[0, 0, 0, 0].item() for _ in range(5)}) > 1


def test_mixed_precision_gives_nearly_the_same(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path).train()
    images = images_for(network.graph, batch=4)
    full = network(images).heads[15].detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = network(images).heads[15]
    assert half.dtype == torch.bfloat16
    assert relative(half, full) <= 0.1
    half.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_fused_networks_are_for_inference(tmp_path: Path) -> None:
    network = loaded(DETECTOR, tmp_path)
    names = {name for name, _ in network.named_buffers()}
    assert network.fuse() is network
    assert names
    assert not dict(network.named_buffers())
    assert not network.fuse().training  # twice changes nothing
    with pytest.raises(TrainingError, match="cannot be trained"):
        network.train()
    with pytest.raises(TrainingError, match="start afresh"):
        initialise(network, 0)
    with pytest.raises(WeightsError, match=r"layer 0 .*no scales"):
        tensor_of(network, 0, "scales")


def test_copies_are_independent_and_share_among_themselves(tmp_path: Path) -> None:
    text = net(8, 8, 4, f"{CONV} filters=4", f"{CONV} filters=4 share_index=0")
    network = loaded(text, tmp_path)
    twin = copy.deepcopy(network)
    images = images_for(network.graph)
    before = network(images).output
    with torch.no_grad():
        twin.layers[0].weights.mul_(0)
    assert torch.equal(network(images).output, before)
    assert twin(images, taps=[1]).taps[1].std() < 1e-6 or not torch.equal(twin(images).output, before)
    assert len(list(network.parameters())) == 3  # the sharing layer has none of its own
    assert not list(network.layers[1].parameters())
