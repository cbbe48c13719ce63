"""COCO's JSON form: one file with `images`, `annotations` and `categories`; boxes are [x, y, width, height] in pixels.

Class i is the i-th category by id, which for COCO itself is the order of darknet's coco.names. `iscrowd` regions become
`difficult` objects: found or not, they do not count. What other tools write is read too: ids as text, images without
sizes, backslashes in file names, Roboflow's category that only is above the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.data.class_names import read_names
from darkprune.data.dataset import (
    DataProblem,
    Dataset,
    ImageRecord,
    LabelReading,
    ProblemKind,
    StoredLabels,
    make_objects,
)
from darkprune.data.forms.folders import names_a_split, split_names
from darkprune.data.images import image_size
from darkprune.errors import DataError, one_line
from darkprune.runs.json_file import read_json

MAX_JSON_BYTES = 2 << 30
_HEAD_BYTES = 1 << 16  #: of a file, in which it shows itself to be COCO
Size = tuple[int, int]
Key = int | str


def find_coco(folder: Path, split: str) -> tuple[Path, bool] | None:
    """Returns the annotation file of a COCO-like folder, and whether it is of the split alone; None without one.

    Known layouts: annotations/instances_<split>….json, annotations/<split>….json, <split>/_annotations.coco.json,
    and a single JSON file in the folder, or in annotations/ where its name is not that of a split.
    """
    for kind in split_names(split):
        for pattern in (f"annotations/instances_{kind}*.json", f"annotations/{kind}*.json", f"{kind}/*.coco.json"):
            found = sorted(folder.glob(pattern))
            if found:
                return found[0], True
    whole = [path for path in folder.glob("annotations/*.json") if not names_a_split(path.name)]
    alone = [path for path in sorted([*folder.glob("*.json"), *whole]) if _looks_like_coco(path)]
    return (alone[0], False) if len(alone) == 1 else None


def _looks_like_coco(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return any(key in head for key in (b'"annotations"', b'"images"', b'"file_name"'))


def read_coco(path: Path, names: Path | None = None, has_splits: bool = False) -> Dataset:
    """Reads a COCO annotation file.

    Args:
        path: the JSON file.
        names: a names file that gives the order of the classes, matched to the categories by name.
        has_splits: whether the file holds one split of several.

    Raises:
        DataError: not JSON, not COCO's form, without images, or a category that the names file lacks.
    """
    document = read_json(path, "a COCO annotation file", MAX_JSON_BYTES, allow_nan=True).value
    if not isinstance(document, dict):
        raise DataError(f"{path}: is JSON but not in COCO's form; it has to be an object with images and annotations")
    lists: list[list[object]] = []
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise DataError(f"{path}: has no list `{key}`; COCO's form has images, annotations and categories")
        lists.append(document[key])
    images, annotations, categories = lists
    reader = _Reader(path)
    class_names, number_of = reader.classes(categories, _used(annotations), names)
    files = reader.images(images)
    if not files:
        raise DataError(f"{path}: lists no images")
    readings = reader.readings(annotations, {key: size for key, (_, size) in files.items()}, number_of)
    empty = LabelReading()
    records = tuple(
        ImageRecord(image, StoredLabels(path, readings.get(key, empty)), *size) for key, (image, size) in files.items()
    )
    return Dataset(
        name=path.stem,
        class_names=class_names,
        images=records,
        problems=tuple(reader.problems),
        source=path,
        form="COCO",
        has_splits=has_splits,
        labels_name_classes=True,
    )


class _Reader:
    """Reads the parts of a document and collects their problems."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[DataProblem] = []

    def _report(self, text: str, kind: ProblemKind = "label") -> None:
        self.problems.append(DataProblem(self.path, None, text, kind))

    def classes(
        self, categories: Sequence[object], used: set[Key], names: Path | None
    ) -> tuple[tuple[str, ...], dict[Key, int]]:
        """Returns the class names and a map from category id to class.

        Args:
            categories: of the document.
            used: ids of categories that have annotations.
            names: a names file that gives the order.
        """
        found: dict[Key, str] = {}
        above: set[object] = set()
        for category in map(_fields, categories):
            key, name = _key(category.get("id")), category.get("name")
            if key is None or not isinstance(name, str):
                self._report("a category lacks `id` or `name`; it is ignored", "names")
                continue
            if key in found:
                self._report(f"category id {one_line(str(key), 30)} appears twice; the first counts", "names")
            found.setdefault(key, name)
            parent = category.get("supercategory")
            if isinstance(parent, str) and parent != name:
                above.add(parent)
        for key, name in list(found.items()):
            if name in above and key not in used and len(found) > 1:  # Roboflow: the project's name as category 0
                self._report(f"category '{one_line(name, 40)}' is only above the others: it is no class", "names")
                del found[key]
        if names is None:
            ids = sorted(found, key=lambda key: (isinstance(key, str), key))
            return tuple(found[key] for key in ids), {key: number for number, key in enumerate(ids)}
        order, more = read_names(names)
        self.problems += more
        numbers = {name: number for number, name in reversed(list(enumerate(order)))}
        missing = sorted(name for name in found.values() if name not in numbers)
        if missing:
            shown = ", ".join(one_line(name, 30) for name in missing[:5])
            raise DataError(
                f"{names}: lacks {len(missing)} categories of {self.path}: {shown}; add them or leave the file away"
            )
        return order, {key: numbers[name] for key, name in found.items()}

    def images(self, images: Sequence[object]) -> dict[Key, tuple[Path, Size]]:
        """Returns path and size (width, height) of every image by its id."""
        listed: dict[Key, tuple[str, Size | None]] = {}
        for position, image in enumerate(map(_fields, images)):
            key, file = _key(image.get("id")), image.get("file_name")
            if key is None or not isinstance(file, str) or not file or "\0" in file:
                self._report(f"image number {position} lacks id or file_name; it is ignored", "list")
            elif key in listed:
                self._report(f"image id {one_line(str(key), 30)} appears twice; the first counts", "list")
            else:
                listed[key] = file, _size(image)
        if not listed:
            return {}
        folder = _image_folder(self.path, next(iter(listed.values()))[0])
        found: dict[Key, tuple[Path, Size]] = {}
        for key, (file, size) in listed.items():
            path = next((path for name in _spellings(file) if os.path.exists(path := folder / name)), folder / file)
            try:
                found[key] = path, size or image_size(path)
            except DataError as error:
                self._report(f"an image without width and height cannot be read: {error}; it is ignored", "list")
        return found

    def readings(
        self, annotations: Sequence[object], sizes: Mapping[Key, Size], number_of: Mapping[Key, int]
    ) -> dict[Key, LabelReading]:
        """Returns the labels by image id; one pass over the list, then everything in arrays."""
        positions = {key: position for position, key in enumerate(sizes)}
        images, classes, crowd, boxes = [], [], [], []
        for position, annotation in enumerate(map(_fields, annotations)):
            key, category = _key(annotation.get("image_id")), _key(annotation.get("category_id"))
            box = _box(annotation.get("bbox"))
            what = f"annotation {one_line(str(annotation.get('id', f'number {position}')), 30)}"
            if key is None or key not in positions:
                self._report(f"{what} belongs to no image of the list; it is ignored")
            elif category is None or category not in number_of:
                self._report(f"{what} has an unknown category_id; it is ignored", "class")
            elif box is None:
                self._report(f"{what} has no bbox of four numbers; it is ignored")
            else:
                images.append(positions[key])
                classes.append(number_of[category])
                crowd.append(_key(annotation.get("iscrowd")) == 1)
                boxes.append(box)
        image = np.array(images, np.int64)
        order = np.argsort(image, kind="stable")
        image = image[order]
        scale = np.array(list(sizes.values()), np.float64).reshape(-1, 2)[image]
        table = _relative(np.array(boxes, np.float64).reshape(-1, 4)[order], scale)
        numbers, hard = np.array(classes, np.int64)[order], np.array(crowd, np.bool_)[order]
        keys = list(sizes)
        unique, starts = np.unique(image, return_index=True)
        ends = np.append(starts, len(image))[1:]
        return {
            keys[position]: LabelReading(make_objects(table[low:high], numbers[low:high], hard[low:high]))
            for position, low, high in zip(unique.tolist(), starts, ends, strict=True)
        }


def _fields(entry: object) -> dict[str, object]:
    return entry if isinstance(entry, dict) else {}


def _used(annotations: Sequence[object]) -> set[Key]:
    return {key for annotation in map(_fields, annotations) if (key := _key(annotation.get("category_id"))) is not None}


def _key(value: object) -> Key | None:
    """Returns an id: a whole number, also where it is written as text, or other text; None for anything else."""
    if isinstance(value, str) and 0 < len(value) <= 200:
        return int(value) if value.isascii() and value.isdigit() and len(value) < 18 else value
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62 else None


def _size(image: Mapping[str, object]) -> Size | None:
    width, height = _key(image.get("width")), _key(image.get("height"))
    if isinstance(width, int) and isinstance(height, int) and 0 < width < 10**6 and 0 < height < 10**6:
        return width, height
    return None


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


def _relative(pixels: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turns x, y, w, h in pixels (corner) into cx, cy, w, h relative to images of width and height `scale`, (n, 2)."""
    centre = pixels[:, :2] + pixels[:, 2:] / 2
    return np.concatenate([centre / scale, pixels[:, 2:] / scale], axis=1)


def _image_folder(path: Path, file: str) -> Path:
    """Finds the folder that holds the images: the first usual place where the first of them lies."""
    parent = path.parent
    base = path.stem.removeprefix("instances_")
    places = [parent, parent / "images", parent.parent / "images" / base, parent.parent / base]
    places += [parent.parent / "images", parent.parent, parent / base]
    exists = ((os.path.exists(place / name), place) for name in _spellings(file) for place in places)
    return next((place for found, place in exists if found), parent)


def _spellings(file: str) -> tuple[str, ...]:
    """Returns how a file name may be meant: as it is, of Windows, or with folders of another machine (Label Studio)."""
    slashed = file.replace("\\", "/")
    return file, slashed, slashed.rsplit("/", 1)[-1]
