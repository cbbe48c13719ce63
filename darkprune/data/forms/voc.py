"""Pascal VOC: Annotations/*.xml, ImageSets/Main/*.txt, JPEGImages/.

Boxes become relative as in darknet's `voc_label.py`: centre = (min + max)/2 − 1, size = max − min, over the image's
size. The XML is read with expat directly: it gives line numbers, and a document type, which would allow entity
expansion, is refused where it starts.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from xml.parsers import expat

import numpy as np

from darkprune.darknet.input import read_file
from darkprune.data.class_names import read_names
from darkprune.data.dataset import (
    DataProblem,
    Dataset,
    ImageRecord,
    LabelReading,
    StoredLabels,
    make_objects,
)
from darkprune.data.forms.folders import SPLITS, split_folder, split_folders, split_names
from darkprune.data.image_files import is_image
from darkprune.data.images import image_size
from darkprune.data.text_files import MAX_LIST_BYTES, read_lines
from darkprune.errors import DataError, one_line

MAX_XML_BYTES = 8 << 20
_MAX_DEPTH = 32
_CORNERS = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")


@dataclass
class _Item:
    line: int
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Annotation:
    size: dict[str, str]
    items: list[_Item]


@dataclass(frozen=True)
class VocLabels:
    """The XML file of one image.

    Attributes:
        file: the annotation.
        image: the image, asked for its size where the XML does not say it.
        class_names: name of class i at i.
    """

    file: Path
    image: Path
    class_names: tuple[str, ...]

    def read(self) -> LabelReading:
        """Reads the objects; those of unknown classes or without a usable box are dropped and reported."""
        return _read_annotation(self.file, self.image, self.class_names)


@dataclass(frozen=True)
class VocFolder:
    """Where a set in this form lies.

    Attributes:
        root: the folder of the set.
        annotations: folder of the XML files.
        images: folder of the images; the same one in flat sets.
        listing: the image set of the split; None where everything is in it.
        has_splits: whether the set tells training and validation images apart.
    """

    root: Path
    annotations: Path
    images: Path
    listing: Path | None = None
    has_splits: bool = False


def find_voc(folder: Path, split: str) -> VocFolder | None:
    """Finds a set in a folder, or in its only subfolder that holds one.

    Besides Pascal VOC's own folders, other tools write annotations/ and images/, XML files beside the images, or a
    folder of such files for every split.

    Args:
        folder: the folder.
        split: `train` (train.txt, else trainval.txt), `valid` (val.txt, else test.txt), or the name of an image set.

    Raises:
        DataError: it is such a folder but has no such split.
    """
    found = _layout(folder)
    if found is not None:
        return _with_image_set(found, split)
    named = split_folders(folder)
    chosen = split_folder(folder, split)
    if chosen is not None:
        return None if (found := _layout(chosen)) is None else replace(found, root=folder, has_splits=True)
    children = [child for child in sorted(folder.iterdir()) if child.is_dir() and child not in named.values()]
    below = [found for child in children if (found := _layout(child)) is not None]
    return _with_image_set(below[0], split) if len(below) == 1 else None


def _layout(folder: Path) -> VocFolder | None:
    children = {child.name: child for child in folder.iterdir() if child.is_dir()}
    annotations = [child for name, child in children.items() if name.lower() in ("annotations", "xmls")]
    images = [child for name, child in children.items() if name.lower() in ("jpegimages", "images")]
    if len(annotations) == 1 and len(images) == 1 and _has_xml(annotations[0]):
        return VocFolder(folder, annotations[0], images[0])
    if _has_xml(folder) and any(is_image(name) for name in os.listdir(folder)):
        return VocFolder(folder, folder, folder)
    return None


def _has_xml(folder: Path) -> bool:
    return next(folder.glob("*.xml"), None) is not None


def _with_image_set(found: VocFolder, split: str) -> VocFolder:
    sets = found.root / "ImageSets"
    folder = sets / "Main" if (sets / "Main").is_dir() else sets
    there = sorted(file.stem for file in folder.glob("*.txt"))
    if not there:
        return found
    chosen = next((name for name in split_names(split) if name in there), None)
    if chosen is not None:
        return replace(found, listing=folder / f"{chosen}.txt", has_splits=True)
    if len(there) == 1 and not any(there[0] in names for names in SPLITS.values()):  # CVAT: default.txt
        return replace(found, listing=folder / f"{there[0]}.txt")
    shown = ", ".join(there[:8])
    raise DataError(f"{folder}: has no image set for the split `{split}` ({split_names(split)[0]}.txt); it has {shown}")


def read_voc(found: VocFolder, names: Path | None = None) -> Dataset:
    """Reads a set.

    Args:
        found: where it lies.
        names: a names file that gives the order of the classes; without one they are sorted by name, over all
            annotations of the set, so that every split has the same numbers.

    Raises:
        DataError: the image set is empty.
    """
    class_names, problems = read_names(names) if names is not None else (_all_names(found), [])
    images = _image_files(found.images)
    records = []
    for identity in _identities(found):
        image = images.get(identity, found.images / f"{identity}.jpg")
        file = found.annotations / f"{identity}.xml"
        if os.path.isfile(file):
            records.append(ImageRecord(image, VocLabels(file, image, class_names)))
        else:
            text = "no such annotation; the image is taken for one without objects"
            missing = LabelReading(problems=(DataProblem(file, None, text, "missing"),))
            records.append(ImageRecord(image, StoredLabels(file, missing)))
    return Dataset(
        name=found.root.name,
        class_names=class_names,
        images=tuple(records),
        problems=tuple(problems),
        source=found.root,
        form="Pascal VOC",
        has_splits=found.has_splits,
        labels_name_classes=True,
    )


def _identities(found: VocFolder) -> list[str]:
    """Returns the image names of a set, without extension."""
    if found.listing is None:
        return [file.stem for file in sorted(found.annotations.glob("*.xml"))]
    lines = read_lines(found.listing, MAX_LIST_BYTES, "an image set")
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"{found.listing}: is empty; it has to name one image per line")
    return names


def _image_files(folder: Path) -> dict[str, Path]:
    """Maps names without extension to files: one directory read instead of a guess per image."""
    return {os.path.splitext(name)[0]: folder / name for name in os.listdir(folder) if is_image(name)}


def _all_names(found: VocFolder) -> tuple[str, ...]:
    """Returns the names in all annotations, of every split."""
    splits = split_folders(found.root).values()
    folders = splits if found.annotations in splits else [found.annotations]
    names: set[str] = set()
    for file in (file for folder in folders for file in folder.glob("*.xml")):
        try:
            annotation = _parse(file)
        except DataError:
            continue  # reported with the image that needs it
        names.update(item.values["name"] for item in annotation.items if item.values.get("name"))
    return tuple(sorted(names))


@lru_cache(maxsize=8)
def _numbers(class_names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in reversed(list(enumerate(class_names)))}


def _read_annotation(file: Path, image: Path, class_names: tuple[str, ...]) -> LabelReading:
    try:
        annotation = _parse(file)
        size = _size(annotation, image)
    except DataError as error:
        return LabelReading(problems=(DataProblem.of(error, file, "label"),))
    numbers = _numbers(class_names)
    problems: list[DataProblem] = []
    rows: list[tuple[float, float, float, float]] = []
    classes, difficult, lines = [], [], []
    for item in annotation.items:
        name = item.values.get("name", "")
        corners = tuple(_number(item.values.get(key, "")) for key in _CORNERS)
        if name not in numbers:
            problems.append(DataProblem(file, item.line, f"class '{one_line(name, 40)}' is not in the names", "class"))
        elif not np.isfinite(corners).all():
            problems.append(DataProblem(file, item.line, "object without a bndbox of four numbers; it is ignored"))
        else:
            rows.append((corners[0], corners[1], corners[2], corners[3]))
            classes.append(numbers[name])
            difficult.append(_number(item.values.get("difficult", "0")) == 1)
            lines.append(item.line)
    corner = np.array(rows, np.float64).reshape(-1, 4)
    low, high = corner[:, :2], corner[:, 2:]
    # the −1 belongs to the centre alone: that is how darknet's voc_label.py makes labels from 1-based pixels
    boxes = np.concatenate([(low + high) / 2 - 1, high - low], axis=1) / np.array([*size, *size], np.float64)
    return LabelReading(make_objects(boxes, classes, difficult, lines), tuple(problems))


def _size(annotation: _Annotation, image: Path) -> tuple[int, int]:
    width, height = (_number(annotation.size.get(key, "")) for key in ("width", "height"))
    if 1 <= width <= 1e6 and 1 <= height <= 1e6:
        return int(width), int(height)
    return image_size(image)  # annotation tools that do not know the size write 0


def _number(text: str) -> float:
    """Returns a plain decimal number, NaN for anything else."""
    text = text.strip()
    if len(text) > 40 or not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?", text, re.ASCII):
        return float("nan")
    return float(text)


def _parse(file: Path) -> _Annotation:
    """Reads size and objects of an annotation.

    Raises:
        DataError: not readable, too large, not well-formed, with a document type, or nested absurdly.
    """
    data = read_file(file, MAX_XML_BYTES, "a Pascal VOC annotation")
    parser = expat.ParserCreate()
    parser.buffer_text = True
    collector = _Collector(parser)
    parser.StartElementHandler = collector.start
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.text
    parser.StartDoctypeDeclHandler = collector.doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise DataError(
            f"{file}: is not well-formed XML (line {error.lineno}: {expat.ErrorString(error.code)})"
        ) from None
    except (ValueError, LookupError) as error:  # an encoding that Python refuses
        raise DataError(f"{file}: cannot be read as XML ({one_line(str(error), 80)})") from None
    except _RefusedError as error:
        raise DataError(f"{file}: {error}") from None
    return _Annotation(collector.size, collector.items)


class _RefusedError(Exception):
    """The document may be well-formed, but is no annotation."""


class _Collector:
    """Picks size and objects out of the stream of elements; paths are relative to the root element."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.parser = parser
        self.path: list[str] = []
        self.chunks: list[str] = []
        self.size: dict[str, str] = {}
        self.items: list[_Item] = []

    def doctype(self, *_: object) -> None:
        raise _RefusedError("has a document type (DTD), which could hide an entity bomb; remove the <!DOCTYPE …>")

    def start(self, name: str, _: dict[str, str]) -> None:
        if len(self.path) >= _MAX_DEPTH:
            raise _RefusedError(f"nests elements more than {_MAX_DEPTH} deep; this is not an annotation")
        self.path.append(name)
        self.chunks.clear()
        if self.path[1:] == ["object"]:
            self.items.append(_Item(self.parser.CurrentLineNumber))

    def text(self, data: str) -> None:
        self.chunks.append(data)

    def end(self, _: str) -> None:
        inside = self.path[1:]
        text = "".join(self.chunks).strip()
        if len(inside) == 2 and inside[0] == "size":
            self.size.setdefault(inside[1], text)
        elif len(inside) in (2, 3) and inside[0] == "object":
            self.items[-1].values.setdefault("/".join(inside[1:]), text)
        self.path.pop()
        self.chunks.clear()
