"""`open_labelled`: what every command that measures says of its images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.data import read_dataset
from darkprune.data.check import check_dataset
from darkprune.data.labelled import open_labelled
from darkprune.errors import DataError


def make_set(root: Path, labels: list[str | None], names: str = "a\nb\nc\n") -> Path:
    for number, text in enumerate(labels):
        cv2.imwrite(str(root / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
        if text is not None:
            (root / f"{number}.txt").write_text(text)
    (root / "list.txt").write_text("".join(f"{root}/{number}.png\n" for number in range(len(labels))))
    (root / "x.names").write_text(names)
    (root / "x.data").write_text("valid=list.txt\nnames=x.names\n")
    return root / "x.data"


BOX = ".5 .5 .2 .2"


@pytest.mark.parametrize(
    ("labels", "warnings"),
    [
        ([f"0 {BOX}\n2 {BOX}\n"], []),
        ([f"0 {BOX}\n", None], ["labels of 1 of 2 images are missing"]),
        ([f"1 {BOX}\n3 {BOX}\n"], ["class numbers run from 1 to 3", "class 3 is beyond the classes (0 to 2)"]),
        ([f"0 {BOX} .9\n"], ["a sixth number per line is left out; darknet would shift"]),
        ([f"0.0 {BOX}\n"], ["class 0.0 is read as 0"]),
        (
            [f"0 {BOX}\n"] + [f"5 {BOX}\n"] * 9,
            ["class 5 is beyond the classes (0 to 2) (and 8 more like it"],
        ),
        ([f"0 {BOX}\n5 {BOX}\nx\n"], ["class 5", "label line"]),
    ],
)
def test_warnings(tmp_path: Path, labels: list[str | None], warnings: list[str]) -> None:
    found = open_labelled(make_set(tmp_path, labels), "valid", None, 3).warnings
    assert len(found) == len(warnings)
    assert all(part in text for part, text in zip(warnings, found, strict=True))


@pytest.mark.parametrize(
    ("labels", "names", "match"),
    [
        ([f"0 {BOX}\n"], "a\nb\n", "has 2 names but the network's head 3 classes"),
        ([f"7 {BOX}\n"], "a\nb\nc\n", "no labelled objects of the network's 3 classes.*class 7"),
        (["0,.5,.5,.2,.2\n"], "a\nb\nc\n", "no labelled objects.*not numbers"),
        ([None], "a\nb\nc\n", "no labelled objects.*no such label file"),
        (["0 1.7 .5 .2 .2\n"], "a\nb\nc\n", "no labelled objects.*outside the image"),
        ([""], "a\nb\nc\n", "no labelled objects of the network's 3 classes$"),
    ],
)
def test_nothing_to_measure_is_an_error(tmp_path: Path, labels: list[str | None], names: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        open_labelled(make_set(tmp_path, labels, names), "valid", None, 3)


def test_strict(tmp_path: Path) -> None:
    data = make_set(tmp_path, [f"0 {BOX}\n", None])
    with pytest.raises(DataError, match="one of 1 problems"):
        open_labelled(data, "valid", None, 3, strict=True)


def test_images_that_are_not_there(tmp_path: Path) -> None:
    data = make_set(tmp_path, [f"0 {BOX}\n"])
    (tmp_path / "0.png").unlink()
    (tmp_path / "0.txt").unlink()
    with pytest.raises(DataError, match=r"not one of its 1 images is there.*0\.png: no such image"):
        open_labelled(data, "valid", None, 3)


def test_a_names_file_that_does_not_fit_its_set_is_the_cause(tmp_path: Path) -> None:
    data = make_set(tmp_path, [f"0 {BOX}\n"], "a\nb\n")
    data.write_text(data.read_text() + "classes=3\n")
    with pytest.raises(DataError, match=r"says classes=3 but .*x\.names holds 2 names.*; the network's head has 3"):
        open_labelled(data, "valid", None, 3)


def test_a_set_without_objects_is_a_problem(tmp_path: Path) -> None:
    (problem,) = check_dataset(read_dataset(make_set(tmp_path, ["", ""])), 3)
    assert "none of its 2 images has a labelled object" in str(problem)
