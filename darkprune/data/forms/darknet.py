"""Darknet's own form: a `.data` file, lists of images, names, and one label file per image.

Source: `read_data_cfg`, `get_paths`, `get_labels_custom`, `replace_image_to_label`. Paths in these files are relative
to the folder that darknet is started in; where nothing is found there, they are tried relative to the folder of the
.data file, which is what people who start the tool from elsewhere mean.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darkprune.data.class_names import read_names
from darkprune.data.dataset import DataProblem, Dataset, ImageRecord
from darkprune.data.forms.labels import DarknetLabels
from darkprune.data.image_files import Listed, find_listed, list_problems, read_list
from darkprune.data.text_files import read_lines
from darkprune.errors import DataError, one_line

MAX_DATA_BYTES = 1 << 20
_BLANKS = str.maketrans("", "", " \t\r\n")
_REPLACED = (
    ("/images/train2017/", "/labels/train2017/"),
    ("/images/val2017/", "/labels/val2017/"),
    ("/JPEGImages/", "/labels/"),
    ("\\images\\train2017\\", "\\labels\\train2017\\"),
    ("\\images\\val2017\\", "\\labels\\val2017\\"),
    ("\\images\\train2014\\", "\\labels\\train2014\\"),
    ("\\images\\val2014\\", "\\labels\\val2014\\"),
    ("/images/train2014/", "/labels/train2014/"),
    ("/images/val2014/", "/labels/val2014/"),
    ("\\JPEGImages\\", "\\labels\\"),
)
#: those that darknet replaces, not all that are images here
_EXTENSIONS = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".bmp", ".BMP", ".ppm", ".PPM", ".tiff", ".TIFF")
_IMAGES = re.compile(r"(?:^|(?<=[/\\]))images(?=[/\\])")


@dataclass(frozen=True)
class DataFile:
    """A parsed .data file: `key=value` lines with the lexer of a cfg, but no sections.

    Attributes:
        path: the file.
        options: first value of every key, blanks removed, as darknet does it.
        spaced: the same values with their blanks, where they have some.
    """

    path: Path
    options: dict[str, str]
    spaced: dict[str, str]

    def find(self, key: str) -> tuple[Path, DataProblem | None]:
        """Returns the file that a key names, and a problem with that, if any.

        Raises:
            DataError: the key points nowhere.
        """
        bases = (Path(), self.path.parent)
        value, spaced = self.options[key], self.spaced.get(key, "")
        listed = find_listed(value, bases)
        path = listed.base / listed.text
        if os.path.isfile(path):
            return path, None
        found = next((base / spaced for base in bases if spaced and os.path.isfile(base / spaced)), None)
        if found is not None:
            text = f"{key}={one_line(spaced, 200)} has blanks, which darknet removes; darknet would not find it"
            return found, DataProblem(self.path, None, text, "list")
        folders = (os.getcwd(), self.path.parent.resolve())
        places = " and from ".join(dict.fromkeys(one_line(str(folder), 200) for folder in folders))
        text = f"{key}={one_line(value, 200)} points nowhere (looked from {places})"
        if spaced:
            text += f"; darknet removes the blanks of '{one_line(spaced, 200)}'"
        raise DataError(f"{self.path}: {text}; correct the `{key}=` line")


def read_data_file(path: Path) -> DataFile:
    """Reads a .data file.

    Raises:
        DataError: it cannot be read, is not text, or holds no `key=value` line.
    """
    options: dict[str, str] = {}
    spaced: dict[str, str] = {}
    for line in read_lines(path, MAX_DATA_BYTES, "a darknet .data file"):
        stripped = line.translate(_BLANKS)
        if not stripped or stripped[0] in "#;":
            continue
        key, _, value = stripped.partition("=")
        if value and key not in options:
            options[key] = value
            with_blanks = line.partition("=")[2].strip()
            if with_blanks != value:
                spaced[key] = with_blanks
    if not options:
        raise DataError(f"{path}: has no key=value line; a .data file names train, valid and names")
    return DataFile(path, options, spaced)


def read_darknet(path: Path, split: str = "valid", names: Path | None = None) -> Dataset:
    """Reads the set that a .data file describes.

    Args:
        path: the .data file.
        split: the key that names the list of images: `train`, `valid` or any other key of the file.
        names: a names file that is used instead of the one the .data file names.

    Raises:
        DataError: a key is missing or points nowhere, or the list is empty.
    """
    data = read_data_file(path)
    if split not in data.options:
        raise DataError(f"{path}: has no `{split}=` line; add {split}=<list of images, one path per line>")
    listing, problem = data.find(split)
    class_names, problems = _names(data, names)
    problems += [problem] if problem else []
    difficult = read_list(data.find("difficult")[0]) if split == "valid" and "difficult" in data.options else None
    images, found = records_of_list(listing, (Path(), data.path.parent, listing.parent), difficult)
    return Dataset(path.stem, class_names, images, (*problems, *found), path, form="a .data file", has_splits=True)


def records_of_list(
    listing: Path, bases: Sequence[Path], difficult: Sequence[str] | None = None
) -> tuple[tuple[ImageRecord, ...], list[DataProblem]]:
    """Reads a list of images, one path per line; blank lines are skipped.

    Args:
        listing: the list.
        bases: folders that a relative path may be relative to, the first that has the image wins.
        difficult: paths from which the label files of difficult objects follow, line by line (`difficult=` in .data).

    Returns:
        The images, and the problems of the list.

    Raises:
        DataError: the list cannot be read or is empty, or the list of difficult objects has another length.
    """
    lines = read_list(listing)
    if difficult is not None and len(difficult) != len(lines):
        raise DataError(
            f"{listing}: has {len(lines)} images but the `difficult` list {len(difficult)}; they go in pairs"
        )
    hard = [None] * len(lines) if difficult is None else difficult
    pairs = list(zip(lines, hard, strict=True))
    found = {text: find_listed(text, bases) for text in dict.fromkeys(lines)}
    records = {pair: _record(found[pair[0]], pair[1]) for pair in dict.fromkeys(pairs)}
    return tuple(map(records.__getitem__, pairs)), list_problems(listing, [found[text] for text in lines])


def label_path(image: str) -> str:
    """Returns the label file that AlexeyAB's darknet reads for an image path (`replace_image_to_label`).

    Only /images/{train,val}20{14,17}/ and /JPEGImages/ become /labels/…, each once; an unknown extension stays.
    """
    for old, new in _REPLACED:
        image = image.replace(old, new, 1)
    image = image.strip(" \t")
    for extension in _EXTENSIONS:
        if image.endswith(extension):
            return image[: -len(extension)] + ".txt"
    return image


def find_label(image: str, base: Path = Path()) -> Path:
    """Returns the label file of an image: darknet's, else images/ → labels/, else the one beside the image.

    Where none exists it is darknet's, so that errors name the file that darknet would look for.
    """
    stem = os.path.splitext(image)[0] + ".txt"
    texts = tuple(dict.fromkeys((label_path(image), _beside_images(stem), stem)))
    # texts are joined here: a list may have a hundred thousand images, and paths are slow to make
    return base / next((text for text in texts if os.path.isfile(os.path.join(base, text))), texts[0])


def _beside_images(path: str) -> str:
    """Replaces the last folder called `images` by `labels`."""
    found = list(_IMAGES.finditer(path))
    return f"{path[: found[-1].start()]}labels{path[found[-1].end() :]}" if found else path


def _record(image: Listed, difficult: str | None) -> ImageRecord:
    hard = None if difficult is None else find_label(difficult, image.base)
    return ImageRecord(image.base / image.text, DarknetLabels(find_label(image.text, image.base), hard))


def _names(data: DataFile, override: Path | None) -> tuple[tuple[str, ...], list[DataProblem]]:
    count = data.options.get("classes", "")
    classes = int(count) if count.isascii() and count.isdigit() and len(count) < 7 else None
    key = "names" if "names" in data.options else "labels"
    if override is None and key not in data.options:
        return (), [DataProblem(data.path, None, "has no `names=` line; classes are shown by number", "names")]
    path, odd = (override, None) if override is not None else data.find(key)
    names, problems = read_names(path)
    problems += [odd] if odd else []
    if classes is not None and classes != len(names):
        message = f"says classes={classes} but {path} holds {len(names)} names; darknet refuses such a pair"
        problems.append(DataProblem(data.path, None, message, "names"))
    return names, problems
