"""What removal costs after a refit: against least squares done anew, and against autograd."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import DETECTOR, write_pair

from darkprune.cli.main import main
from darkprune.data.samples import Samples
from darkprune.graph.channels import map_channels
from darkprune.graph.weights import NetworkWeights
from darkprune.scores.removal import Consumer, removal_prices
from darkprune.scores.surgeon import score_by_surgeon


def reader(seed: int, channels: int = 6, taps: int = 1, outputs: int = 4) -> tuple[Consumer, np.ndarray, np.ndarray]:
    """Returns a reader of channels 0… that makes others, its covariance and its filters (c, taps·n)."""
    random = np.random.default_rng(seed)
    root = random.standard_normal((channels, channels))
    covariance = root @ root.T + 0.1 * np.eye(channels)
    filters = random.standard_normal((channels, taps, outputs)).astype(np.float32)
    made = np.arange(channels, channels + outputs)
    inverse = torch.from_numpy(np.linalg.inv(covariance))
    rows = filters.reshape(channels, -1).astype(np.float64)
    return Consumer(np.arange(channels), made, inverse, torch.from_numpy(filters)), covariance, rows


def left_over(covariance: np.ndarray, filters: np.ndarray, gone: list[int]) -> float:
    """Returns the mean square of what the channels that stay cannot explain, fitted anew."""
    kept = [channel for channel in range(len(covariance)) if channel not in gone]
    missing = filters[gone]
    cross = covariance[np.ix_(kept, gone)] @ missing
    change = np.linalg.solve(covariance[np.ix_(kept, kept)], cross) if kept else np.zeros_like(cross)
    own = (missing * (covariance[np.ix_(gone, gone)] @ missing)).sum()
    return float(own - (change * cross).sum())


@given(st.integers(0, 2**32), st.permutations(range(6)), st.sampled_from([1, 9]))
@settings(max_examples=20, deadline=None)
def test_costs_add_up_to_what_a_new_fit_leaves(seed: int, order: list[int], taps: int) -> None:
    block, covariance, filters = reader(seed, taps=taps)
    spent = 0.0
    for number, channel in enumerate(order[:5]):
        spent += float(block.costs()[channel])
        block.lose(channel)
        assert spent == pytest.approx(left_over(covariance, filters, order[: number + 1]), rel=1e-3)
    assert np.count_nonzero(block.costs()) == 1


def test_the_second_of_two_doubles_is_dear() -> None:
    block, _, _ = reader(0)
    covariance = np.diag([1.0, 1, 1, 1, 1, 1])
    covariance[0, 1] = covariance[1, 0] = 0.999
    block.inverse = torch.from_numpy(np.linalg.inv(covariance + 1e-6 * np.eye(6)))
    block.filters = torch.full((6, 1, 4), 0.1)
    block.filters[:2] = 1.0
    prices = removal_prices([block], np.arange(10) < 6, np.ones(10))
    assert prices.argmin() in (0, 1)
    assert {int(place) for place in np.argsort(prices)[:6][[0, -1]]} == {0, 1}
    assert np.isinf(prices[6:]).all()


def test_filters_whose_output_went_no_longer_count() -> None:
    first, _, _ = reader(1)
    second, _, _ = reader(2, channels=4)
    second.read = first.produced  # a chain
    second.filters[:] = 0
    prices = removal_prices([first, second], np.arange(10) >= 0, np.ones(10))
    assert (np.sort(np.argsort(prices)[:4]) == first.produced).all()  # they cost nothing
    assert prices.max() < 1e-12  # and without them nothing else does


def test_scores_of_a_network(weights: NetworkWeights, samples: Samples) -> None:
    scores = score_by_surgeon(weights, map_channels(weights.graph), samples.fit)
    assert all(np.isfinite(entry.values).all() for entry in scores.scores.values())
    coupled = [scores.scores[layer].values for layer in (0, 3)]
    assert np.array_equal(*coupled)


def test_sensitivity_is_what_recovery_leaves(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = {}
    with write_pair(tmp_path, DETECTOR) as weights:
        pair = [weights.graph.cfg.source, str(weights.file.path), "--images", str(images), "--min-channels", "2"]
        for criterion in ("sensitivity", "first-order", "surgeon"):
            for how in ("none", "lsq"):
                out = tmp_path / f"{criterion}-{how}"
                more = ["--ratio", "0.4", "--criterion", criterion, "--recover", how, "--json", "-o", str(out)]
                assert main(["prune", *pair, *more]) == 0
                plans[criterion, how] = json.loads((out / "plan.json").read_text())["layers"]
                capsys.readouterr()
    assert plans["sensitivity", "none"] == plans["first-order", "none"] == plans["first-order", "lsq"]
    assert plans["sensitivity", "lsq"] == plans["surgeon", "lsq"] == plans["surgeon", "none"]
    assert plans["first-order", "lsq"] != plans["surgeon", "lsq"]
