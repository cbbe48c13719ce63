"""The YAML files of ultralytics' programs and of Roboflow: `path`, `train`, `val`, `test`, `names`.

Read is the part of YAML that such files have: keys with text, lists and one level of keys below; no anchors, no tags.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from darkprune.data.class_names import read_names
from darkprune.data.dataset import DataProblem, Dataset, ImageRecord
from darkprune.data.forms.darknet import find_label, records_of_list
from darkprune.data.forms.folders import SPLITS, split_names
from darkprune.data.forms.labels import DarknetLabels
from darkprune.data.image_files import is_list, is_windows, list_images
from darkprune.data.text_files import read_lines
from darkprune.errors import DataError

MAX_YAML_BYTES = 4 << 20
_KEY = re.compile(r"""(['"]?)([^'":#][^'":]*)\1""")
_COMMENT = re.compile(r"(^|\s)#.*$")
_BLOCK = re.compile(r":\s*[|>][+-]?$")
Value = str | list[str] | dict[str, str]


def is_ultralytics(path: Path) -> bool:
    """Returns whether a file is the YAML of a data set: it names training or validation images."""
    try:
        found = read_yaml(path)
    except DataError:
        return False
    return any(key in found for keys in SPLITS.values() for key in keys)


def read_ultralytics(path: Path, split: str = "valid", names: Path | None = None) -> Dataset:
    """Reads the set that a YAML file describes.

    Args:
        path: the YAML file.
        split: `train`, `valid` (val, else test), or another key of the file.
        names: a names file that is used instead of `names`.

    Raises:
        DataError: the split is missing or points nowhere, or there are no images.
    """
    settings = read_yaml(path)
    key = next((key for key in split_names(split) if settings.get(key)), None)
    if key is None:
        raise DataError(f"{path}: has no `{split_names(split)[0]}:`; add the images of this split")
    value = settings[key]
    root = settings.get("path", "")
    records: list[ImageRecord] = []
    problems: list[DataProblem] = []
    for text in value if isinstance(value, list) else [str(value)]:
        place = _place(path, root if isinstance(root, str) else "", text, key)
        if place.is_dir():
            records += [ImageRecord(image, DarknetLabels(find_label(str(image)))) for image in list_images(place)]
        elif is_list(place):
            more, odd = records_of_list(place, (place.parent, path.parent, Path()))
            records += more
            problems += odd
        else:
            raise DataError(f"{path}: {key}: {text} is neither a folder of images nor a list of them (.txt)")
    class_names = _names(settings.get("names", []))
    if names is not None:
        class_names, odd = read_names(names)
        problems += odd
    count = settings.get("nc")
    if isinstance(count, str) and count.isdecimal() and class_names and count.lstrip("0") != str(len(class_names)):
        text = f"says nc: {count[:20]} but has {len(class_names)} names"
        problems.append(DataProblem(path, None, text, "names"))
    return Dataset(
        name=path.stem,
        class_names=class_names,
        images=tuple(records),
        problems=tuple(problems),
        source=path,
        form="ultralytics YAML",
        has_splits=True,
    )


def _place(path: Path, root: str, text: str, key: str) -> Path:
    """Finds a folder or list; Roboflow writes ../train/images for train/images beside the file."""
    folder, place = path.parent, text.replace("\\", "/")
    root = root.replace("\\", "/")
    beside = place
    while beside.startswith("../"):
        beside = beside[3:]
    candidates = [folder / text, folder / root / place, folder / place, Path(root) / place, folder / beside]
    found = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
    if found is None:
        why = "is a path of a Windows machine" if is_windows(text) else f"points nowhere (looked in {folder.resolve()})"
        raise DataError(f"{path}: {key}: {text[:200]} {why}; write it relative to the YAML file")
    return found


def _names(value: Value) -> tuple[str, ...]:
    if isinstance(value, dict):
        numbered = {int(key): name for key, name in value.items() if key.isdecimal() and len(key) < 7}
        if numbered and max(numbered) < 100_000:
            return tuple(numbered.get(number, "") for number in range(max(numbered) + 1))
        return ()
    return tuple(value) if isinstance(value, list) else ()


def read_yaml(path: Path) -> dict[str, Value]:
    """Reads the keys of a YAML file, with the part of the language that data sets use.

    Raises:
        DataError: it cannot be read, or has lines that are neither keys nor lists.
    """
    found: dict[str, Value] = {}
    key = ""
    for number, indent, text in _logical_lines(read_lines(path, MAX_YAML_BYTES, "a YAML file")):
        if text.startswith("- ") and key:
            items = found[key]
            if not isinstance(items, list):
                found[key] = items = []
            items.append(_plain(text[2:]))
            continue
        entry = _entry(text)
        if entry is None:
            raise DataError(f"{path}:{number}: is neither `key: value` nor `- value`; this is no YAML of a data set")
        name, value = entry
        if indent and key:
            pairs = found[key]
            if not isinstance(pairs, dict):
                found[key] = pairs = {}
            pairs[name] = _plain(value)
        else:
            key = name
            found[key] = _value(value)
    return found


def _entry(text: str) -> tuple[str, str] | None:
    """Splits `key: value`; returns None for anything else."""
    name, colon, value = text.partition(":")
    match = _KEY.fullmatch(name.strip())
    if not colon or match is None or value[:1].strip():
        return None
    return match[2].strip(), value.strip()


def _logical_lines(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """Yields number, indent and text of lines without comments; brackets are joined over several lines."""
    joined: list[str] = []
    start, indent, square, curly = 0, 0, 0, 0
    block: int | None = None  # indent of a key whose value is a block of text: `download: |`
    for number, line in enumerate(lines, start=1):
        if block is not None and (not line.strip() or len(line) - len(line.lstrip()) > block):
            continue
        block = None
        text = _COMMENT.sub("", line).rstrip()
        if not text.strip() or text.startswith(("---", "%")):
            continue
        if not joined:
            start, indent, square, curly = number, len(text) - len(text.lstrip()), 0, 0
        joined.append(text.strip())
        square += text.count("[") - text.count("]")
        curly += text.count("{") - text.count("}")
        if square <= 0 and curly <= 0:
            block = indent if _BLOCK.search(text) else None
            yield start, indent, " ".join(joined)
            joined = []
    if joined:
        yield start, indent, " ".join(joined)


def _value(text: str) -> Value:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [_plain(part) for part in _parts(text[1:-1])]
    if text.startswith("{") and text.endswith("}"):
        pairs = (part.partition(":") for part in _parts(text[1:-1]))
        return {_plain(key): _plain(value) for key, _, value in pairs}
    return _plain(text)


def _parts(text: str) -> list[str]:
    """Splits at commas outside quotes."""
    found = re.findall(r"""((?:[^,'"]|'[^']*'|"[^"]*")+)""", text)
    return [part for part in found if part.strip()]


def _plain(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
