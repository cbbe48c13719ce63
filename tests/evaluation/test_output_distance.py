"""Scores of heads by hand; distances that are known; maps of another size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.data.loading import InputShape
from darkprune.data.samples import Sample
from darkprune.errors import DataError
from darkprune.evaluation.output_distance import Maps, OutputDistance, Run, resized, scores_of
from darkprune.graph.graph import Graph, build_graph
from darkprune.layers.heads import Head

NET = "[net]\nwidth=4\nheight=3\nchannels=3\n[convolutional]\nfilters={}\nsize=1\nactivation=linear\n"
#: section -> (values before the classes, its text)
HEADS = {
    "yolo": (5, "[yolo]\nmask=0,1\nanchors=1,1, 2,2\nnum=2\nclasses=3\n"),
    "Gaussian_yolo": (9, "[Gaussian_yolo]\nmask=0,1\nanchors=1,1, 2,2\nnum=2\nclasses=3\n"),
    "region": (5, "[region]\nanchors=1,1, 2,2\nnum=2\nclasses=3\ncoords=4\nsoftmax=1\n"),
    "new_coords": (5, "[yolo]\nmask=0,1\nanchors=1,1, 2,2\nnum=2\nclasses=3\nnew_coords=1\n"),
}


def graph_with(kind: str) -> Graph:
    before, text = HEADS[kind]
    return build_graph(parse_cfg(NET.format(2 * (before + 3)) + text))


@pytest.mark.parametrize("kind", HEADS)
def test_scores(kind: str) -> None:
    before = HEADS[kind][0]
    head = graph_with(kind).heads[0].kind
    assert isinstance(head, Head)
    raw = np.random.default_rng(0).normal(0, 2, (2, 2 * (before + 3), 3, 4)).astype(np.float32)
    found = scores_of(head, raw).reshape(2, 2, 3, 3, 4)
    values = raw.reshape(2, 2, before + 3, 3, 4)[1, 1, :, 2, 3]
    objectness, classes = values[before - 1], values[before:]
    sigmoid = 1 / (1 + np.exp(-values))
    expected = {
        "region": np.exp(classes) / np.exp(classes).sum() * sigmoid[before - 1],
        "new_coords": classes * objectness,
    }.get(kind, sigmoid[before:] * sigmoid[before - 1])
    assert found[1, 1, :, 2, 3] == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """Three grey images, darker and darker, in batches of two."""
    paths = []
    for number, value in enumerate((255, 51, 0)):
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), np.full((3, 4, 3), value, np.uint8))
    return Sample(tuple(paths), InputShape(4, 3), 2)


def test_distance_by_hand(sample: Sample) -> None:
    """A network without heads: its outputs are what is compared, here the images times a factor."""
    graph = build_graph(parse_cfg(NET.format(1)))

    def times(factor: float, plus: float = 0.0) -> Run:
        return lambda images: [factor * images[:, :1] + np.float32(plus)]

    distance = OutputDistance(times(2.0), graph, sample)
    assert distance.of(times(2.0)) == 0
    assert distance.of(times(0.0)) == pytest.approx(1)
    assert distance.of(times(3.0)) == pytest.approx(0.5)
    power = np.sqrt(sum((2 * value) ** 2 for value in (1.0, 0.2, 0.0)))
    assert distance.of(times(2.0, 0.1)) == pytest.approx(0.1 * np.sqrt(3) / power, rel=1e-5)
    assert distance.of(times(np.nan)) == np.inf


def test_all_images_count(sample: Sample) -> None:
    """Only the last batch differs."""
    graph = build_graph(parse_cfg(NET.format(1)))

    def ones(images: Maps) -> list[Maps]:
        return [np.ones((len(images), 1, 3, 4), np.float32)]

    def wrong(images: Maps) -> list[Maps]:
        return [np.full((len(images), 1, 3, 4), 1.0 if len(images) == 2 else 3.0, np.float32)]

    assert OutputDistance(ones, graph, sample).of(wrong) == pytest.approx(2 / np.sqrt(3))


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    sample = Sample((tmp_path / "a.png",), InputShape(4, 3), 2)
    distance = OutputDistance(lambda images: [images], build_graph(parse_cfg(NET.format(1))), sample)
    with pytest.raises(DataError, match="none of the 1 images"):
        distance.of(lambda images: [images])


def test_maps_are_resized_linearly() -> None:
    rows = np.arange(4, dtype=np.float32)[:, None] + np.zeros((4, 6), np.float32)
    columns = np.zeros((4, 6), np.float32) + np.arange(6, dtype=np.float32)
    maps = np.stack([rows, columns])[None]
    assert np.array_equal(resized(maps, (4, 6)), maps)
    small = resized(maps, (2, 3))
    np.testing.assert_allclose(small[0, 0], [[0.5] * 3, [2.5] * 3], atol=1e-6)
    np.testing.assert_allclose(small[0, 1], [[0.5, 2.5, 4.5]] * 2, atol=1e-6)
