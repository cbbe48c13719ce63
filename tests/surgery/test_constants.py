"""What removed channels leave behind: means, preimages, constants at every tap."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from reference import forward, load

from darkprune.graph.channels import map_channels
from darkprune.layers.activations import activate
from darkprune.surgery.constants import carrier_constants, removed_constants

from .cutting import opened
from .expectation import mean_activation
from .networks import cfg, tensors_of

CONV = "convolutional size=1 batch_normalize=1 activation={} filters={}"


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
    "depthwise flipped": ["convolutional groups=8 filters=8 size=2 activation=leaky flipped=1"],
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
