"""One entrance to labelled images: recognises the form of a data set and reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from darkprune.data.class_names import read_names
from darkprune.data.dataset import DataProblem, Dataset
from darkprune.data.forms.coco import find_coco, read_coco
from darkprune.data.forms.darknet import read_darknet, records_of_list
from darkprune.data.forms.folders import find_images_and_labels, names_a_split, split_names
from darkprune.data.forms.ultralytics import is_ultralytics, read_ultralytics
from darkprune.data.forms.voc import find_voc, read_voc
from darkprune.data.image_files import is_image, is_list
from darkprune.errors import DataError

#: reads a set, with a names file that gives the order of its classes
Read = Callable[[Path | None], Dataset]
_SEARCHED = 50  #: folders inside an unknown one that are looked into


def read_dataset(
    path: Path | str, split: str = "valid", names: Path | str | None = None, network_names: Path | None = None
) -> Dataset:
    """Reads a data set in whatever form it is.

    Args:
        path: a darknet .data file; an ultralytics YAML; a list of images (.txt, .list); a COCO JSON file; or a folder:
            Pascal VOC, COCO, images with darknet labels, or one with a .data or YAML file.
        split: `train`, `valid`, or a name that the form knows (a key of the .data file, a VOC image set). A list or a
            JSON file is one split, so that it does not matter there.
        names: a names file that gives the order of the classes, in place of the form's own.
        network_names: the names file of the network that the set is for, if it has one. Where labels hold names (VOC,
            COCO) and it knows all of them, the classes take its order; where they hold numbers, another order of the
            same names is a problem of the set.

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
            return _in_order(lambda names: _read_file(source, split, names), names_file, network_names)
        forms = _forms(source, split)
        first = next(forms, None)
        if first is None:
            raise DataError(f"{source}: {_unknown(source, split)}")
        dataset = _in_order(first[1], names_file, network_names)
        others = [what for what, _ in forms if what != first[0]]
        return replace(dataset, also=tuple(dict.fromkeys(others)))
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror or error})") from None


def _in_order(read: Read, names: Path | None, network_names: Path | None) -> Dataset:
    """Reads a set with its classes in the order of a network's; see `read_dataset`."""
    dataset = read(names)
    if names is not None or network_names is None:
        return dataset
    found, order = dataset.class_names, read_names(network_names)[0]
    if found == order or not set(found) <= set(order):
        return dataset
    if dataset.labels_name_classes:
        return read(network_names)
    number = next((number for number, pair in enumerate(zip(found, order, strict=False)) if len(set(pair)) > 1), None)
    if number is None or len(found) != len(order):
        return dataset
    text = f"class {number} is '{found[number]}' here but '{order[number]}' in {network_names}; correct one of them"
    return replace(dataset, problems=(*dataset.problems, DataProblem(dataset.source, None, text, "names")))


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


def _unknown(folder: Path, split: str) -> str:
    """Explains why a folder is no data set."""
    children = sorted(folder.iterdir())
    folders = [child for child in (*children, *(folder / "images").glob("*")) if child.is_dir()]
    named = [child.name for child in folders if names_a_split(child.name)]
    if named and not any(names_a_split(name, split_names(split)) for name in named):
        return f"has no folder for the split `{split}`; it has {', '.join(named[:8])}"
    if any(map(is_image, children)) or (folder / "images").is_dir():
        return "is no labelled data set: it holds images, but no labels of them; images alone are for --images"
    inside = [f"{child.name}/" for child in folders[:_SEARCHED] if _is_set(child, split)]
    if inside:
        return f"is no data set itself; data sets lie in {' and '.join(inside)}: give one of them"
    there = [child.name + "/" * child.is_dir() for child in children]
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "nothing"
    return (
        "is no data set in a known layout; expected Annotations/ and JPEGImages/ (VOC), annotations/*.json (COCO), "
        f"images/ and labels/, images with .txt labels beside them, a data.yaml or one .data file; it holds {shown}"
    )


def _is_set(folder: Path, split: str) -> bool:
    try:
        return next(_forms(folder, split), None) is not None
    except DataError:  # a known form without that split
        return True
