"""Pascal VOC folders."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.data import read_dataset
from darkprune.data.check import check_dataset
from darkprune.data.forms.voc import VocLabels
from darkprune.errors import DataError
from tests.assets import BCCD, needs_assets

OBJECT = """<object>
<name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
</object>
"""


def annotation(*objects: str, size: tuple[int, int] = (100, 50)) -> str:
    head = f"<annotation>\n<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>\n"
    return head + "".join(objects) + "</annotation>\n"


def item(name: str, box: tuple[object, ...] = (11, 11, 31, 21), difficult: int = 0) -> str:
    return OBJECT.format(name=name, box=box, difficult=difficult)


def make_voc(root: Path, files: dict[str, str], sets: dict[str, str] | None = None) -> Path:
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.png"), np.zeros((50, 100, 3), np.uint8))
    for name, text in (sets or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def test_boxes_names_and_difficult(tmp_path: Path) -> None:
    text = annotation(item("dog"), item("cat", (1, 1, 101, 51), 1))
    dataset = read_dataset(make_voc(tmp_path / "VOC", {"a": text, "b": annotation(item("ant"))}, {"val": "a\n"}))
    assert dataset.class_names == ("ant", "cat", "dog")  # of all annotations, so that splits agree
    objects = dataset.images[0].objects()
    assert dataset.images[0].path.name == "a.png"
    assert objects.classes.tolist() == [2, 1]
    assert objects.difficult.tolist() == [False, True]
    # voc_label.py: centre (11 + 31)/2 − 1 = 20 of 100, size 20 of 100
    assert np.allclose(objects.boxes[0], [0.2, 0.3, 0.2, 0.2])
    assert objects.lines.tolist() == [3, 8]


def test_splits(tmp_path: Path) -> None:
    files = {name: annotation(item("x")) for name in "abc"}
    root = make_voc(tmp_path, files, {"train": "a 1\nb -1\n", "test": "c\n"})
    assert [record.path.stem for record in read_dataset(root, "train").images] == ["a", "b"]
    assert [record.path.stem for record in read_dataset(root, "valid").images] == ["c"]  # no val.txt: test.txt
    assert [record.path.stem for record in read_dataset(root, "test").images] == ["c"]
    with pytest.raises(DataError, match="it has test, train"):
        read_dataset(root, "night")


def test_without_image_sets_everything_is_in(tmp_path: Path) -> None:
    root = make_voc(tmp_path, {"b": annotation(), "a": annotation()})
    assert [record.path.stem for record in read_dataset(root).images] == ["a", "b"]


def test_names_file_gives_the_order(tmp_path: Path) -> None:
    names = tmp_path / "x.names"
    names.write_text("dog\ncat\n")
    root = make_voc(tmp_path / "v", {"a": annotation(item("cat"), item("emu"))})
    reading = read_dataset(root, names=names).images[0].labels.read()
    assert reading.objects.classes.tolist() == [1]
    assert [(problem.kind, problem.line) for problem in reading.problems] == [("class", 8)]


def test_size_from_the_image_where_the_annotation_has_none(tmp_path: Path) -> None:
    root = make_voc(tmp_path, {"a": annotation(item("x"), size=(0, 0))})
    assert np.allclose(read_dataset(root).images[0].objects().boxes[0], [0.2, 0.3, 0.2, 0.2])


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BOMB + annotation(item("&c;")), "document type"),
        ((BOMB + annotation()).encode("utf-16"), "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type"),
        ("<annotation><object>", "not well-formed"),
        ("", "not well-formed"),
        ("<a>" * 100 + "</a>" * 100, "deep"),
        (annotation(item("x", ("a", 1, 2, 3))), "bndbox"),
        (annotation(item("x", ("nan", 1, 2, 3))), "bndbox"),
        (annotation("<object><name>x</name></object>"), "bndbox"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "line 1|cannot be read"),
    ],
)
def test_bad_annotations_are_reported(tmp_path: Path, text: str | bytes, match: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    reading = VocLabels(file, tmp_path / "a.jpg", ("x",)).read()
    assert len(reading.objects) == 0
    assert len(reading.problems) == 1
    assert re.search(match, str(reading.problems[0]))


def test_missing_annotation(tmp_path: Path) -> None:
    root = make_voc(tmp_path, {"a": annotation()}, {"val": "a\nghost\n"})
    kinds = [problem.kind for problem in check_dataset(read_dataset(root))]
    assert kinds == ["missing", "image"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100) | st.text("<>/annotionbjecsizewdhv 019&;!", max_size=90).map(str.encode))
def test_any_annotation_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.xml"
    file.write_bytes(data)
    reading = VocLabels(file, file, ("x",)).read()
    assert len(reading.objects) or reading.problems or b"<" in data


@needs_assets
def test_bccd() -> None:
    sets = {split: read_dataset(BCCD, split) for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in sets.items()} == {"train": 205, "valid": 87, "test": 72}
    assert sets["train"].class_names == ("Platelets", "RBC", "WBC")
    objects = [record.objects() for record in sets["test"].images]
    assert sum(map(len, objects)) > 700
    boxes = np.concatenate([found.boxes for found in objects])
    assert ((boxes[:, :2] > 0) & (boxes[:, :2] <= 1)).all()
    assert check_dataset(sets["test"], 3) == []
