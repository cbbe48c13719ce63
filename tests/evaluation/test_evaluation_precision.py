"""Matching, average precision and counts: against the plain form of `detector map`, and against COCO's evaluator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.data.dataset import make_objects
from darkprune.errors import DarkpruneError
from darkprune.evaluation.metrics import coco_metrics
from darkprune.evaluation.metrics.average_precision import Scoring, average_precision, average_precisions, count_at
from darkprune.evaluation.metrics.coco_metrics import CocoFigures, coco_figures
from darkprune.evaluation.metrics.matching import Truths, make_truths, match
from darkprune.evaluation.metrics.results import summarise
from darkprune.evaluation.nms import Detections

F = np.float32


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    low = np.maximum(a[:2] - a[2:] / F(2), b[:2] - b[2:] / F(2))
    w, h = np.minimum(a[:2] + a[2:] / F(2), b[:2] + b[2:] / F(2)) - low
    inside = F(0) if w < 0 or h < 0 else w * h
    return float(inside / (a[2] * a[3] + b[2] * b[3] - inside)) if inside else 0.0


def slow_map(
    detections: Detections, truths: Truths, classes: int, iou: float, points: int, confidence: float
) -> tuple[list[float], int, int, float]:
    """The real program's walk, one detection at a time, and its recall curve over all ranks."""
    marks: list[tuple[float, int, int]] = []  # score, class, truth or −1
    true = false = 0
    overlaps = 0.0
    taken: set[int] = set()
    for image, box, number, score in zip(
        detections.image, detections.boxes, detections.classes, detections.scores, strict=True
    ):
        best, largest, hard = -1, 0.0, False
        for t in range(len(truths)):
            if truths.image[t] != image or truths.classes[t] != number:
                continue
            overlap = slow_iou(box, truths.boxes[t])
            if truths.difficult[t]:
                hard = hard or overlap > iou
            elif overlap > iou and overlap > largest:
                best, largest = t, overlap
        if best < 0 and hard:
            continue
        marks.append((float(score), int(number), best))
        if score > F(confidence):
            if best >= 0 and best not in taken:
                true, overlaps = true + 1, overlaps + largest
            else:
                false += 1
        taken |= {best} if best >= 0 else set()
    marks.sort(key=lambda mark: -mark[0])
    result = []
    for k in range(classes):
        total = int(((truths.classes == k) & ~truths.difficult).sum())
        seen: set[int] = set()
        tp = fp = 0
        curve = []
        for _, number, truth in marks:
            if number == k:
                hit = truth >= 0 and truth not in seen
                seen |= {truth}
                tp, fp = tp + hit, fp + (not hit)
            curve.append((tp / total if total else 0.0, tp / (tp + fp) if tp + fp else 0.0))
        result.append(slow_area(curve, points))
    return result, true, false, overlaps / (true + false) if true + false else 0.0


def slow_area(curve: list[tuple[float, float]], points: int) -> float:
    if points:
        levels = [i / (points - 1) for i in range(points)]
        return sum(max([p for r, p in curve if r >= level], default=0.0) for level in levels) / points
    area, previous = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - previous) * max(p for _, p in curve[place:])
        previous = recall
    return area


def draw(rng: np.random.Generator, count: int, objects: int, classes: int) -> tuple[Detections, Truths]:
    truths = Truths(
        rng.integers(0, 3, objects),
        np.concatenate([rng.random((objects, 2)), 0.2 + 0.2 * rng.random((objects, 2))], axis=1).astype(F),
        rng.integers(0, classes, objects),
        rng.random(objects) < 0.15,
    )
    near = rng.integers(0, objects, count) if objects else np.zeros(count, np.int64)
    boxes = truths.boxes[near] if objects else rng.random((count, 4)).astype(F)
    image = truths.image[near] if objects else np.zeros(count, np.int64)
    order = np.argsort(image, kind="stable")
    number = rng.integers(0, classes, count)
    if objects:
        number = np.where(rng.random(count) < 0.8, truths.classes[near], number)
    shaken = (boxes + rng.normal(0, 0.04, boxes.shape)).astype(F)
    scores = (rng.integers(1, 10, count) / 10).astype(F)  # with ties
    return Detections(image[order], shaken[order], number[order].astype(np.int64), scores[order]), truths


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(0, 30),
    st.integers(0, 12),
    st.integers(1, 3),
    st.sampled_from([0, 11, 101]),
    st.sampled_from([0.3, 0.5, 0.75]),
)
def test_against_the_walk(seed: int, count: int, objects: int, classes: int, points: int, iou: float) -> None:
    detections, truths = draw(np.random.default_rng(seed), count, objects, classes)
    matches = match(detections, truths)
    expected, true, false, average = slow_map(detections, truths, classes, iou, points, 0.45)
    assert np.allclose(average_precisions(detections, truths, matches, classes, iou, points), expected, atol=1e-9)
    counts = count_at(detections, truths, matches, classes, iou, 0.45)
    assert (counts.true_positives.sum(), counts.false_positives.sum()) == (true, false)
    assert counts.average_iou == pytest.approx(average, abs=1e-6)


def coco_figures_by(evaluator: str, *known: Any) -> CocoFigures:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_metrics, "evaluator_name", lambda: evaluator)
        return coco_figures(*known)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 40), st.sampled_from(["pycocotools", "faster_coco_eval"]))
def test_101_points_are_cocos_curve(seed: int, count: int, evaluator: str) -> None:
    """With at most one object per image the two ways of matching are the same; so has to be the figure.

    7 and 23 objects: no recall between 0 and 1 is a multiple of 0.01, where COCO's i·0.01 and darknet's i/100 round
    apart.
    """
    pytest.importorskip(evaluator)
    rng = np.random.default_rng(seed)
    images = 30
    centre = np.array([0.5, 0.5, 0.4, 0.4], F)
    classes = rng.permutation(np.repeat([0, 1], [7, 23]))
    truths = Truths(np.arange(images), np.tile(centre, (images, 1)), classes, np.zeros(images, bool))
    image = np.sort(rng.integers(0, images, count))
    boxes = (centre + rng.normal(0, 0.05, (count, 4))).astype(F)
    scores = rng.permutation(np.linspace(0.1, 0.9, count)).astype(F)
    detections = Detections(image, boxes, rng.integers(0, 2, count), scores)
    matches = match(detections, truths)
    figures = coco_figures_by(evaluator, detections, truths, np.full((images, 2), 400), 2)
    for level, theirs in ((0.5, figures.map50), (0.75, figures.map75)):
        mine = average_precisions(detections, truths, matches, 2, level, 101).mean()
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_a_hand_computed_curve() -> None:
    hits = np.array([True, False, True, False, False, True])
    # precision 1, 1/2, 2/3, 1/2, 2/5, 1/2 at recalls 1/4, 1/4, 1/2, 1/2, 1/2, 3/4
    assert average_precision(hits, 4) == pytest.approx(0.25 * (1 + 2 / 3 + 1 / 2))
    assert average_precision(hits, 4, 11) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 1 / 2) / 11)
    assert average_precision(np.array([False]), 4) == 0
    assert average_precision(np.ones(4, bool), 4, 101) == pytest.approx(1)


def test_exactly_the_threshold_is_not_enough() -> None:
    truths = Truths(np.zeros(1, int), np.array([[0.5, 0.5, 0.5, 0.5]], F), np.zeros(1, int), np.zeros(1, bool))
    half = Detections(np.zeros(1, int), np.array([[0.5, 0.5, 0.5, 0.25]], F), np.zeros(1, int), np.ones(1, F))
    matches = match(half, truths)
    assert matches.overlap.tolist() == [0.5]
    assert average_precisions(half, truths, matches, 1, 0.5).tolist() == [0]
    assert average_precisions(half, truths, matches, 1, 0.49).tolist() == [1]


def test_difficult_objects_count_neither_way() -> None:
    boxes = np.array([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]], F)
    truths = Truths(np.zeros(2, int), boxes, np.zeros(2, int), np.array([False, True]))
    detections = Detections(np.zeros(2, int), boxes, np.zeros(2, int), np.array([0.5, 0.9], F))
    result = summarise(detections, truths, ["x"], 1)
    assert (result.map50, result.precision, result.recall, result.truths) == (1, 1, 1, 1)
    for evaluator in ("faster_coco_eval", "pycocotools"):
        pytest.importorskip(evaluator)
        assert coco_figures_by(evaluator, detections, truths, np.array([[100, 100]]), 1).map == pytest.approx(1)


def test_make_truths_leaves_unknown_classes_out() -> None:
    objects = [make_objects([[0.5] * 4] * 3, [0, 7, -1]), make_objects([], []), make_objects([[0.1] * 4], [1])]
    truths = make_truths(objects, [4, 5, 9], 2)
    assert truths.image.tolist() == [4, 9]
    assert truths.classes.tolist() == [0, 1]
    assert len(make_truths([], [], 2)) == 0
    assert len(make_truths([make_objects([[1e300, 0, 1, 1]], [0])], [0], 2)) == 0


def test_summary_and_json() -> None:
    detections, truths = draw(np.random.default_rng(3), 20, 8, 2)
    result = summarise(detections, truths, ["cat", "1", "2"], 3, 2, Scoring(11, 0.6, 0.3))
    assert [row.name for row in result.per_class] == ["cat", "1", "2"]
    assert result.per_class[2].ap == 0
    assert result.map_iou == pytest.approx(sum(row.ap for row in result.per_class) / 3)
    assert result.false_negatives + result.true_positives == result.truths
    content = json.loads(json.dumps(result.to_json()))
    assert content["map50"] == result.map50
    assert content["map"] is None
    assert content["per_class"][0]["name"] == "cat"
    assert {"map75", "precision", "recall", "f1", "average_iou", "skipped"} <= set(content)


def test_nothing_found_or_labelled() -> None:
    detections, truths = draw(np.random.default_rng(3), 0, 5, 2)
    result = summarise(detections, truths, ["0", "1"], 3)
    assert (result.map50, result.precision, result.recall, result.f1, result.average_iou) == (0, 0, 0, 0, 0)
    assert coco_figures(detections, truths, np.full((3, 2), 9), 2).map == 0
    none = make_truths([], [], 2)
    found, _ = draw(np.random.default_rng(3), 4, 0, 2)
    assert summarise(found, none, ["0", "1"], 3).map50 == 0
    assert coco_figures(found, none, np.full((3, 2), 9), 2).map == -1


def test_evaluators_agree() -> None:
    for name in ("faster_coco_eval", "pycocotools"):
        pytest.importorskip(name)
    detections, truths = draw(np.random.default_rng(11), 200, 60, 3)
    sizes = np.array([[640, 480], [200, 300], [50, 60]])
    a, b = (coco_figures_by(name, detections, truths, sizes, 3) for name in ("faster_coco_eval", "pycocotools"))
    assert 0 < a.map < 1
    for key in ("map", "map50", "map75", "small", "medium", "large", "recall"):
        assert getattr(a, key) == pytest.approx(getattr(b, key), abs=1e-6)


def test_without_an_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_metrics, "evaluator_name", lambda: None)
    detections, truths = draw(np.random.default_rng(3), 5, 5, 2)
    with pytest.raises(DarkpruneError, match="pip install faster-coco-eval"):
        coco_figures(detections, truths, np.full((3, 2), 9), 2)
