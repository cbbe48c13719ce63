"""ThiNet's greedy order and factors, EagleEye's candidates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DETECTOR, write_images, write_pair

from darkprune.cli.main import main
from darkprune.data.samples import Samples, read_samples
from darkprune.graph.channels import map_channels
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.network.loading import batches_for, load_network
from darkprune.network.modules.convolution import Convolution
from darkprune.progress import ProgressEvent, reporting
from darkprune.refit.least_squares import NormalEquations
from darkprune.scores.thinet import _costs, greedy_order, score_by_reconstruction
from darkprune.search.eagle_eye import search_allocation
from darkprune.search.goal import Goal
from darkprune.search.rounds import rank_in_rounds
from darkprune.selection.budget import parse_budget
from darkprune.selection.decide import decide
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection

CPU = torch.device("cpu")


def test_greedy_takes_pairs_that_cancel() -> None:
    losses = np.array([[1.0, 0, 0], [0, 1.1, 0], [-1.05, 0, 0.1]])  # the first and the last nearly cancel
    order = greedy_order(losses @ losses.T)
    assert order.tolist() == [0, 2, 1]
    assert greedy_order(np.zeros((0, 0))).tolist() == []


@pytest.mark.parametrize("layer", [3, 6, 7])
def test_costs_are_what_the_consumer_loses(weights: NetworkWeights, samples: Samples, layer: int) -> None:
    network = load_network(weights)
    channels = map_channels(weights.graph)
    costs = list(_costs(network, channels, samples.fit))
    read = channels.inputs(weights.graph[layer])
    module = network.layers[layer]
    assert isinstance(module, Convolution)
    maps = [network(images, {layer - 1}).taps[layer - 1] for images in batches_for(network, samples.fit)]
    x = torch.cat(maps).double()
    slope = (module.scales / torch.sqrt(module.rolling_variance + 1e-5)).double() if module.has_batch_norm else 1.0
    module.double()

    def lost(chosen: list[int]) -> float:
        part = torch.zeros_like(x)
        part[:, chosen] = x[:, chosen]
        y = module.convolve(part, module.kernel(), None)
        y = y - y.mean((0, 2, 3), keepdim=True)  # constants are folded: at the border too, to be exact
        return float((y * (slope.view(-1, 1, 1) if module.has_batch_norm else 1.0)).square().sum())

    size = len(read) // module.groups
    classes, cost = costs[[1, 3, 6, 7].index(layer)]  # of a grouped convolution its first block
    assert classes.tolist() == read[:size].tolist()
    whole = lost(list(range(len(read))))
    for first, second in combinations(range(0, size, 3), 2):
        expected = lost([first, second]) / whole
        assert cost[np.ix_([first, second], [first, second])].sum() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_scores_are_the_order_within_each_layer(weights: NetworkWeights, samples: Samples) -> None:
    found = score_by_reconstruction(weights, map_channels(weights.graph), samples.fit)
    assert sorted(found.scores[1].values.tolist()) == pytest.approx([(n + 0.5) / 24 for n in range(24)])
    assert np.array_equal(found.scores[0].values, found.scores[3].values)  # coupled
    assert 2 in found.measured


def test_factors_are_found(weights: NetworkWeights) -> None:
    module = load_network(weights).layers[6]
    assert isinstance(module, Convolution)
    x = torch.rand(16, 12, 16, 16, generator=torch.Generator().manual_seed(3))
    factors = torch.linspace(-0.5, 0.5, 12)
    target = module.convolve(x, module.kernel() * factors.view(1, -1, 1, 1), None) + 0.25
    equations = NormalEquations(module, 16 * 64)
    equations.add(x, target)
    change, offset = equations.solve_scales(1e-8)
    torch.testing.assert_close(change.float(), module.kernel() * factors.view(1, -1, 1, 1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(offset.float(), torch.full((16,), 0.25), rtol=1e-2, atol=1e-3)


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[NetworkWeights]:
    """Wide enough inside the unit that budgets are met."""
    with write_pair(tmp_path, DETECTOR.replace("=24", "=96")) as pair:
        yield pair


def test_rounds_end_in_one_plan(wide: NetworkWeights, images: Path) -> None:
    weights, samples = wide, read_samples(images, wide.graph)
    settings = Selection(criterion="sensitivity", allocation="global", min_channels=2, exclude=(0, 6, 7))
    budget = parse_budget("params", "0.8", totals(weights.graph))
    events: list[ProgressEvent] = []
    with reporting(events.append):
        ranking = rank_in_rounds(weights, settings, samples, Goal(budget=budget, rounds=3))
    assert [event.done for event in events] == [0, 1, 2, 3]
    assert {-2.0, -1.0} >= {score for score in ranking.members.score.tolist() if score < 0} != set()
    decision = decide(ranking, within_budget(ranking, settings, budget))
    slim = decision.graph
    assert abs(slim.params / weights.graph.params - 0.8) < 0.01
    # what went on the way stays gone
    gone = ranking.members.label[ranking.members.score < 0]
    assert decision.cut.keep[gone].mean() < 0.1


@pytest.mark.slow
def test_the_best_candidate_is_kept(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 16)
    with write_pair(tmp_path, DETECTOR) as weights:
        samples = read_samples(images, weights.graph)
        budget = parse_budget("params", "0.8", totals(weights.graph))
        settings = Selection(criterion="l1", min_channels=2)
        goal = Goal(budget=budget, candidates=4)
        found = search_allocation(weights, settings, samples, goal)
        assert 1 <= len(found.candidates) <= 4
        distances = [candidate.loss for candidate in found.candidates]
        assert distances == sorted(distances)
        assert found.selection.ratios == found.candidates[0].ratios
        slim = decide(found.ranking, found.selection).graph
        assert abs(slim.params / weights.graph.params - 0.8) < 0.02
        # in processes the same candidates come out, and the same one is kept
        events: list[ProgressEvent] = []
        with reporting(events.append):
            again = search_allocation(weights, settings, samples, replace(goal, jobs=2))
        assert (events[-1].done, events[-1].total) == (4, 4)
        assert again.selection == found.selection
        assert [each.ratios for each in again.candidates] == [each.ratios for each in found.candidates]
        assert [each.loss for each in again.candidates] == pytest.approx(distances, rel=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        ["--criterion", "thinet", "--ratio", "0.3", "--recover", "scale"],
        ["--criterion", "sensitivity", "--rounds", "2", "--target-params", "0.9", "--recover", "lsq"],
        ["--criterion", "l1", "--target-params", "0.8", "--candidates", "3", "--jobs", "2", "--recover", "bn"],
    ],
)
def test_from_the_command_line(
    wide: NetworkWeights, images: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [wide.graph.cfg.source, str(wide.file.path)]
    output = tmp_path / "slim"
    more += ["--images", str(images), "--min-channels", "2", "--exclude", "0,6,7"]
    assert main(["prune", *pair, "-o", str(output), *more]) == 0
    assert json.loads((output / "report.json").read_text())["recovery"]["how"] == more[more.index("--recover") + 1]
    assert "next: darkprune verify" in capsys.readouterr().out
    assert main(["verify", *pair, str(output / "net.cfg"), str(output / "net.weights")]) == 0
    how = more[more.index("--recover") + 1]
    assert f"the weights were refitted ({how}), so that numbers are not compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more",
    [
        ["--candidates", "3", "--ratio", "0.2"],
        ["--candidates", "0", "--target-macs", "0.9"],
        ["--candidates", "3", "--target-macs", "0.9", "--jobs", "0"],
        ["--candidates", "3", "--target-macs", "0.9", "--jobs", "2", "--similarity", "0.9"],
        ["--rounds", "2", "--target-macs", "0.9"],
        ["--rounds", "2", "--ratio", "0.2", "--criterion", "sensitivity"],
        ["--candidates", "3", "--target-macs", "0.9", "--criterion", "thinet"],
    ],
)
def test_a_search_needs_a_budget(weights: NetworkWeights, images: Path, tmp_path: Path, more: list[str]) -> None:
    pair = [weights.graph.cfg.source, str(weights.file.path)]
    assert main(["prune", *pair, "-o", str(tmp_path / "slim"), "--images", str(images), *more]) == 2
