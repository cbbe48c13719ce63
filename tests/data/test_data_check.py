"""`check_dataset`, and how `read_dataset` tells forms apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.data import DataProblem, read_dataset
from darkprune.data.check import check_dataset, check_objects
from darkprune.data.dataset import make_objects
from darkprune.data.image_files import list_images
from darkprune.errors import DataError, one_line
from darkprune.progress import ProgressEvent, reporting
from tests.assets import COCO_VAL, needs_assets


def make_set(root: Path, labels: dict[str, str | None], names: str = "a\nb\n") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in labels.items():
        cv2.imwrite(str(root / f"{name}.jpg"), np.zeros((8, 8, 3), np.uint8))
        if text is not None:
            (root / f"{name}.txt").write_text(text)
    (root / "list.txt").write_text("".join(f"{root}/{name}.jpg\n" for name in labels))
    (root / "x.names").write_text(names)
    (root / "x.data").write_text("valid=list.txt\nnames=x.names\n")
    return root / "x.data"


def found(data: Path, classes: int | None = None) -> list[tuple[str, str, int | None]]:
    return [(p.kind, p.file.name, p.line) for p in check_dataset(read_dataset(data), classes)]


def test_a_sound_set(tmp_path: Path) -> None:
    data = make_set(tmp_path, {"i": "0 .5 .5 1 1\n1 .000001 1.0 .2 .2\n", "empty": ""})
    assert found(data, 2) == []


def test_label_values(tmp_path: Path) -> None:
    lines = "0 .5 .5 .1 .1\n2 .5 .5 .1 .1\n0 1.5 .5 .1 .1\n0 .5 .5 0 .1\n0 .5 .5 .1 1.2\n-1 .5 .5 .1 .1\nx\n0 9 9 9 9\n"
    data = make_set(tmp_path, {"i": lines})
    problems = check_dataset(read_dataset(data), 2)
    assert [(p.kind, p.line) for p in problems] == [
        ("class", 2),
        ("label", 3),
        ("label", 4),
        ("label", 5),
        ("class", 6),
        ("label", 7),
    ]
    assert str(problems[0]) == f"{tmp_path}/i.txt:2: class 2 is beyond the classes (0 to 1)"
    assert "1.5, 0.5" in problems[1].message


def test_lists_names_and_images(tmp_path: Path) -> None:
    data = make_set(tmp_path, {"i": "", "cut": "", "gone": "", "bare": None}, "a\na\n\n")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-20])
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "list.txt").write_text((tmp_path / "list.txt").read_text() + f"{tmp_path}/i.jpg\n")
    kinds = found(data, 3)
    assert kinds == [
        ("names", "x.names", 3),
        ("names", "x.data", None),
        ("names", "x.data", None),
        ("list", "i.jpg", None),
        ("image", "cut.jpg", None),
        ("image", "gone.jpg", None),
        ("missing", "bare.txt", None),
    ]


def test_an_object_without_a_line_names_its_image() -> None:
    objects = make_objects([[2, 0.5, 0.1, 0.1]], [0])
    (problem,) = check_objects(objects, Path("x.json"), 1, "a.jpg")
    assert str(problem) == "x.json: an object of a.jpg: centre 2, 0.5 is outside the image (0 to 1)"


def test_without_decoding(tmp_path: Path) -> None:
    data = make_set(tmp_path, {"cut": "", "gone": ""})
    (tmp_path / "cut.jpg").write_bytes(b"")
    (tmp_path / "gone.jpg").unlink()
    events: list[ProgressEvent] = []
    with reporting(events.append):
        problems = check_dataset(read_dataset(data), decode=False)
    assert [(p.kind, p.file.name) for p in problems] == [("image", "gone.jpg")]
    assert [(event.done, event.total) for event in events] == [(0, 2), (1, 2), (2, 2)]


def test_problems_are_safe_to_print() -> None:
    problem = DataProblem(Path("a\x1b[31m\n.txt"), 3, "is odd")
    assert str(problem) == "a?[31m .txt:3: is odd"
    assert one_line("x" * 300, 200) == "x" * 200 + "…"


@pytest.mark.parametrize(
    ("name", "match"),
    [("x.cfg", "no data set"), ("gone.data", "no such file"), (".", "no labels of them"), ("x.jpg", "no data set")],
)
def test_forms_that_are_not_known(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "x.cfg").write_text("[net]\n")
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=match):
        read_dataset(tmp_path / name)


def test_list_and_folders(tmp_path: Path) -> None:
    make_set(tmp_path / "s", {"i": "0 .5 .5 1 1\n"})
    assert len(read_dataset(tmp_path / "s").images) == 1  # its only .data file
    assert len(read_dataset(tmp_path / "s" / "list.txt").images[0].objects()) == 1
    for split in ("train", "val"):
        (tmp_path / "f" / "images" / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "f" / "images" / split / f"{split}.PNG"), np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "f" / "images" / split / f"{split}.txt").write_text("0 .5 .5 1 1\n")
    assert [r.path.stem for r in read_dataset(tmp_path / "f", "train").images] == ["train"]
    assert [r.path.stem for r in read_dataset(tmp_path / "f").images] == ["val"]
    with pytest.raises(DataError, match="no folder for the split `night`"):
        read_dataset(tmp_path / "f", "night")
    assert [path.stem for path in list_images(tmp_path / "f")] == ["train", "val"]
    with pytest.raises(DataError, match="holds no images"):
        list_images(tmp_path / "f" / "images" / "none")


@needs_assets
def test_coco_val() -> None:
    dataset = read_dataset(COCO_VAL)
    assert (len(dataset), len(dataset.class_names)) == (328, 80)
    assert sum(len(image.labels.read().objects) for image in dataset.images) == 2619
    problems = check_dataset(dataset, 80, decode=False)
    assert {problem.kind for problem in problems} <= {"missing"}


def test_images_behind_a_link_are_found_and_a_loop_ends(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "linked").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(tmp_path / "given")
    assert list_images(tmp_path / "given") == (tmp_path / "given" / "linked" / "a.png",)
