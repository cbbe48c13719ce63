"""One entrance: recognises the form of a data set and reads it."""

from __future__ import annotations

import re
from pathlib import Path

from darkprune.data.coco import find_coco, read_coco
from darkprune.data.darknet_data import DarknetLabels, find_label, read_darknet, read_names, records_of_list
from darkprune.data.dataset import Dataset, ImageRecord
from darkprune.data.image_files import LIST_SUFFIXES, is_image, list_images
from darkprune.data.voc import is_voc, read_voc
from darkprune.errors import DataError

_FOLDERS = {"train": re.compile(r"train"), "valid": re.compile(r"val|test")}


def read_dataset(path: Path | str, split: str = "valid", names: Path | str | None = None) -> Dataset:
    """Reads a data set in whatever form it is.

    Args:
        path: a darknet .data file; a list of images (.txt, .list); a Pascal VOC folder; a COCO JSON file or a folder
            of them; or a folder with images/ and labels/ (darknet labels).
        split: `train`, `valid`, or a name that the form knows (a key of the .data file, a VOC image set). A list or a
            JSON file is one split, so that it does not matter there.
        names: a names file that gives the order of the classes, in place of what the form has.

    Returns:
        The set; `Dataset.problems` and `check_dataset` say what is wrong inside it.

    Raises:
        DataError: the form is not known, or the set cannot be read at all: it points nowhere, is empty, is not text…
    """
    source = Path(path)
    names_file = None if names is None else Path(names)
    try:
        if source.is_dir():
            return _read_folder(source, split, names_file)
        if not source.exists():
            raise DataError(f"{source}: no such file or folder; give a .data file, a VOC folder or a COCO .json")
        return _read_file(source, split, names_file)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror or error})") from None


def _read_file(source: Path, split: str, names: Path | None) -> Dataset:
    suffix = source.suffix.lower()
    if suffix == ".json":
        return read_coco(source, names)
    if suffix in LIST_SUFFIXES:
        records = records_of_list(source, (Path(), source.parent))
        class_names, problems = read_names(names) if names is not None else ((), [])
        return Dataset(source.stem, class_names, records, tuple(problems), source)
    if is_image(source) or suffix in (".cfg", ".weights", ".names", ".xml", ".yaml", ".yml"):
        raise DataError(
            f"{source}: a {suffix} file is no data set; give a .data file, a list of images, a VOC folder or "
            f"a COCO .json"
        )
    return read_darknet(source, split, names)


def _read_folder(folder: Path, split: str, names: Path | None) -> Dataset:
    if is_voc(folder):
        return read_voc(folder, split, names)
    annotations = find_coco(folder, split)
    if annotations is not None:
        return read_coco(annotations, names)
    if (folder / "images").is_dir():
        return _read_images_folder(folder, split, names)
    files = sorted(folder.glob("*.data"))
    if len(files) == 1:
        return read_darknet(files[0], split, names)
    raise DataError(
        f"{folder}: is no form known here; expected Annotations/ and JPEGImages/ (VOC), annotations/*.json (COCO), "
        f"images/ and labels/, or exactly one .data file"
    )


def _read_images_folder(folder: Path, split: str, names: Path | None) -> Dataset:
    """Reads images/ and labels/; subfolders of images/ that name a split are that split."""
    images = folder / "images"
    pattern = _FOLDERS.get(split, re.compile(re.escape(split)))
    children = [child for child in sorted(images.iterdir()) if child.is_dir()]
    chosen = [child for child in children if pattern.search(child.name)]
    named = [child for child in children if any(other.search(child.name) for other in _FOLDERS.values())]
    if named and not chosen:
        raise DataError(
            f"{images}: has no folder for the split `{split}`; it has {', '.join(c.name for c in children)}"
        )
    paths = [path for child in (chosen or [images]) for path in list_images(child)]
    if names is None:
        candidates = sorted(folder.glob("*.names"))
        names = candidates[0] if len(candidates) == 1 else None
    class_names, problems = read_names(names) if names is not None else ((), [])
    records = tuple(ImageRecord(path, DarknetLabels(find_label(str(path)))) for path in paths)
    return Dataset(folder.name, class_names, records, tuple(problems), folder)
