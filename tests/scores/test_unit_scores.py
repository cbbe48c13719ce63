"""Residual units scored by how well they tell classes apart, and by what the outputs lose without them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import DETECTOR, write_images, write_pair

from darkprune.cli.main import main
from darkprune.data import read_dataset
from darkprune.data.loading import InputShape
from darkprune.data.samples import Sample
from darkprune.evaluation.of_graph import input_shape
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.network import Network
from darkprune.network.loading import load_network, run_of
from darkprune.scores.unit_scores import (
    _elsewhere,
    _in_network,
    _means,
    score_by_distance,
    score_by_separation,
    separation,
)
from darkprune.surgery.units import find_units

UNIT = """[convolutional]
filters=12
size=1
batch_normalize=1
activation=linear
[shortcut]
from=-2
activation=linear
"""


@given(st.integers(0, 2**32), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_separation_is_a_share(seed: int, names: int) -> None:
    random = np.random.default_rng(seed)
    classes = np.repeat(np.arange(names), 20)
    noise = random.standard_normal((len(classes), 12))
    centres = 50 * random.standard_normal((names, 12))
    assert separation(noise + centres[classes], classes) > 0.9
    apart = separation(noise, classes)
    assert 0 <= apart < 0.5
    assert separation(3 * noise - 7, classes) == pytest.approx(apart)  # no units, no origin
    assert separation(np.ones_like(noise), classes) == 0


def test_means_are_taken_over_boxes() -> None:
    values = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    boxes = np.array([[0.5, 0.5, 1, 1], [0.25, 0.25, 0.5, 0.5], [0.9, 0.1, 0.01, 0.01], [np.nan, 2, 0.1, 0.1]])
    expected = [values.mean((1, 2)), values[:, :2, :2].mean((1, 2)), values[:, 0, 3], values[:, 3, 0]]
    np.testing.assert_allclose(_means(values, boxes), expected)
    letterboxed = _in_network(np.array([[0.5, 0, 1, 0.5]]), (200, 100), InputShape(64, 64, 3, True))
    np.testing.assert_allclose(letterboxed, [[0.5, 0.25, 1, 0.25]])


def test_empty_places_are_empty() -> None:
    boxes = np.array([[0.25, 0.5, 0.5, 1.0], [0.9, 0.9, 0.2, 0.2]])
    found = _elsewhere(boxes, np.random.default_rng(0))
    assert len(found) > 0
    for x, y, _, _ in found:
        assert not any(abs(x - cx) < w / 2 and abs(y - cy) < h / 2 for cx, cy, w, h in boxes)
    assert len(_elsewhere(np.array([[0.5, 0.5, 2.0, 2.0]]), np.random.default_rng(0))) == 0


def colours(folder: Path) -> Path:
    """Writes images with a red and a blue square each, and their labels."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(16):
        image = random.integers(100, 140, (32, 32, 3), dtype=np.uint8)
        image[4:12, 4:12] = (255, 0, 0)
        image[20:28, 20:28] = (0, 0, 255)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        (folder / f"{number}.txt").write_text("0 .25 .25 .25 .25\n1 .75 .75 .25 .25\n")
    listed = folder.parent / "train.txt"
    listed.write_text("\n".join(map(str, sorted(folder.glob("*.png")))))
    return listed


def test_a_blind_unit_goes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def blind(network: Network) -> None:
        """The second unit gives 0 everywhere, though its γ is larger."""
        for tensor in (network.layers[6].weights, network.layers[6].biases, network.layers[6].rolling_mean):
            tensor.zero_()
        network.layers[6].scales.fill_(5.0)

    data = colours(tmp_path / "images")
    text = DETECTOR.replace(
        "[convolutional]\nfilters=16\nsize=3\nstride=2", UNIT + "[convolutional]\nfilters=16\nsize=3\nstride=2"
    )
    with write_pair(tmp_path, text, edit=blind) as weights:
        units = find_units(weights.graph)
        assert [unit.last for unit in units] == [5, 7]
        seeing, unseeing = score_by_separation(weights, units, read_dataset(data, "train"))
        assert seeing.score > 0.3
        assert unseeing.score < 0.05
        prune = ["prune", weights.graph.cfg.source, str(weights.file.path), "--units", "1", "--json"]
        images = ["--images", str(tmp_path / "images")]
        by_distance = ["--unit-score", "distance"]
        for name, more, last in (
            ("gamma", [], 5),
            ("separation", ["--unit-score", "separation", "--data", str(data)], 7),
            ("distance", [*by_distance, *images], 7),
        ):
            out = tmp_path / name
            assert main([*prune, *more, "-o", str(out)]) == 0
            plan = json.loads((out / "plan.json").read_text())
            assert plan["units"][0]["layers"][1] == last
    capsys.readouterr()
    for score, missing in ("separation", "--data"), ("distance", "--images"):
        assert main([*prune[:-1], "--unit-score", score, "-o", str(tmp_path / "x")]) == 2
        assert missing in capsys.readouterr().err
    without_units = [*prune[:3], "--target-macs", "0.8", *by_distance, *images, "-o", str(tmp_path / "x")]
    assert main(without_units) == 2
    assert "--units" in capsys.readouterr().err


def test_distance_is_counted_per_operation(tmp_path: Path) -> None:
    paths = sorted(write_images(tmp_path / "images", 4).glob("*.png"))
    with write_pair(tmp_path, DETECTOR) as weights:
        sample = Sample(tuple(paths), input_shape(weights.graph), 2)
        (unit,) = score_by_distance(weights, find_units(weights.graph), sample)
        silenced = load_network(weights)
        for tensor in (silenced.layers[3].scales, silenced.layers[3].biases):
            tensor.zero_()  # the unit's last convolution adds nothing
        lost = OutputDistance(run_of(load_network(weights)), weights.graph, sample).of(run_of(silenced))
        inside = sum(weights.graph[index].macs for index in range(unit.first, unit.last + 1))
    assert 0 < lost < 1
    assert unit.score == pytest.approx(lost**2 * weights.graph.macs / inside, rel=1e-4)
