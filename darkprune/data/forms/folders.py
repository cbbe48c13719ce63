"""Folders of images with darknet's label files, as several tools lay them out; folders named for splits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from darkprune.data.class_names import read_names
from darkprune.data.dataset import Dataset, ImageRecord
from darkprune.data.forms.darknet import find_label
from darkprune.data.forms.labels import DarknetLabels
from darkprune.data.image_files import images_below, is_image

#: split -> what tools call it in folders, files and keys; the first one that is there counts
SPLITS = {
    "train": ("train", "training", "trainval"),
    "valid": ("val", "valid", "validation", "test", "testing", "dev", "minival"),
}
_SPLIT_WORDS = frozenset(word for words in SPLITS.values() for word in words)
_NAMES_FILES = ("*.names", "classes.txt", "_darknet.labels", "*/_darknet.labels", "labels/classes.txt")


def split_names(split: str) -> tuple[str, ...]:
    """Returns what a split may be called; a name that is none of darkprune's own is itself."""
    return SPLITS.get(split, (split,))


def names_a_split(name: str, words: Iterable[str] = _SPLIT_WORDS) -> bool:
    """Returns whether one of the words begins in the name of a file or folder, as in `train2017` or `instances_val`."""
    return any(re.search(rf"(?<![a-z]){re.escape(word)}", name.lower()) for word in words)


def split_folders(folder: Path) -> dict[str, Path]:
    """Returns the folders below one that are named for a split, by name."""
    found = {child.name.lower(): child for child in sorted(folder.iterdir())}
    return {name: child for name, child in found.items() if name in _SPLIT_WORDS and child.is_dir()}


def split_folder(folder: Path, split: str) -> Path | None:
    """Returns the folder of a split below a folder; None where there is none."""
    found = split_folders(folder)
    return next((found[name] for name in split_names(split) if name in found), None)


def find_images_and_labels(folder: Path, split: str) -> Callable[[Path | None], Dataset] | None:
    """Recognises images with label files in images/ and labels/, or beside the images; per split or as a whole.

    Args:
        folder: the folder.
        split: `train`, `valid`, or the name of a folder.

    Returns:
        A function that reads the set, with the order of the names; None where the folder is something else.
    """
    images, has_splits = _images_of_split(folder, split)
    if not any(find_label(str(image)).is_file() for image in images):
        return None
    return lambda names: _dataset(folder, images, names, has_splits)


def _images_of_split(folder: Path, split: str) -> tuple[Sequence[Path], bool]:
    """Returns the images of a split, and whether the folder tells splits apart."""
    inner = folder / "images"
    if inner.is_dir():  # its subfolders may name splits
        children = [child for child in sorted(inner.iterdir()) if child.is_dir()]
        named = [child for child in children if names_a_split(child.name)]
        for name in split_names(split):
            chosen = [child for child in children if names_a_split(child.name, (name,))]
            if chosen:
                return [image for child in chosen for image in images_below(child)], True
        return ((), True) if named else (images_below(inner), False)
    chosen_folder = split_folder(folder, split)
    if chosen_folder is not None:
        return images_below(chosen_folder), True
    return [path for path in sorted(folder.iterdir()) if is_image(path)], False


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
