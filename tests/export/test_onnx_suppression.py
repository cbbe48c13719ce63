"""The judge of suppression inside a file: lets pass what greedy suppression may leave, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_onnx_forms import HEADS, head_maps, images_for
from test_onnx_kinds import open_text, random_weights

from darkprune.onnx.check import verify_onnx
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.nodes.outputs import Suppression
from darkprune.onnx.options import ExportOptions
from darkprune.onnx.suppression import suppression_fault

LIMITS = Suppression(0.3, 0.5, 4)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    w, h = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = max(w, 0) * max(h, 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return common / (sum(areas) - common) if common else 0.0


def greedy(boxes: np.ndarray, scores: np.ndarray, limits: Suppression, backwards: bool = False) -> np.ndarray:
    """One box after another, as the operator's definition reads; ties from the other end if asked."""
    rows = []
    for image, number in np.ndindex(*scores.shape[:2]):
        places = range(scores.shape[2])
        order = sorted(reversed(places) if backwards else places, key=lambda i: -scores[image, number, i])
        kept: list[int] = []
        for i in order:
            clear = all(iou(boxes[image, i], boxes[image, k]) <= limits.iou for k in kept)
            if scores[image, number, i] > np.float32(limits.score) and clear and len(kept) < limits.most:
                kept.append(i)
        rows += [[image, *boxes[image, i], scores[image, number, i], number] for i in kept]
    return np.array(rows, np.float32).reshape(-1, 7)


def some(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 0.5, (2, 12, 2))
    boxes = np.concatenate([low, low + random.uniform(0.1, 0.5, (2, 12, 2))], axis=2).astype(np.float32)
    scores = random.uniform(0, 1, (2, 3, 12)).astype(np.float32)
    return boxes, np.round(scores, 1) if ties else scores


@given(st.integers(0, 2**32), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_greedy_suppression_leaves_passes(seed: int, ties: bool, backwards: bool) -> None:
    boxes, scores = some(seed, ties)
    found = greedy(boxes, scores, LIMITS, backwards)
    assert suppression_fault(found, boxes, scores, LIMITS) == ""
    assert suppression_fault(found[::-1], boxes, scores, LIMITS) == ""


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=30, deadline=None)
def test_anything_else_does_not(seed: int, data: st.DataObject) -> None:
    boxes, scores = some(seed, ties=False)
    found = greedy(boxes, scores, LIMITS)
    row = data.draw(st.integers(0, len(found) - 1))
    assert suppression_fault(np.delete(found, row, axis=0), boxes, scores, LIMITS)  # one is missing
    assert suppression_fault(np.concatenate([found, found[row : row + 1]]), boxes, scores, LIMITS)  # one is there twice
    for column in range(7):
        wrong = found.copy()
        wrong[row, column] += 1 if column in (0, 6) else 1e-3
        assert suppression_fault(wrong, boxes, scores, LIMITS), column


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        (Suppression(0.3, 0.5, 3), "4 detections, but 3 is the limit"),
        (Suppression(0.3, 0.2, 4), "two detections overlap by"),
        (Suppression(0.3, 0.9, 400), "boxes are missing that no better detection overlaps"),
        (Suppression(0.7, 0.5, 4), "none of the boxes above the limit"),
        (Suppression(0.1, 0.5, 400), "boxes are missing"),
    ],
)
def test_other_limits_are_noticed(limits: Suppression, fault: str) -> None:
    boxes, scores = some(7, ties=False)
    assert fault in suppression_fault(greedy(boxes, scores, LIMITS), boxes, scores, limits)


@pytest.mark.parametrize(("name", "value"), [("nms/iou", 0.1), ("nms/score", 0.9), ("nms/most", 2)])
def test_a_file_that_suppresses_otherwise_is_refused(name: str, value: float, tmp_path: Path) -> None:
    text, path = HEADS["yolo"], tmp_path / "x.onnx"
    data, images = random_weights(text, seed=3), images_for(text, 1)
    with open_text(text, data, tmp_path) as weights:
        write_onnx(build_onnx(weights, ExportOptions(outputs="nms", limits=LIMITS)), path)
        good = verify_onnx(path, weights.graph, lambda x: head_maps(text, data, x), images)
        model = onnx.load(str(path))
        tensor = next(item for item in model.graph.initializer if item.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(onnx.numpy_helper.to_array(tensor), value), name))
        onnx.save(model, str(path))
        bad = verify_onnx(path, weights.graph, lambda x: head_maps(text, data, x), images)
    assert good.agrees
    assert good.fault == ""
    assert max(bad.deviations.values()) < 1e-5
    assert bad.fault
    assert not bad.agrees
