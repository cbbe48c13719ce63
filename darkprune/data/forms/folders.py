"""Folders of images with darknet's label files, as several tools lay them out; folders named for splits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from darkprune.data.class_names import read_names
from darkprune.data.dataset import Dataset, ImageRecord
from darkprune.data.forms.darknet import find_label
from darkprune.data.forms.labels import DarknetLabels
from darkprune.data.image_files import is_image, list_images
from darkprune.errors import DataError

#: split -> names of the folder that holds it, the first one that is there counts
SPLIT_FOLDERS = {"train": ("train", "training"), "valid": ("valid", "val", "validation", "test", "testing")}
_PATTERNS = {"train": re.compile(r"train"), "valid": re.compile(r"val|test")}
_NAMES_FILES = ("*.names", "classes.txt", "_darknet.labels", "*/_darknet.labels", "labels/classes.txt")


def split_folders(folder: Path) -> dict[str, Path]:
    """Returns the folders below one that are named for a split, by name."""
    known = {name for names in SPLIT_FOLDERS.values() for name in names}
    return {
        child.name.lower(): child
        for child in sorted(folder.iterdir())
        if child.name.lower() in known and child.is_dir()
    }


def split_folder(folder: Path, split: str) -> Path | None:
    """Returns the folder of a split below a folder; None where there is none."""
    found = split_folders(folder)
    return next((found[name] for name in SPLIT_FOLDERS.get(split, (split,)) if name in found), None)


def find_images_and_labels(folder: Path, split: str) -> Callable[[Path | None], Dataset] | None:
    """Recognises images with label files in images/ and labels/, or beside the images; per split or as a whole.

    Args:
        folder: the folder.
        split: `train`, `valid`, or the name of a folder.

    Returns:
        A function that reads the set, with the order of the names; None where the folder is something else.
    """
    if (folder / "images").is_dir():
        return lambda names: _read_images(folder, split, names)
    chosen = split_folder(folder, split)
    if chosen is not None and _has_labelled_images(chosen / "images" if (chosen / "images").is_dir() else chosen):
        return lambda names: _dataset(folder, list_images(chosen), names, has_splits=True)
    if _has_labelled_images(folder):
        return lambda names: _dataset(folder, _images_in(folder), names, has_splits=False)
    return None


def _has_labelled_images(folder: Path) -> bool:
    image = next((path for path in sorted(folder.iterdir()) if is_image(path)), None)
    return image is not None and (
        any(path.with_suffix(".txt").is_file() for path in _images_in(folder)) or find_label(str(image)).is_file()
    )


def _images_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_image(path)]


def _read_images(folder: Path, split: str, names: Path | None) -> Dataset:
    """Reads images/ and labels/; subfolders of images/ that name a split are that split."""
    images = folder / "images"
    pattern = _PATTERNS.get(split, re.compile(re.escape(split)))
    children = [child for child in sorted(images.iterdir()) if child.is_dir()]
    chosen = [child for child in children if pattern.search(child.name)]
    named = [child for child in children if any(other.search(child.name) for other in _PATTERNS.values())]
    if named and not chosen:
        there = ", ".join(child.name for child in children)
        raise DataError(f"{images}: has no folder for the split `{split}`; it has {there}")
    paths = [path for child in (chosen or [images]) for path in list_images(child)]
    return _dataset(folder, paths, names, has_splits=bool(chosen))


def _dataset(folder: Path, paths: Sequence[Path], names: Path | None, has_splits: bool) -> Dataset:
    names = names or _names_file(folder)
    class_names, problems = read_names(names) if names is not None else ((), [])
    records = tuple(ImageRecord(path, DarknetLabels(find_label(str(path)))) for path in paths)
    return Dataset(
        name=folder.name,
        class_names=class_names,
        images=records,
        problems=tuple(problems),
        source=folder,
        form="images with darknet's label files",
        has_splits=has_splits,
    )


def _names_file(folder: Path) -> Path | None:
    """Finds the names that a tool has left: the first pattern that fits exactly one file, or equal ones per split."""
    for pattern in _NAMES_FILES:
        found = sorted(folder.glob(pattern))
        if found and (len(found) == 1 or (len({os.path.getsize(path) for path in found}) == 1 and "/" in pattern)):
            return found[0]
    return None
