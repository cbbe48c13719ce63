"""What removed channels leave behind: means, preimages, constants at every tap."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from reference import forward, load
from reference.arithmetic import ACTIVATIONS

from darkprune.graph.channels import map_channels
from darkprune.layers.activations import CARRIER_SHIFT, FUNCTIONS, HINGES, activate, mean_under_normal, preimage
from darkprune.surgery.constants import carrier_constants, removed_constants

from .cutting import ROUGH, opened
from .expectation import mean_activation
from .networks import cfg, tensors_of

CONV = "convolutional size=1 batch_normalize=1 activation={} filters={}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_those_of_the_referee(name: str) -> None:
    x = np.concatenate([np.linspace(-9, 9, 721), [-30.0, -4.0, -2.0, 0.0, 1.0, 4.0, 6.0, 30.0]])
    assert activate(name, x) == pytest.approx(ACTIVATIONS[name](x), abs=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mean_under_normal_against_monte_carlo(name: str) -> None:
    z = np.random.default_rng(0).standard_normal(400_000)
    for scale, shift in [(0.3, 0.2), (1.0, -0.5), (-1.5, 0.8), (2.0, 1.5)]:
        drawn = activate(name, scale * z + shift)
        ours = float(mean_under_normal(name, np.array([scale]), np.array([shift]))[0])
        rough = 0.01 * abs(scale) if name in (*ROUGH, "stair") else 0
        assert abs(ours - drawn.mean()) <= 4 * drawn.std() / np.sqrt(len(z)) + rough, name


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"stair", *ROUGH}))
def test_mean_under_normal_against_quadrature(name: str) -> None:
    scales, shifts = (grid.ravel() for grid in np.meshgrid([0.01, 0.4, 1.1, -2], np.linspace(-3, 3, 7)))
    exact = [mean_activation(name, scale, shift) for scale, shift in zip(scales, shifts, strict=True)]
    assert np.abs(mean_under_normal(name, scales, shifts) - exact).max() < 1e-5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mean_without_spread_is_the_value(name: str) -> None:
    shifts = np.array([-7.0, -0.3, 0.0, 0.4, 2.0, 7.5])
    assert mean_under_normal(name, np.zeros(6), shifts) == pytest.approx(activate(name, shifts), abs=1e-12)


@pytest.mark.parametrize("name", HINGES)
def test_hinges_are_the_function(name: str) -> None:
    x = np.linspace(-9, 9, 721)
    slope, offset, kinks = HINGES[name]
    assert slope * x + offset + sum(c * np.maximum(x - k, 0) for k, c in kinks) == pytest.approx(activate(name, x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_preimage_of_every_mean(name: str) -> None:
    if name == "stair":  # jumps: not every value has one
        return
    scales, shifts = (grid.ravel() for grid in np.meshgrid([0, 0.5, 2], np.linspace(-3, 3, 13)))
    values = mean_under_normal(name, scales, shifts)
    assert activate(name, preimage(name, values)) == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("name", CARRIER_SHIFT)
def test_carriers_hold_something(name: str) -> None:
    value = float(activate(name, np.array([CARRIER_SHIFT[name]]))[0])
    assert abs(value) > 0.3 if name != "loggy" else value > 0.3


PATHS = {
    "pooling": ["maxpool size=3 stride=2", "local_avgpool size=2 stride=1", "upsample stride=2 scale=0.5"],
    "downsampling": ["upsample stride=-2"],
    "average": ["avgpool"],
    "crop": ["crop crop_height=4 crop_width=5"],
    "crop without adjustment": ["crop crop_height=4 crop_width=5 noadjust=1"],
    "batchnorm": ["batchnorm", "activation activation=swish"],
    "concatenation": ["maxpool size=2 stride=1", "route layers=0,1,0"],
    "slice": ["route layers=0 groups=2 group_id=1"],
    "reorg": ["reorg stride=2"],
    "reorg3d": ["reorg3d stride=2"],
    "depth": ["maxpool maxpool_depth=1 out_channels=8"],
    "addition": ["maxpool size=3 stride=1", "shortcut from=0,0 activation=leaky"],
    "weighted": ["dropout", "shortcut from=0 weights_type=per_feature weights_normalization=softmax"],
    "weighted channels": ["empty", "shortcut from=0,0 weights_type=per_channel weights_normalization=avg_relu"],
    "product": ["activation activation=logistic", "sam from=0 activation=tanh"],
    "squeeze": ["avgpool", "scale_channels from=0 activation=leaky"],
    "depthwise": ["convolutional groups=8 filters=16 size=3 activation=mish batch_normalize=1"],
    "depthwise without normalisation": ["convolutional groups=8 filters=8 size=2 activation=leaky"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "how"), [(path, how) for path in PATHS for how in ("mean", "beta") if (path, how) != ("depthwise", "mean")]
)
def test_constants_are_what_a_constant_network_computes(path: str, how: str) -> None:
    """With γ = 0 every channel is constant: the forward pass itself says what its value is at every tap."""
    text = cfg(CONV.format("mish", 8), *PATHS[path], CONV.format("leaky", 2))
    shift = np.linspace(-1, 2, 8)
    weights = tensors_of(text, {(0, "scales"): 0, (0, "biases"): shift}, seed=4)
    with opened(text, weights) as pair:
        channels = map_channels(pair.graph)
        found = removed_constants(pair, channels, np.ones(channels.count, bool), how)
    outputs = forward(load(text, weights), np.random.default_rng(0).normal(size=(3, 8, 8)))
    for index in range(len(PATHS[path]) + 1):
        assert np.ptp(outputs[index], axis=(1, 2)).max() < 1e-9
        assert found[index] == pytest.approx(outputs[index][:, 0, 0], abs=1e-6), index


def test_a_depthwise_layer_knows_its_channels_by_its_own_statistics() -> None:
    """Whatever comes in: the mean under its own normalisation, and no spread where its variance is 0."""
    text = cfg(CONV.format("mish", 8), *PATHS["depthwise"], CONV.format("leaky", 2))
    variance = np.where(np.arange(16) % 4 == 0, 0, np.linspace(1e-6, 2, 16)).astype(np.float32)
    weights = tensors_of(text, {(1, "rolling_variance"): variance}, seed=4)
    arrays = load(text, weights).layers[1].arrays
    with opened(text, weights) as pair:
        channels = map_channels(pair.graph)
        everything = np.ones(channels.count, bool)
        found = removed_constants(pair, channels, everything, "mean")[1]
        measured = removed_constants(pair, channels, everything, "mean", {1: np.arange(16.0)})[1]
    spread = arrays["scales"] * np.sqrt(np.float64(variance) / (variance + 1e-5))
    expected = [mean_activation("mish", *pair) for pair in zip(spread.tolist(), arrays["biases"].tolist(), strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[::4] == pytest.approx(activate("mish", np.float64(arrays["biases"][::4])), abs=1e-6)
    assert measured.tolist() == list(range(16))


def test_kept_channels_have_no_constant() -> None:
    text = cfg(CONV.format("mish", 4), "maxpool size=2 stride=2", CONV.format("leaky", 2))
    with opened(text, tensors_of(text, {})) as pair:
        channels = map_channels(pair.graph)
        gone = np.zeros(channels.count, bool)
        gone[[1, 3]] = True
        found = removed_constants(pair, channels, gone, "mean")
    assert np.isfinite(found[1]).tolist() == [False, True, False, True]
    assert not np.isfinite(found[2]).any()


def test_measured_constants_come_first() -> None:
    text = cfg(CONV.format("mish", 4), "upsample stride=2 scale=3", CONV.format("leaky", 2))
    with opened(text, tensors_of(text, {})) as pair:
        channels = map_channels(pair.graph)
        gone = np.arange(channels.count) < 2
        found = removed_constants(pair, channels, gone, "mean", {0: np.array([5.0, 6, 7, 8])})
    assert found[1][:2].tolist() == [15, 18]


def test_spatial_scale_leaves_the_mean_of_the_factor() -> None:
    scale = "convolutional filters=1 size=1 batch_normalize=1 activation=logistic"
    text = cfg(CONV.format("leaky", 4), scale, "scale_channels from=0 scale_wh=1", CONV.format("leaky", 2))
    weights = tensors_of(text, {(1, "scales"): 1.5, (1, "biases"): 0.7})
    with opened(text, weights) as pair, warnings.catch_warnings():
        warnings.simplefilter("error")
        channels = map_channels(pair.graph)
        gone = np.isin(np.arange(channels.count), channels.of_layer[0])
        found = removed_constants(pair, channels, gone, "mean")
        assert found[2] == pytest.approx(found[0] * mean_activation("logistic", 1.5, 0.7))
        assert np.isnan(found[1]).all()  # the factor itself stays
        kappa = carrier_constants(pair, channels, gone)
    assert not np.nan_to_num(kappa[2]).any()  # no carrier is constant behind it


def test_what_mixes_channels_leaves_no_constant() -> None:
    """A spatial factor that meets such an activation: nothing is known of it, and nothing is asked."""
    text = cfg(
        CONV.format("leaky", 3), CONV.format("logistic", 1), "scale_channels from=0 scale_wh=1", "route layers=1",
        CONV.format("leaky", 1), "shortcut from=-2 activation=normalize_channels_softmax",
    )  # fmt: skip
    with opened(text, tensors_of(text, {})) as weights:
        channels = map_channels(weights.graph)
        found = removed_constants(weights, channels, np.zeros(channels.count, bool), "mean")
    assert all(np.isnan(values).all() for values in found)
