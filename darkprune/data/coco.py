"""COCO's JSON form: one file with `images`, `annotations` and `categories`; boxes are [x, y, width, height] in pixels.

Class i is the i-th category by id, which for COCO itself is the order of darknet's coco.names. `iscrowd` regions become
`difficult` objects: found or not, they do not count.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from darkprune.data.darknet_data import read_names
from darkprune.data.dataset import (
    DataProblem,
    Dataset,
    ImageRecord,
    LabelReading,
    StoredLabels,
    make_objects,
    printable,
)
from darkprune.errors import DataError
from darkprune.runs.json_file import read_json

MAX_JSON_BYTES = 2 << 30
_KINDS = {"train": ("train",), "valid": ("valid", "val", "test")}


def find_coco(path: Path, split: str) -> Path | None:
    """Returns the annotation file of a COCO-like folder, None where there is none.

    Known layouts: annotations/instances_<split>….json, annotations/<split>….json, and
    <split>/_annotations.coco.json; `valid` also means `val` and `test`.
    """
    for kind in _KINDS.get(split, (split,)):
        for pattern in (f"annotations/instances_{kind}*.json", f"annotations/{kind}*.json", f"{kind}/*.coco.json"):
            found = sorted(path.glob(pattern))
            if found:
                return found[0]
    return None


def read_coco(path: Path, names: Path | None = None, images: Path | None = None) -> Dataset:
    """Reads a COCO annotation file.

    Args:
        path: the JSON file.
        names: a names file that gives the order of the classes, matched to the categories by name.
        images: folder of the images; by default looked for beside the file, as the usual layouts have it.

    Raises:
        DataError: not JSON, not COCO's form, without images, or a category that the names file lacks.
    """
    document = _load(path)
    problems: list[DataProblem] = []
    class_names, number_of = _classes(document["categories"], names, path, problems)
    sizes, files = _images(document["images"], path, problems)
    if not files:
        raise DataError(f"{path}: lists no images")
    folder = images if images is not None else _image_folder(path, next(iter(files.values())))
    readings = _readings(document["annotations"], sizes, number_of, path, problems)
    empty = LabelReading(make_objects([], []))
    records = tuple(
        ImageRecord(folder / file, StoredLabels(path, readings.get(key, empty)), *sizes[key])
        for key, file in files.items()
    )
    return Dataset(path.stem, class_names, records, tuple(problems), path)


def _load(path: Path) -> dict[str, list[Any]]:
    document = read_json(path, "a COCO annotation file", MAX_JSON_BYTES, allow_nan=True).value
    if not isinstance(document, dict):
        raise DataError(f"{path}: is JSON but not in COCO's form; it has to be an object with images and annotations")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise DataError(f"{path}: has no list `{key}`; COCO's form has images, annotations and categories")
    return document


def _integer(value: object) -> int | None:
    """Returns a whole number that JSON gave as such, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62 else None


def _classes(
    categories: list[Any], names: Path | None, path: Path, problems: list[DataProblem]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Returns the class names and a map from category id to class."""
    found: dict[int, str] = {}
    for category in categories:
        key = _integer(category.get("id")) if isinstance(category, dict) else None
        if key is None or not isinstance(category.get("name"), str):
            problems.append(
                DataProblem(path, None, "a category lacks a whole `id` or a `name`; it is ignored", "names")
            )
            continue
        if key in found:
            problems.append(DataProblem(path, None, f"category id {key} appears twice; the first counts", "names"))
        found.setdefault(key, category["name"])
    if names is None:
        ids = sorted(found)
        return tuple(found[key] for key in ids), {key: number for number, key in enumerate(ids)}
    order, more = read_names(names)
    problems += more
    numbers = {name: number for number, name in reversed(list(enumerate(order)))}
    missing = sorted(name for name in found.values() if name not in numbers)
    if missing:
        shown = ", ".join(printable(name, 30) for name in missing[:5])
        raise DataError(f"{names}: lacks {len(missing)} categories of {path}: {shown}; add them or leave the file away")
    return order, {key: numbers[name] for key, name in found.items()}


def _images(
    images: list[Any], path: Path, problems: list[DataProblem]
) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
    """Returns sizes (width, height) and file names by image id."""
    sizes: dict[int, tuple[int, int]] = {}
    files: dict[int, str] = {}
    for position, image in enumerate(images):
        fields = image if isinstance(image, dict) else {}
        key, width, height = (_integer(fields.get(name)) for name in ("id", "width", "height"))
        file = fields.get("file_name")
        if key is None or not isinstance(file, str) or not file or "\0" in file:
            problems.append(
                DataProblem(path, None, f"image number {position} lacks id or file_name; it is ignored", "list")
            )
        elif width is None or height is None or not (0 < width < 10**6 and 0 < height < 10**6):
            text = f"image '{printable(file, 60)}' lacks a sensible width and height; it is ignored"
            problems.append(DataProblem(path, None, text, "list"))
        elif key in files:
            problems.append(DataProblem(path, None, f"image id {key} appears twice; the first counts", "list"))
        else:
            sizes[key], files[key] = (width, height), file
    return sizes, files


def _readings(
    annotations: list[Any],
    sizes: dict[int, tuple[int, int]],
    number_of: dict[int, int],
    path: Path,
    problems: list[DataProblem],
) -> dict[int, LabelReading]:
    """Returns the labels by image id; one pass over the list, then everything in arrays."""
    keys, classes, crowd, boxes = [], [], [], []
    for position, annotation in enumerate(annotations):
        fields = annotation if isinstance(annotation, dict) else {}
        key, category = _integer(fields.get("image_id")), _integer(fields.get("category_id"))
        box = _box(fields.get("bbox"))
        what = f"annotation {printable(str(fields.get('id', f'number {position}')), 30)}"
        if key is None or key not in sizes:
            problems.append(DataProblem(path, None, f"{what} belongs to no image of the list; it is ignored"))
        elif category is None or category not in number_of:
            problems.append(DataProblem(path, None, f"{what} has an unknown category_id; it is ignored", "class"))
        elif box is None:
            problems.append(DataProblem(path, None, f"{what} has no bbox of four numbers; it is ignored"))
        else:
            keys.append(key)
            classes.append(number_of[category])
            crowd.append(_integer(fields.get("iscrowd")) == 1)
            boxes.append(box)
    image = np.array(keys, np.int64)
    order = np.argsort(image, kind="stable")
    image = image[order]
    table = _relative(np.array(boxes, np.float64).reshape(-1, 4)[order], [sizes[int(key)] for key in image])
    numbers, hard = np.array(classes, np.int64)[order], np.array(crowd, np.bool_)[order]
    unique, starts = np.unique(image, return_index=True)
    ends = np.append(starts, len(image))[1:]
    return {
        int(key): LabelReading(make_objects(table[low:high], numbers[low:high], hard[low:high]))
        for key, low, high in zip(unique, starts, ends, strict=True)
    }


def _box(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in value):
        return None
    try:
        numbers = tuple(float(part) for part in value)
    except OverflowError:
        return None
    return numbers if all(math.isfinite(number) and abs(number) < 1e9 for number in numbers) else None


def _relative(pixels: npt.NDArray[np.float64], sizes: list[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """Turns x, y, w, h in pixels (corner) into cx, cy, w, h relative to the image."""
    scale = np.array(sizes, np.float64).reshape(-1, 2)
    centre = pixels[:, :2] + pixels[:, 2:] / 2
    return np.concatenate([centre / scale, pixels[:, 2:] / scale], axis=1)


def _image_folder(path: Path, file: str) -> Path:
    """Finds the folder that holds the images: the first usual place where the first of them lies."""
    parent = path.parent
    base = path.stem.removeprefix("instances_")
    places = [parent, parent / "images", parent.parent / "images" / base, parent.parent / base]
    places += [parent.parent / "images", parent.parent, parent / base]
    return next((place for place in places if os.path.exists(place / file)), parent)
