"""Agreement: the original's confident detections are the objects that others are scored against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest import mock

import numpy as np
import pytest
from test_evaluation_whole import SEER, make_set, seer

from darkprune.data.loading import InputShape
from darkprune.errors import DataError
from darkprune.evaluation import agreement
from darkprune.evaluation.agreement import Agreement
from darkprune.evaluation.detector import Detector, Run
from darkprune.evaluation.heads import Head
from darkprune.runners.base import LoadedNetwork
from darkprune.runners.measure import agreement_with

Floats = np.ndarray


def paths_of(folder: Path, count: int = 5) -> list[Path]:
    make_set(folder, count)
    return [folder / f"{number}.png" for number in range(count)]


def detector(change: Callable[[Floats, int], None]) -> Detector:
    """The network of `seer`, changed from image to image."""
    seen = [0]

    def run(images: Floats) -> list[Floats]:
        (out,) = seer(images)
        for each in out:
            change(each, seen[0])
            seen[0] += 1
        return [out]

    return replace(SEER, run=run)


def _loaded(run: Run) -> LoadedNetwork:
    return cast(LoadedNetwork, SimpleNamespace(graph=None, head_maps=run))


def test_the_original_agrees_with_itself(tmp_path: Path) -> None:
    whole = Agreement(SEER, paths_of(tmp_path))
    assert (whole.objects, len(whole.paths)) == (5, 5)
    assert whole.of(SEER) == 1


def test_a_network_is_scored_by_the_share_that_it_finds(tmp_path: Path) -> None:
    def blind(out: Floats, number: int) -> None:
        if number % 5 in (1, 3):
            out[4] = -9

    assert Agreement(SEER, paths_of(tmp_path)).of(detector(blind)) == pytest.approx(3 / 5)


@pytest.mark.parametrize(("raw", "objects"), [(-3.5, 3), (-1.2, 5)])  # scores of 0.03 and 0.23
def test_what_the_original_hardly_believes_is_no_object(tmp_path: Path, raw: float, objects: int) -> None:
    def unsure(out: Floats, number: int) -> None:
        if number % 5 < 2:
            out[4] = np.where(out[4] > 0, raw, out[4])

    unsure_agreement = Agreement(detector(unsure), paths_of(tmp_path))
    assert unsure_agreement.objects == objects
    sure = unsure_agreement.find(SEER)
    assert (unsure_agreement.score(sure) < 1) == (objects == 3)  # the other two are false detections
    assert unsure_agreement.score(sure, confident=True) < 1


def test_sizes_count_by_what_the_original_is_confident_of(tmp_path: Path) -> None:
    """At its smaller input it misses the two of five objects that it is not sure of: that size counts in full."""

    def unsure(out: Floats, number: int) -> None:
        if number % 5 < 2:
            out[4] = np.where(out[4] > 0, -1.2, out[4])

    def blind(out: Floats, number: int) -> None:
        if number % 5 < 2:
            out[4] = -9

    paths = paths_of(tmp_path)
    first, second = Agreement(detector(unsure), paths), Agreement(detector(blind), paths)
    of_second = first.score(first.find(detector(blind)))
    assert of_second == pytest.approx(3 / 5)
    with mock.patch.object(Detector, "of", lambda _, run: Detector(run, SEER.heads, SEER.shape)):
        measure = agreement_with(_loaded(detector(unsure).run), paths, smaller=[_loaded(detector(blind).run)])
        assert measure(_loaded(detector(blind).run)) == pytest.approx((3 / 5 + 1) / 2)
    assert second.objects == 3


def test_classes_count_by_their_objects(tmp_path: Path) -> None:
    def second(out: Floats, number: int) -> None:
        if number % 5 == 0:
            out[5:7] = out[6:4:-1].copy()  # the first image shows class 1

    def lost(out: Floats, number: int) -> None:
        if number % 5 == 0:
            out[4] = -9

    assert Agreement(detector(second), paths_of(tmp_path)).of(detector(lost)) == pytest.approx(4 / 5)


def test_another_input_size_is_compared_by_boxes(tmp_path: Path) -> None:
    def at_half(images: Floats) -> list[Floats]:
        return seer(images.repeat(2, axis=2).repeat(2, axis=3))

    head = Head("yolo", 2, ((32.0, 32.0),), 64, 64)
    half: Run = at_half
    assert Agreement(SEER, paths_of(tmp_path)).of(Detector(half, (head,), InputShape(32, 32))) == 1


def test_over_several_sizes_it_is_a_mean(tmp_path: Path) -> None:
    """The original finds two of five objects at its smaller input, which counts 0.4 therefore."""

    def few(out: Floats, number: int) -> None:
        if number % 5 > 1:
            out[4] = -9

    def nothing(out: Floats, number: int) -> None:
        out[4] = -9

    paths = paths_of(tmp_path)
    with mock.patch.object(Detector, "of", lambda _, run: Detector(run, SEER.heads, SEER.shape)):
        measure = agreement_with(_loaded(seer), paths, smaller=[_loaded(detector(few).run)])
        back = Agreement(detector(few), paths).of(SEER)
        assert measure(_loaded(seer)) == pytest.approx((1 + 0.4 * back) / 1.4)
        assert measure(_loaded(detector(few).run)) == pytest.approx((0.4 + 0.4) / 1.4)
        blind = agreement_with(_loaded(seer), paths, smaller=[_loaded(detector(nothing).run)])
        assert blind(_loaded(seer)) == 1


def test_images_without_detections_say_nothing(tmp_path: Path) -> None:
    def nothing(out: Floats, number: int) -> None:
        out[4] = -9

    paths = paths_of(tmp_path)
    with pytest.raises(DataError, match="finds nothing in 5 images"):
        Agreement(detector(nothing), paths)
    with pytest.raises(DataError, match="not one of 1 images can be read"):
        Agreement(SEER, [tmp_path / "list.txt"])
    assert len(Agreement(SEER, [*paths, tmp_path / "list.txt"]).paths) == 5


def test_an_untrained_network_is_refused_before_its_boxes_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "MOST_CANDIDATES", 1)
    assert Agreement(SEER, paths_of(tmp_path)).objects == 5
    monkeypatch.setattr(agreement, "MOST_CANDIDATES", 0)
    monkeypatch.setattr("darkprune.evaluation.detector.suppress_for", None)
    with pytest.raises(DataError, match=r"finds 1 objects per image .* it is not trained"):
        Agreement(SEER, paths_of(tmp_path))
