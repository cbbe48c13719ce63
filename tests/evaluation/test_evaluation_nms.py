"""Suppression against a loop that does what darknet's `do_nms_sort` and `diounms_sort` do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.evaluation import nms
from darkprune.evaluation.heads import Candidates
from darkprune.evaluation.nms import Detections, darknet_order, suppress

F = np.float32
Found = list[tuple[int, tuple[float, ...], float]]


def edges(box: np.ndarray) -> tuple[np.float32, ...]:
    x, y, w, h = box
    return x - w / F(2), x + w / F(2), y - h / F(2), y + h / F(2)


def slow_overlap(a: np.ndarray, b: np.ndarray, kind: str, beta: float) -> float:
    (al, ar, at, ab), (bl, br, bt, bb) = edges(a), edges(b)
    w, h = min(ar, br) - max(al, bl), min(ab, bb) - max(at, bt)
    inside = F(0) if w < 0 or h < 0 else w * h
    union = a[2] * a[3] + b[2] * b[3] - inside
    iou = F(0) if inside == 0 or union == 0 else inside / union
    if kind not in ("greedynms", "diounms"):
        return float(iou)
    hull_w, hull_h = max(ar, br) - min(al, bl), max(ab, bb) - min(at, bt)
    c = hull_w * hull_w + hull_h * hull_h
    if c == 0:
        return float(iou)
    d = (a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1])
    return float(iou - F(float(d / c) ** (0.6 if kind == "greedynms" else float(F(beta)))))


def slow(boxes: np.ndarray, scores: np.ndarray, kind: str, beta: float, threshold: float) -> Found:
    """Class by class: sort all boxes (stably), then walk; the result in the order of the walk at the end."""
    boxes, scores = boxes.copy(), scores.copy()
    order = list(range(len(boxes)))
    for k in range(scores.shape[1]):
        order.sort(key=lambda i: -scores[i, k])
        for place, i in enumerate(order):
            if scores[i, k] == 0:
                continue
            for j in order[place + 1 :]:
                if slow_overlap(boxes[i], boxes[j], kind, beta) > F(threshold):
                    scores[j, k] = 0
    return [
        (k, tuple(boxes[i].tolist()), float(scores[i, k]))
        for i in order
        for k in range(scores.shape[1])
        if scores[i, k]
    ]


def draw_candidates(rng: np.random.Generator, count: int, classes: int, images: int = 1) -> Candidates:
    centres = rng.choice(rng.random((3, 2)), count) + rng.normal(0, 0.05, (count, 2))
    sizes = 0.3 + rng.normal(0, 0.05, (count, 2))
    scores = rng.random((count, classes)) * (rng.random((count, classes)) < 0.4)
    boxes = np.concatenate([centres, sizes], axis=1)
    image = np.sort(rng.integers(0, images, count))
    return Candidates(image, boxes.astype(F), np.ones(count, F), scores.astype(F))


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(0, 24),
    st.integers(1, 4),
    st.sampled_from(["default", "greedynms", "diounms", "cornersnms"]),
    st.sampled_from([0.2, 0.45, 0.7]),
)
def test_against_the_loop(seed: int, count: int, classes: int, kind: str, threshold: float) -> None:
    candidates = draw_candidates(np.random.default_rng(seed), count, classes, 3)
    found = suppress(candidates, kind, 0.3, threshold)
    for image in range(3):
        mine, chosen = found.image == image, candidates.image == image
        expected = slow(candidates.boxes[chosen], candidates.scores[chosen], kind, 0.3, threshold)
        got = zip(found.classes[mine].tolist(), found.boxes[mine].tolist(), found.scores[mine].tolist(), strict=True)
        assert [(k, tuple(box), score) for k, box, score in got] == expected


@pytest.mark.parametrize("kind", ["default", "greedynms"])
@pytest.mark.parametrize("limit", [0, 5, 200])
def test_large_groups_take_the_other_ways(monkeypatch: pytest.MonkeyPatch, kind: str, limit: int) -> None:
    candidates = draw_candidates(np.random.default_rng(1), 200, 3, 4)
    expected = suppress(candidates, kind)
    monkeypatch.setattr(nms, "_MAX_PAIRS", limit)
    found = suppress(candidates, kind)
    assert np.array_equal(found.boxes, expected.boxes)
    assert np.array_equal(found.scores, expected.scores)


def test_groups_are_taken_together_as_far_as_their_pairs_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3, 2, 1 and 4 boxes there are 3, 1, 0 and 6 pairs."""
    group = np.repeat([5, 7, 8, 11], [3, 2, 1, 4])
    for limit, stretches in (
        (100, [(0, 10, 10)]), (4, [(0, 6, 4), (6, 10, 6)]), (3, [(0, 3, 3), (3, 6, 1), (6, 10, 6)]),
    ):  # fmt: skip
        monkeypatch.setattr(nms, "_MAX_PAIRS", limit)
        assert list(nms._stretches(group)) == stretches
    assert not list(nms._stretches(group[:0]))
    first, second = nms._pairs(group)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [
        (0, 1), (0, 2), (1, 2), (3, 4), (6, 7), (6, 8), (6, 9), (7, 8), (7, 9), (8, 9),
    ]  # fmt: skip


def test_a_chain_keeps_every_other_box() -> None:
    # each overlaps its neighbours alone: the second falls, so that the third stays, and so on
    count = 41
    x = np.arange(count) * 0.3
    boxes = np.stack([x, np.zeros(count), np.ones(count), np.ones(count)], axis=1).astype(F)
    scores = np.linspace(1, 0.5, count, dtype=F)[:, None]
    found = suppress(Candidates(np.zeros(count, np.int64), boxes, np.ones(count, F), scores), threshold=0.5)
    assert np.allclose(found.boxes[:, 0], x[::2])


def test_equal_scores_rank_in_order() -> None:
    boxes = np.array([[0, 0, 1, 1], [0.01, 0, 1, 1]], F)
    found = suppress(Candidates(np.zeros(2, np.int64), boxes, np.ones(2, F), np.full((2, 1), 0.5, F)))
    assert found.boxes.tolist() == boxes[:1].tolist()


def test_images_and_classes_are_kept_apart() -> None:
    scores = np.array([[0, 0, 0.5], [0.4, 0, 0]], F)  # fewer boxes than classes
    found = suppress(Candidates(np.array([0, 1]), np.array([[0, 0, 1, 1]] * 2, F), np.ones(2, F), scores))
    assert found.classes.tolist() == [2, 0]


def test_nothing_and_odd_boxes() -> None:
    empty = Candidates(np.zeros(0, np.int64), np.zeros((0, 4), F), np.zeros(0, F), np.zeros((0, 5), F))
    assert len(suppress(empty)) == 0
    assert len(Detections.none()) == 0
    odd = np.array([[0, 0, np.inf, 1], [0, 0, np.nan, 1], [0, 0, 0, 0], [0, 0, 0, 0]], F)
    for kind in ("default", "greedynms"):
        kept = suppress(Candidates(np.zeros(4, np.int64), odd, np.ones(4, F), np.full((4, 1), 0.5, F)), kind)
        assert len(kept) == 4


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 12), st.integers(1, 5))
def test_order_is_that_of_successive_sorts(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(1, 4, (count, classes)) / 4 * (rng.random((count, classes)) < 0.5)).astype(F)
    order = list(range(count))
    for k in range(classes):
        order.sort(key=lambda i: -scores[i, k])
    assert darknet_order(np.zeros(count, np.int64), scores).tolist() == order
