"""Precision over recall and confusion, against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np

from darkprune.evaluation.metrics.average_precision import average_precisions, precision_curves
from darkprune.evaluation.metrics.matching import Truths, match
from darkprune.evaluation.nms import Detections
from darkprune.pages.quality import confusion_matrix, quality_of

LEFT, RIGHT, MIDDLE = (0.2, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2), (0.5, 0.5, 0.1, 0.1)


def detections(*rows: tuple[int, tuple[float, ...], int, float]) -> Detections:
    image, boxes, classes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        np.array(image, np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(scores, np.float32),
    )


def truths(*rows: tuple[int, tuple[float, ...], int, bool]) -> Truths:
    image, boxes, classes, difficult = zip(*rows, strict=True)
    return Truths(
        np.array(image, np.int64), np.array(boxes, np.float32), np.array(classes, np.int64), np.array(difficult)
    )


def test_rows_are_labels_and_columns_detections() -> None:
    labelled = truths((0, LEFT, 0, False), (0, RIGHT, 1, False), (1, LEFT, 2, False), (1, MIDDLE, 2, True))
    found = detections(
        (0, LEFT, 0, 0.9),  # right
        (0, RIGHT, 2, 0.8),  # taken for another class
        (0, MIDDLE, 1, 0.7),  # nothing is there
        (1, MIDDLE, 1, 0.6),  # a difficult object: does not count
        (1, RIGHT, 0, 0.5),  # another image's object: nothing is there
    )
    expected = [
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],  # missed
        [1, 1, 0, 0],
    ]
    np.testing.assert_array_equal(confusion_matrix(found, labelled, 3), expected)


def test_an_object_goes_with_the_detection_that_overlaps_most() -> None:
    shifted = (0.22, 0.5, 0.2, 0.2)
    found = detections((0, shifted, 1, 0.9), (0, LEFT, 0, 0.3))
    matrix = confusion_matrix(found, truths((0, LEFT, 0, False)), 2)
    assert matrix[0, 0] == 1
    assert matrix[2, 1] == 1
    assert matrix.sum() == 2


def test_nothing_found_is_all_missed() -> None:
    matrix = confusion_matrix(detections(), truths((0, LEFT, 1, False), (3, LEFT, 1, False)), 2)
    assert matrix[1, 2] == matrix.sum() == 2


def test_curves_enclose_the_average_precision() -> None:
    random = np.random.default_rng(0)
    labelled = truths(*((image, LEFT, int(random.integers(3)), False) for image in range(60)))
    found = detections(
        *(
            (image, LEFT if random.random() < 0.7 else RIGHT, int(random.integers(3)), float(random.random()))
            for image in range(60)
            for _ in range(3)
        )
    )
    matches = match(found, labelled)
    curves = precision_curves(found, labelled, matches, 4)
    assert sorted(curves) == [0, 1, 2], "the fourth class has no objects"
    expected = average_precisions(found, labelled, matches, 4, points=101)
    for number, curve in curves.items():
        assert (np.diff(curve) <= 0).all()
        np.testing.assert_allclose(curve.mean(), expected[number])


def test_the_threshold_decides_what_counts_as_found() -> None:
    labelled = truths((0, LEFT, 0, False), (1, LEFT, 0, False))
    found = detections((0, LEFT, 0, 0.9), (0, RIGHT, 0, 0.9), (1, LEFT, 0, 0.1))
    quality = quality_of(found, labelled, 1, 0.25)
    assert (quality.recall, quality.precision) == (0.5, 0.5)
    np.testing.assert_array_equal(quality.confusion, [[1, 1], [1, 0]])
