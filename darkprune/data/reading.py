"""One entrance to labelled images: recognises the form of a data set and reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from darkprune.data.class_names import read_names
from darkprune.data.dataset import Dataset
from darkprune.data.forms.coco import find_coco, read_coco
from darkprune.data.forms.darknet import read_darknet, records_of_list
from darkprune.data.forms.folders import find_images_and_labels
from darkprune.data.forms.ultralytics import is_ultralytics, read_ultralytics
from darkprune.data.forms.voc import find_voc, read_voc
from darkprune.data.image_files import is_image, is_list
from darkprune.errors import DataError

#: reads a set, with a names file that gives the order of its classes
Read = Callable[[Path | None], Dataset]


def read_dataset(path: Path | str, split: str = "valid", names: Path | str | None = None) -> Dataset:
    """Reads a data set in whatever form it is.

    Args:
        path: a darknet .data file; an ultralytics YAML; a list of images (.txt, .list); a COCO JSON file; or a folder:
            Pascal VOC, COCO, images with darknet labels, or one with a .data or YAML file.
        split: `train`, `valid`, or a name that the form knows (a key of the .data file, a VOC image set). A list or a
            JSON file is one split, so that it does not matter there.
        names: a names file that gives the order of the classes, in place of the form's own.

    Returns:
        The set; `check_dataset` lists its problems.

    Raises:
        DataError: the form is not known, or the set cannot be read at all: it points nowhere, is empty, is not text…
    """
    source = Path(path)
    names_file = None if names is None else Path(names)
    try:
        if not source.exists():
            raise DataError(f"{source}: no such file or folder; give a .data file, a VOC folder or a COCO .json")
        if not source.is_dir():
            return _read_file(source, split, names_file)
        forms = _forms(source, split)
        first = next(forms, None)
        if first is None:
            raise DataError(f"{source}: {_unknown(source)}")
        dataset = first[1](names_file)
        others = [what for what, _ in forms if what != first[0]]
        return replace(dataset, also=tuple(dict.fromkeys(others)))
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror or error})") from None


def _read_file(source: Path, split: str, names: Path | None) -> Dataset:
    suffix = source.suffix.lower()
    if suffix == ".json":
        return read_coco(source, names)
    if suffix in (".yaml", ".yml"):
        return read_ultralytics(source, split, names)
    if is_list(source):
        records, odd = records_of_list(source, (Path(), source.parent))
        class_names, problems = read_names(names) if names is not None else ((), [])
        return Dataset(source.stem, class_names, records, (*problems, *odd), source, form="a list of images")
    if is_image(source) or suffix in (".cfg", ".weights", ".names", ".xml"):
        raise DataError(
            f"{source}: a {suffix} file is no data set; give a .data file, a list of images, a VOC folder or "
            f"a COCO .json"
        )
    return read_darknet(source, split, names)


def _forms(folder: Path, split: str) -> Iterator[tuple[str, Read]]:
    """Yields the forms that a folder can be taken for, the likeliest first: what it is, and how it is read."""
    voc = find_voc(folder, split)
    if voc is not None:
        yield "Pascal VOC", lambda names: read_voc(voc, names)
    annotations = find_coco(folder, split)
    if annotations is not None:
        file, of_split = annotations
        yield str(file.relative_to(folder)), lambda names: read_coco(file, names, of_split)
    yaml = [path for path in sorted(folder.glob("*.y*ml")) if is_ultralytics(path)]
    if len(yaml) == 1:
        yield yaml[0].name, lambda names: read_ultralytics(yaml[0], split, names)
    images = find_images_and_labels(folder, split)
    if images is not None:
        yield "images with darknet's label files", images
    data = sorted(folder.glob("*.data"))
    if len(data) == 1:
        yield data[0].name, lambda names: read_darknet(data[0], split, names)


def _unknown(folder: Path) -> str:
    there = sorted(child.name + "/" * child.is_dir() for child in folder.iterdir())
    if any(is_image(child) for child in folder.iterdir()):
        return "is no form known here: it holds images, but no labels of them; images alone are for --images"
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "nothing"
    return (
        "is no form known here; expected Annotations/ and JPEGImages/ (VOC), annotations/*.json (COCO), images/ and "
        f"labels/, images with .txt labels beside them, a data.yaml or exactly one .data file; it holds {shown}"
    )
