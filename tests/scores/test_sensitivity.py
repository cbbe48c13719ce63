"""Gate effects against a network whose derivatives can be written down, operations by hand, samples, the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DETECTOR, write_images, write_pair
from torch import Tensor

from darkprune.data.samples import Samples, read_samples
from darkprune.errors import DataError, PlanError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network, NetworkOutput
from darkprune.network.loading import batches_for, load_network
from darkprune.network.readout import read_out
from darkprune.scores.sensitivity import class_macs, gate_effects, mean_outputs, score_by_effect
from darkprune.selection.budget import parse_budget
from darkprune.selection.decide import decide, rank
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay

CPU = torch.device("cpu")
SETTINGS = Selection(criterion="sensitivity", allocation="global", min_channels=2)

#: one value per image and channel: every derivative is a weight times what the channel has beyond its mean
ONE_PIXEL = """[net]
width=4
height=4
channels=3
[convolutional]
filters=5
size=4
stride=4
pad=0
activation=linear
[convolutional]
filters=1
size=1
activation=linear
"""

#: channel 0 is read at two depths, once through a depthwise layer
TWO_SITES = """[net]
width=4
height=4
channels=3
[convolutional]
filters=4
size=4
stride=4
pad=0
activation=linear
[convolutional]
filters=4
size=1
activation=linear
[shortcut]
from=0
activation=linear
[convolutional]
filters=1
size=1
activation=linear
"""


def test_effect_of_a_gate_by_hand(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 10, size=4)
    with write_pair(tmp_path, ONE_PIXEL) as weights:
        sample = read_samples(images, weights.graph).fit
        network = load_network(weights)
        channels = map_channels(weights.graph)
        means = mean_outputs(network, sample)
        effects = gate_effects(network, channels, means, sample)
        maps = [network(batch, {0}).taps[0][:, :, 0, 0] for batch in batches_for(network, sample)]
        x = torch.cat(maps).double().numpy()
        read = weights.read(weights.graph[1], "weights").reshape(5)
    np.testing.assert_allclose(means[0], x.mean(0), rtol=1e-5, atol=1e-7)
    expected = np.square(read * (x - x.mean(0))).mean(0)  # the probe's sign does not show in the square
    np.testing.assert_allclose(effects[channels.of_layer[0]], expected, rtol=1e-4)
    assert effects[channels.of_layer[1]] == 0  # nobody reads the output


def test_sites_of_a_class_are_summed_before_squaring(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 10, size=4)
    with write_pair(tmp_path, TWO_SITES) as weights:
        sample = read_samples(images, weights.graph).fit
        network = load_network(weights)
        channels = map_channels(weights.graph)
        effects = gate_effects(network, channels, mean_outputs(network, sample), sample)
        taps = [network(batch, {0, 2}).taps for batch in batches_for(network, sample)]
        x, y = (torch.cat([t[i][:, :, 0, 0] for t in taps]).double().numpy() for i in (0, 2))
        inner = np.float64(weights.read(weights.graph[1], "weights").reshape(4, 4))
        outer = np.float64(weights.read(weights.graph[3], "weights").reshape(4))
    first = (outer @ inner) * (x - x.mean(0))  # read by layer 1
    second = outer * (y - y.mean(0))  # read by layer 3
    assert channels.of_layer[0].tolist() == channels.of_layer[1].tolist()
    np.testing.assert_allclose(effects[channels.of_layer[0]], np.square(first + second).mean(0), rtol=1e-4)


def test_operations_of_a_class_by_hand(weights: NetworkWeights) -> None:
    channels = map_channels(weights.graph)
    macs = class_macs(channels)
    stream = 3 * 9 * 256 + 24 * 256 + 24 * 256 + 16 * 9 * 64  # made by 0 and 3; read by 1 and 6
    assert macs[channels.of_layer[0]].tolist() == [stream] * 12
    inner = 12 * 256 + 9 * 256 + 12 * 256  # made by 1, filtered by 2, read by 3
    assert macs[channels.of_layer[1]].tolist() == [inner] * 24


def test_what_a_head_says(weights: NetworkWeights) -> None:
    raw = torch.randn(2, 18, 4, 4)
    found = read_out(weights.graph, NetworkOutput({10: raw}, {}, raw))
    cells = raw.reshape(2, 3, 6, 16)
    objectness = torch.sigmoid(cells[:, :, 4:5])
    box = torch.cat([torch.sigmoid(cells[:, :, :2]), cells[:, :, 2:4]], 2)
    torch.testing.assert_close(found.scores, (objectness * torch.sigmoid(cells[:, :, 5:])).flatten(1))
    torch.testing.assert_close(found.boxes, (box * objectness).flatten(1))


@pytest.mark.parametrize(
    ("head", "values"),
    [
        ("[Gaussian_yolo]\nmask=0,1\nanchors=4,4, 8,8\nnum=2\nclasses=2\n", 11),
        ("[region]\nanchors=1,1, 2,2\nnum=2\nclasses=2\ncoords=4\nsoftmax=1\n", 7),
        ("[region]\nanchors=1,1, 2,2\nnum=2\nclasses=2\ncoords=4\n", 7),
        ("[yolo]\nmask=0,1\nanchors=4,4, 8,8\nnum=2\nclasses=2\nnew_coords=1\n", 7),
    ],
)
def test_every_head_says_something(tmp_path: Path, head: str, values: int) -> None:
    text = f"[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters={2 * values}\nsize=1\n{head}"
    (tmp_path / "head.cfg").write_text(text)
    graph = read_graph(tmp_path / "head.cfg")
    raw: Tensor = torch.rand(2, 2 * values, 8, 8)
    found = read_out(graph, NetworkOutput({1: raw}, {}, raw))
    assert found.scores.shape == (2, 2 * 2 * 64)
    assert found.boxes.shape == (2, 2 * 4 * 64)
    assert bool((found.scores >= 0).all() and (found.scores <= 1).all())


def test_measured_means_are_what_a_plan_replays(weights: NetworkWeights, samples: Samples, tmp_path: Path) -> None:
    ranking = rank(weights, SETTINGS, by_images=lambda pair, channels: score_by_effect(pair, channels, samples.fit))
    settings = within_budget(ranking, SETTINGS, parse_budget("macs", "0.9", totals(weights.graph)))
    decision = decide(ranking, settings)
    slim = decision.graph
    assert abs(slim.macs / weights.graph.macs - 0.9) < 0.01
    decision = decide(ranking, replace(SETTINGS, ratio=0.5))
    assert 2 in decision.plan.measured  # a depthwise layer's mean does not follow from its feeder's
    (tmp_path / "plan.json").write_text(decision.plan.dumps())
    plan = read_plan(tmp_path / "plan.json")
    again = replay(weights, plan, ("", ""))
    written = []
    for number, surgery in enumerate((decision, again)):
        path = tmp_path / f"{number}.weights"
        with path.open("wb", buffering=0) as file:
            surgery.write_weights(file)
        written.append(np.frombuffer(path.read_bytes()[20:], np.float32))
    np.testing.assert_allclose(written[0], written[1], rtol=1e-5, atol=1e-6)


def test_constants_that_do_not_fit_are_refused(weights: NetworkWeights, samples: Samples, tmp_path: Path) -> None:
    ranking = rank(weights, SETTINGS, by_images=lambda pair, channels: score_by_effect(pair, channels, samples.fit))
    data = decide(ranking, replace(SETTINGS, ratio=0.5)).plan.dumps()
    bad = tmp_path / "plan.json"
    for values in ("[1.0, 2.0]", '["x"]', "3"):
        bad.write_text(data.replace('"constants": {', f'"constants": {{"5": {values}, ', 1))
        with pytest.raises(PlanError):
            replay(weights, read_plan(bad), ("", ""))


def test_scores_are_the_same_again(weights: NetworkWeights, samples: Samples) -> None:
    channels = map_channels(weights.graph)
    first, second = (score_by_effect(weights, channels, samples.fit) for _ in range(2))
    for layer, scores in first.scores.items():
        np.testing.assert_allclose(scores.values, second.scores[layer].values, rtol=1e-4)


def test_numbers_that_are_none_are_refused(tmp_path: Path, images: Path) -> None:
    def spoil(network: Network) -> None:
        network.layers[9].biases[0] = float("nan")

    with write_pair(tmp_path, DETECTOR, edit=spoil) as weights:
        samples = read_samples(images, weights.graph)
        with pytest.raises(PlanError, match="NaN"):
            score_by_effect(weights, map_channels(weights.graph), samples.fit)


def test_images_that_cannot_be_read_are_left_out(weights: NetworkWeights, images: Path) -> None:
    (images / "000.png").write_bytes(b"no image")
    samples = read_samples(images, weights.graph)
    assert len(samples.fit) + len(samples.held_out) == 31
    assert "000.png" in samples.unreadable[0]


def test_a_list_of_images(weights: NetworkWeights, images: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(path) for path in sorted(images.iterdir())[:8]))
    samples = read_samples(listed, weights.graph)
    assert len(samples.fit) + len(samples.held_out) == 8


def test_no_images(weights: NetworkWeights, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        read_samples(tmp_path / "nowhere", weights.graph)
    with pytest.raises(DataError, match="one image"):
        read_samples(images / "001.png", weights.graph)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"x")
    (tmp_path / "bad" / "b.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"0 images .* at least 2"):
        read_samples(tmp_path / "bad", weights.graph)
