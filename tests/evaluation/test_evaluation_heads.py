"""Decoding against slow loops written from the formulas of darknet's `yolo_layer.c` and `region_layer.c`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.errors import DataError
from darkprune.evaluation.heads import Head, correct_letterbox, decode

ANCHORS = ((10.0, 14.0), (23.0, 27.0))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max())
    return shifted / shifted.sum()


Row = tuple[float, float, float, float, float, list[float]]


def slow(head: Head, raw: np.ndarray, threshold: float) -> list[Row]:
    """Box by box: cells row by row, anchors in each, as darknet enumerates them."""
    _, h, w = raw.shape
    found = []
    for row in range(h):
        for column in range(w):
            for number, (aw, ah) in enumerate(head.anchors):
                v = raw[number * head.layout.size : (number + 1) * head.layout.size, row, column].astype(np.float64)
                found += slow_box(head, v, row, column, (h, w), (aw, ah), threshold)
    return found


def slow_box(
    head: Head,
    v: np.ndarray,
    row: int,
    column: int,
    grid: tuple[int, int],
    anchor: tuple[float, float],
    threshold: float,
) -> list[Row]:
    h, w = grid
    bend = 0.5 * (head.scale_x_y - 1)
    if head.kind == "yolo":
        act = (lambda x: x) if head.new_coords else sigmoid
        x, y = (act(v[k]) * head.scale_x_y - bend for k in (0, 1))
        if head.new_coords:
            bw, bh = (2 * v[2]) ** 2 * anchor[0] / head.net_width, (2 * v[3]) ** 2 * anchor[1] / head.net_height
        else:
            bw, bh = math.exp(v[2]) * anchor[0] / head.net_width, math.exp(v[3]) * anchor[1] / head.net_height
        objectness, classes = act(v[4]), [act(p) for p in v[5:]]
    elif head.kind == "Gaussian_yolo":
        x, y = (sigmoid(v[k]) * head.scale_x_y - bend for k in (0, 2))
        bw, bh = math.exp(v[4]) * anchor[0] / head.net_width, math.exp(v[6]) * anchor[1] / head.net_height
        objectness = sigmoid(v[8])
        sure = 1 - sum(sigmoid(v[k]) for k in (1, 3, 5, 7)) / 4
        classes = [sigmoid(p) * sure for p in v[9:]]
    else:
        x, y = sigmoid(v[0]), sigmoid(v[1])
        bw, bh = math.exp(v[2]) * anchor[0] / w, math.exp(v[3]) * anchor[1] / h
        objectness = sigmoid(v[4])
        classes = list(softmax(v[5:]) if head.softmax else v[5:])
    cx, cy = (column + x) / w, (row + y) / h
    side = {"center": 0, "left_top": 1, "right_bottom": -1}[head.yolo_point]
    cx, cy = cx + side * bw / 2, cy + side * bh / 2
    scores = [objectness * p if objectness * p > threshold else 0.0 for p in classes]
    if head.kind == "region":
        return [(cx, cy, bw, bh, 1.0, scores)] if any(scores) else []
    return [(cx, cy, bw, bh, objectness, scores)] if objectness > threshold else []


HEADS = {
    "yolo": Head("yolo", 3, ANCHORS, 64, 96),
    "yolo stretched": Head("yolo", 3, ANCHORS, 64, 96, scale_x_y=1.2),
    "yolo new_coords": Head("yolo", 3, ANCHORS, 64, 96, scale_x_y=2.0, new_coords=True),
    "gaussian": Head("Gaussian_yolo", 2, ANCHORS, 64, 96, scale_x_y=1.1),
    "gaussian left_top": Head("Gaussian_yolo", 2, ANCHORS, 64, 96, yolo_point="left_top"),
    "gaussian right_bottom": Head("Gaussian_yolo", 2, ANCHORS, 64, 96, yolo_point="right_bottom"),
    "region": Head("region", 4, ((1.2, 0.7), (3.0, 2.0)), 64, 96),
    "region softmax": Head("region", 4, ((1.2, 0.7), (3.0, 2.0)), 64, 96, softmax=True),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_against_loops(head: Head) -> None:
    raw = np.random.default_rng(4).normal(0, 1.2, (2, head.channels, 3, 4)).astype(np.float32)
    if head.new_coords:
        raw = 1 / (1 + np.exp(-raw))
    found = decode([head], [raw], 0.3)
    for image in range(2):
        expected = slow(head, raw[image], 0.3)
        assert expected
        mine = found.image == image
        assert mine.sum() == len(expected)
        assert np.allclose(found.boxes[mine], [row[:4] for row in expected], atol=1e-5, rtol=1e-5)
        assert np.allclose(found.objectness[mine], [row[4] for row in expected], atol=1e-5)
        assert np.allclose(found.scores[mine], [row[5] for row in expected], atol=1e-5)


def test_several_heads_go_image_by_image() -> None:
    head = HEADS["yolo"]
    maps = [np.random.default_rng(i).normal(0, 1, (2, head.channels, 2 * i, 2 * i)).astype(np.float32) for i in (1, 2)]
    both = decode([head, head], maps, 0.2)
    assert np.array_equal(np.sort(both.image), both.image)
    first, second = (decode([head], [one], 0.2) for one in maps)
    mine = both.image == 0
    expected = np.concatenate([first.boxes[first.image == 0], second.boxes[second.image == 0]])
    assert np.array_equal(both.boxes[mine], expected)


def test_tree_gives_the_last_likely_class() -> None:
    # 0 and 1 are roots, 2 and 3 children of 0, 4 and 5 children of 1
    head = Head("region", 6, ((1.0, 1.0),), 32, 32, softmax=True, tree=(-1, -1, 0, 0, 1, 1))
    raw = np.full((1, 11, 1, 2), -9.0, np.float32)
    raw[0, 4] = 5
    raw[0, 5:, 0, 0] = [4, 0, 3, 0, 0, 9]  # root 0 likely, then class 2; the child of 1 does not count
    raw[0, 5:, 0, 1] = [4, 0, 1, 1, 0, 9]  # both children even: the root itself
    found = decode([head], [raw], 0.1)
    expected = sigmoid(4) * sigmoid(3)
    assert np.allclose(found.scores, [[0, 0, expected, 0, 0, 0], [sigmoid(4), 0, 0, 0, 0, 0]], atol=1e-6)


def test_extreme_values_are_harmless() -> None:
    head = HEADS["yolo"]
    raw = np.full((1, head.channels, 1, 1), 1e30, np.float32)
    found = decode([head], [raw], 0.3)
    assert np.isinf(found.boxes[:, 2]).all()
    assert len(decode([head], [raw * np.nan], 0.3)) == 0
    assert len(decode([head], [-raw], 0.3)) == 0


@pytest.mark.parametrize(
    ("heads", "shapes", "match"),
    [
        ([], [], "0 maps for 0"),
        (["yolo"], [], "0 maps for 1"),
        (["yolo"], [(1, 5, 2, 2)], r"needs a map \(b, 16, h, w\)"),
        (["yolo"], [(16, 2, 2)], "needs a map"),
        (["yolo", "region"], [(1, 16, 2, 2), (1, 18, 2, 2)], "different numbers of classes"),
    ],
)
def test_maps_that_do_not_fit(heads: list[str], shapes: list[tuple[int, ...]], match: str) -> None:
    with pytest.raises(DataError, match=match):
        decode([HEADS[name] for name in heads], [np.zeros(shape, np.float32) for shape in shapes])


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 900), st.integers(20, 900), st.sampled_from([(64, 64), (96, 32), (32, 96)]))
def test_letterbox_correction(width: int, height: int, net: tuple[int, int]) -> None:
    if net[0] / width < net[1] / height:
        inner = (net[0], height * net[0] // width)
    else:
        inner = (width * net[1] // height, net[1])
    if min(inner) < 1:
        return
    wanted = np.array([[0.3, 0.6, 0.2, 0.1]])
    scale = np.array(inner) / np.array(net)
    boxed = np.concatenate([wanted[:, :2] * scale + (1 - scale) / 2, wanted[:, 2:] * scale], axis=1)
    corrected = correct_letterbox(boxed.astype(np.float32), np.array([[width, height]]), *net)
    assert np.allclose(corrected, wanted, atol=1e-4)
