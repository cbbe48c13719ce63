"""Activations: their values, means and variances under a normal input, and preimages."""

from __future__ import annotations

import numpy as np
import pytest
from reference.arithmetic import ACTIVATIONS

from darkprune.layers.activations import (
    CARRIER_SHIFT,
    FUNCTIONS,
    HINGES,
    activate,
    mean_under_normal,
    normalised,
    preimage,
    variance_under_normal,
)
from tests.surgery.cutting import ROUGH
from tests.surgery.expectation import mean_activation


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
    assert CARRIER_SHIFT[name] == (0 if name == "logistic" else 1)
    value = float(activate(name, np.array([CARRIER_SHIFT[name]]))[0])
    assert abs(value) > 0.3 if name != "loggy" else value > 0.3


def test_variance_under_normal() -> None:
    """Of a rectified normal E[y²] − E[y]² = ½ − 1/2π."""
    scale, shift = np.array([2.0, -2.0]), np.array([3.0, 3.0])
    assert variance_under_normal("linear", scale, shift) == pytest.approx([4, 4])
    assert variance_under_normal("relu", np.ones(1), np.zeros(1)) == pytest.approx([0.5 - 0.5 / np.pi], abs=0.02)
    assert variance_under_normal("mish", np.zeros(2), np.array([-1.0, 2.0])) == pytest.approx([0, 0], abs=1e-12)


def test_a_name_that_darknet_does_not_know_is_relu() -> None:
    names = ["mish", "silu", "normalize_channels"]
    assert [normalised(name) for name in names] == ["mish", "relu", "normalize_channels"]
