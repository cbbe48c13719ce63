"""Decoding, suppression and preprocessing of a kit against plain loops and against darkprune's own evaluation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from darkprune.data import images
from darkprune.evaluation import heads as evaluation_heads
from darkprune.evaluation import nms as evaluation_nms
from darkprune.evaluation.heads import Head
from darkprune.kit.board.runtime import RuntimeFailure
from darkprune.kit.board.runtime.detections import (
    Candidates,
    decode,
    decode_head,
    overlap,
    suppress,
    undo_letterbox,
)
from darkprune.kit.board.runtime.pictures import letterbox_box, read_image, to_input
from darkprune.kit.schema import board_head

NET = (96, 64)
ANCHORS = ((10.0, 13.0), (33.0, 23.0), (62.0, 45.0))
CELLS = ((1.3, 1.7), (3.2, 4.0))
HEADS = {
    "yolo": Head("yolo", 3, ANCHORS, *NET),
    "yolo scale_x_y": Head("yolo", 3, ANCHORS, *NET, scale_x_y=1.2),
    "yolo new_coords": Head("yolo", 3, ANCHORS, *NET, scale_x_y=2.0, new_coords=True),
    "gaussian": Head("Gaussian_yolo", 2, ANCHORS[:2], *NET, scale_x_y=1.1),
    "gaussian left_top": Head("Gaussian_yolo", 2, ANCHORS[:2], *NET, yolo_point="left_top"),
    "gaussian right_bottom": Head("Gaussian_yolo", 2, ANCHORS[:2], *NET, yolo_point="right_bottom"),
    "region softmax": Head("region", 4, CELLS, *NET, softmax=True),
    "region raw": Head("region", 4, CELLS, *NET),
}
THRESHOLD = 0.2


def raw_output(head: Head, seed: int = 0, rows: int = 4, columns: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    output = rng.standard_normal((head.channels, rows, columns)).astype(np.float32)
    # with new_coords the convolution before the head is logistic
    return 1 / (1 + np.exp(-output)) if head.new_coords else output


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def loop_decode(head: Head, output: np.ndarray) -> list[tuple[list[float], list[float]]]:
    """Boxes and scores, one value at a time, as the C sources read; those with any score above the threshold."""
    _, rows, columns = output.shape
    found = []
    for row, column, (number, (aw, ah)) in product(range(rows), range(columns), enumerate(head.anchors)):
        v = [float(x) for x in output[number * head.layout.size : (number + 1) * head.layout.size, row, column]]
        s = head.scale_x_y
        if head.kind == "yolo":
            act = (lambda x: x) if head.new_coords else sigmoid
            x, y = (act(value) * s - 0.5 * (s - 1) for value in v[:2])
            if head.new_coords:
                w, h = (2 * v[2]) ** 2 * aw / NET[0], (2 * v[3]) ** 2 * ah / NET[1]
            else:
                w, h = math.exp(v[2]) * aw / NET[0], math.exp(v[3]) * ah / NET[1]
            sure, scores = act(v[4]), [act(v[4]) * act(value) for value in v[5:]]
            box = [(column + x) / columns, (row + y) / rows, w, h]
        elif head.kind == "Gaussian_yolo":
            x, y = (sigmoid(value) * s - 0.5 * (s - 1) for value in (v[0], v[2]))
            w, h = math.exp(v[4]) * aw / NET[0], math.exp(v[6]) * ah / NET[1]
            spread = sum(sigmoid(v[index]) for index in (1, 3, 5, 7)) / 4
            sure = sigmoid(v[8])
            scores = [sure * sigmoid(value) * (1 - spread) for value in v[9:]]
            shift = {"center": 0.0, "left_top": 0.5, "right_bottom": -0.5}[head.yolo_point]
            box = [(column + x) / columns + shift * w, (row + y) / rows + shift * h, w, h]
        else:
            probabilities = v[5:]
            if head.softmax:
                powers = [math.exp(value - max(v[5:])) for value in v[5:]]
                probabilities = [power / sum(powers) for power in powers]
            sure, scores = 1.0, [sigmoid(v[4]) * value for value in probabilities]
            box = [
                (column + sigmoid(v[0])) / columns,
                (row + sigmoid(v[1])) / rows,
                math.exp(v[2]) * aw / columns,
                math.exp(v[3]) * ah / rows,
            ]
        scores = [score if sure > THRESHOLD and score > THRESHOLD else 0.0 for score in scores]
        if any(scores):
            found.append((box, scores))
    return found


def loop_iou(a: list[float], b: list[float]) -> float:
    w = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    h = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


def loop_overlap(a: list[float], b: list[float], kind: str, beta: float) -> float:
    iou = loop_iou(a, b)
    if kind not in ("greedynms", "diounms"):
        return iou
    w = max(a[0] + a[2] / 2, b[0] + b[2] / 2) - min(a[0] - a[2] / 2, b[0] - b[2] / 2)
    h = max(a[1] + a[3] / 2, b[1] + b[3] / 2) - min(a[1] - a[3] / 2, b[1] - b[3] / 2)
    c = w * w + h * h
    if c == 0:
        return iou
    d = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
    return iou - (d / c) ** (0.6 if kind == "greedynms" else beta)


def loop_suppress(boxes: list[list[float]], scores: list[list[float]], kind: str, beta: float) -> set[tuple[int, int]]:
    """The pairs (box, class) that stay."""
    stay = set()
    for number in range(len(scores[0])):
        order = sorted((i for i in range(len(boxes)) if scores[i][number] > 0), key=lambda i: -scores[i][number])
        gone: set[int] = set()
        for place, i in enumerate(order):
            if i in gone:
                continue
            stay.add((i, number))
            gone |= {j for j in order[place + 1 :] if loop_overlap(boxes[i], boxes[j], kind, beta) > 0.45}
    return stay


@pytest.mark.parametrize("name", HEADS)
def test_decoding_against_a_loop(name: str) -> None:
    head = HEADS[name]
    output = raw_output(head)
    with np.errstate(all="ignore"):
        found = decode_head(board_head(head, "o"), output, NET, THRESHOLD)
    alive = found.scores.max(axis=1) > 0
    wanted = loop_decode(head, output)
    assert len(wanted) > 3
    np.testing.assert_allclose(found.boxes[alive], [box for box, _ in wanted], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(found.scores[alive], [scores for _, scores in wanted], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", HEADS)
def test_decoding_is_that_of_the_evaluation_bit_for_bit(name: str) -> None:
    head = HEADS[name]
    batch = np.stack([raw_output(head, seed) for seed in (1, 2)])
    wanted = evaluation_heads.decode([head], [batch], THRESHOLD)
    for index in (0, 1):
        found = decode([board_head(head, "o")], {"o": batch}, NET, THRESHOLD, index)
        mine = wanted.image == index
        live = wanted.scores[mine].any(axis=1)
        here = found.scores.any(axis=1)
        np.testing.assert_array_equal(found.boxes[here], wanted.boxes[mine][live])
        np.testing.assert_array_equal(found.scores[here], wanted.scores[mine][live])


@pytest.mark.parametrize("kind", ["default", "greedynms", "diounms", "cornersnms", "nonsense"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_suppression_against_a_loop_and_the_evaluation(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0.2, 0.8, (6, 2))
    boxes = np.concatenate(
        [centres[rng.integers(0, 6, 60)] + rng.normal(0, 0.04, (60, 2)), rng.uniform(0.1, 0.4, (60, 2))], axis=1
    ).astype(np.float32)
    scores = np.where(rng.random((60, 3)) < 0.6, rng.uniform(0.2, 1, (60, 3)), 0).astype(np.float32)
    found = suppress(Candidates(boxes, scores), kind, 0.45, beta=0.8)
    kept = {
        (int(np.flatnonzero((boxes == box).all(axis=1))[0]), int(number))
        for box, number in zip(found.boxes, found.classes, strict=True)
    }
    assert kept == loop_suppress(boxes.tolist(), scores.tolist(), kind, 0.8)
    assert 6 < len(kept) < 100
    candidates = evaluation_heads.Candidates(np.zeros(60, np.int64), boxes, np.ones(60, np.float32), scores)
    wanted = evaluation_nms.suppress(candidates, kind, 0.8)
    theirs = {
        (*box.tolist(), number, score)
        for box, number, score in zip(wanted.boxes, wanted.classes.tolist(), wanted.scores.tolist(), strict=True)
    }
    ours = {
        (*box.tolist(), number, score)
        for box, number, score in zip(found.boxes, found.classes.tolist(), found.scores.tolist(), strict=True)
    }
    assert ours == theirs


def test_equal_scores_rank_as_after_darknets_sort_of_the_class_before() -> None:
    boxes = np.array([[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2]], np.float32)
    # class 0 puts the second box first, and class 1 cannot tell them apart
    found = suppress(Candidates(boxes, np.array([[0.3, 0.9], [0.8, 0.9]], np.float32)), "default", 0.45)
    assert [(float(box[0]), int(number)) for box, number in zip(found.boxes, found.classes, strict=True)] == [
        (pytest.approx(0.51), 0),
        (pytest.approx(0.51), 1),
    ]


def test_empty_and_degenerate_boxes() -> None:
    nothing = suppress(Candidates(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32)), "default", 0.45)
    assert nothing.boxes.shape == (0, 4)
    point = np.array([0.5, 0.5, 0, 0], np.float32)
    for power in (None, 0.6):
        assert overlap(point, np.stack([point, point]), power).tolist() == [0.0, 0.0]


def test_an_output_that_does_not_fit_its_head() -> None:
    head = board_head(HEADS["yolo"], "o")
    with pytest.raises(RuntimeFailure, match="output o: the engine does not have it"):
        decode([head], {}, NET, 0.5)
    with pytest.raises(RuntimeFailure, match="needs 24 channels"):
        decode([head], {"o": np.zeros((1, 21, 2, 2), np.float32)}, NET, 0.5)


@pytest.mark.parametrize("seed", range(8))
def test_preprocessing_is_that_of_the_loader_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(6):
        height, width, net_width, net_height = (int(n) for n in rng.integers(1, 120, 4))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        blue_first = pixels[:, :, ::-1]
        np.testing.assert_array_equal(
            to_input(blue_first, net_width, net_height), images.resize(pixels, net_width, net_height)
        )
        np.testing.assert_array_equal(
            to_input(blue_first, net_width, net_height, letterbox=True), images.letterbox(pixels, net_width, net_height)
        )


def test_grey_pictures() -> None:
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    one = to_input(grey, 14, 10, channels=1)
    np.testing.assert_array_equal(one, images.resize(grey[:, :, None], 14, 10))
    np.testing.assert_array_equal(to_input(grey, 14, 10), np.repeat(one, 3, axis=0))


@pytest.mark.parametrize("picture", [(640, 480), (100, 333), (64, 64)])
def test_letterbox_and_back(picture: tuple[int, int]) -> None:
    left, top, width, height = letterbox_box(*picture, *NET)
    assert (left, top) == ((NET[0] - width) // 2, (NET[1] - height) // 2)
    boxes = np.random.default_rng(0).uniform(0, 1, (5, 4)).astype(np.float32)
    wanted = evaluation_heads.correct_letterbox(boxes, np.array([picture] * 5), *NET)
    np.testing.assert_array_equal(undo_letterbox(boxes, picture, NET), wanted)


def test_a_file_that_is_no_picture(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "x.jpg").write_bytes(b"no")
    with pytest.raises(RuntimeFailure, match=r"x\.jpg: not a picture"):
        read_image(str(tmp_path / "x.jpg"))
