"""COCO's JSON form."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.data import read_dataset
from darkprune.errors import DataError


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 200, "height": 100},
            {"id": 3, "file_name": "a.jpg", "width": 100, "height": 100},
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 90, "bbox": [10, 20, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 100.0, 50], "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1]},
        ],
    }
    return base | changes


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_boxes_classes_and_crowds(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path / "x.json", document()))
    assert dataset.class_names == ("person", "brush")
    assert [record.path.name for record in dataset.images] == ["b.jpg", "a.jpg"]
    assert (dataset.images[0].width, dataset.images[0].height) == (200, 100)
    first, second = (record.objects() for record in dataset.images)
    assert np.allclose(first.boxes, [[0.25, 0.25, 0.5, 0.5]])
    assert first.difficult.tolist() == [True]
    assert second.classes.tolist() == [1, 0]
    assert np.allclose(second.boxes[0], [0.25, 0.4, 0.3, 0.4])


@pytest.mark.parametrize(
    ("annotations", "image"),
    [
        ("annotations/instances_val2017.json", "val2017/a.jpg"),
        ("annotations/instances_val2017.json", "images/val2017/a.jpg"),
        ("annotations/val.json", "images/a.jpg"),
        ("valid/_annotations.coco.json", "valid/a.jpg"),
    ],
)
def test_layouts(tmp_path: Path, annotations: str, image: str) -> None:
    document_ = document(images=[{"id": 3, "file_name": "a.jpg", "width": 9, "height": 9}], annotations=[])
    write(tmp_path / annotations, document_)
    (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / image).write_bytes(b"")
    assert read_dataset(tmp_path).images[0].path == tmp_path / image


def test_names_file(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", document())
    (tmp_path / "n.names").write_text("sky\nbrush\nperson\n")
    dataset = read_dataset(file, names=tmp_path / "n.names")
    assert dataset.images[1].objects().classes.tolist() == [1, 2]
    (tmp_path / "n.names").write_text("brush\n")
    with pytest.raises(DataError, match=r"lacks 1 categories.*person"):
        read_dataset(file, names=tmp_path / "n.names")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": []}, "lists no images"),
        ({"images": 3}, "no list `images`"),
        ({"categories": None}, "no list `categories`"),
        ({"images": [{"id": True, "file_name": "a", "width": 1, "height": 1}]}, "lists no images"),
    ],
)
def test_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_dataset(write(tmp_path / "x.json", document(**change)))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"images": NaN}', "\udcff"])
def test_not_coco_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError):
        read_dataset(tmp_path / "x.json")


def test_bad_parts_are_reported_and_left_out(tmp_path: Path) -> None:
    good = document()
    bad = [
        None,
        {"id": 10, "image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]},
        {"id": 11, "image_id": 3, "category_id": 5, "bbox": [0, 0, 1, 1]},
        {"id": 12, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1]},
        {"id": 13, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, float("nan")]},
        {"id": 14, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 10**400]},
    ]
    images = [*good["images"], 5, {"id": 8, "file_name": "c.jpg"}, good["images"][0]]
    file = write(tmp_path / "x.json", document(annotations=good["annotations"] + bad, images=images))
    dataset = read_dataset(file)
    assert len(dataset.problems) == len(bad) + 3
    assert sum(len(record.objects()) for record in dataset.images) == 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "name"]), inner),
    max_leaves=8,
)
keys = st.sampled_from(["id", "image_id", "category_id", "bbox", "file_name", "width", "height", "name", "iscrowd"])
entries = st.lists(json_values | st.dictionaries(keys, json_values), max_size=4)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({"images": entries, "annotations": entries, "categories": entries}))
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    merged = {key: document()[key] + value for key, value in content.items()}
    for version in (content, merged):
        file = write(tmp_path_factory.getbasetemp() / "fuzz.json", version)
        with contextlib.suppress(DataError):
            assert read_dataset(file).images
