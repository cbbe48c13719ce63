"""What a user has to work with: labels, images, or nothing but the pair; and the lists that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from darkprune.compression.settings import FEWEST_UNLABELLED, CompressSettings
from darkprune.compression.sources import Drawn, Images, Labelled, Written, list_of
from darkprune.data import read_dataset
from darkprune.data.class_names import network_names, read_names
from darkprune.data.dataset import Dataset
from darkprune.data.image_files import divide_images, images_of
from darkprune.data.labelled import open_labelled
from darkprune.errors import DataError, UsageError
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.classes import names_file
from darkprune.graph.graph import Graph
from darkprune.runs.stages import FileSource

DRAWN = 320  #: scenes that stand in for images: 64 of them are held out
MOST_PIXELS = 416  #: side of a drawn scene, at most
FOLDER = "inputs"  #: in the run's folder, for what it writes before its first stage


@dataclass(frozen=True, kw_only=True)
class Available:
    """What there is to work with.

    Attributes:
        train: labelled images to train on; None without labels.
        train_count: how many.
        valid: labelled images to measure on.
        valid_count: how many.
        valid_is_train: whether those are the images that are trained on.
        names: names of the classes, for `train` and `valid`, where the user gives a file, or the labels hold names
            and take the order of the network's.
        images: images to score and fit on, without their labels; the training images where there are labels.
        learn: images that the network may learn from without labels.
        held_out: those that networks are compared with the original on.
        detector: whether the network has detection heads.
        torch: whether torch is there, without which nothing can be scored on images or trained.
        class_names: names for the result, where any are known.
        warnings: what is wrong with the labelled images.
    """

    train: Labelled | None = None
    train_count: int = 0
    valid: Labelled | None = None
    valid_count: int = 0
    valid_is_train: bool = False
    names: FileSource | None = None
    images: FileSource | None = None
    learn: Written | None = None
    held_out: Written | None = None
    detector: bool = True
    torch: bool = True
    class_names: FileSource | None = None
    warnings: tuple[str, ...] = ()

    @property
    def learns_enough(self) -> bool:
        """Whether there are images enough to learn from without labels."""
        return self.learn is not None and len(self.learn.lines) >= FEWEST_UNLABELLED

    @property
    def drawn(self) -> bool:
        """Whether drawn scenes stand in for images."""
        return isinstance(self.images, Drawn)

    def to_write(self) -> Iterator[Written | Drawn]:
        """Yields the files that the run writes before its first stage."""
        for source in (self.images, self.learn, self.held_out, self.class_names):
            if isinstance(source, Written | Drawn):
                yield source


def find_available(settings: CompressSettings, graph: Graph, folder: Path) -> Available:
    """Finds out what there is.

    Raises:
        DataError: something of it cannot be used.
        UsageError: labelled images to measure on, of a network that detects nothing.
    """
    torch = find_spec("torch") is not None
    if not torch and (settings.data or settings.images):
        raise DataError("to score, repair and train with images, torch is needed: pip install 'darkprune[train]'")
    detector = bool(graph.heads)
    if settings.valid and not detector:
        raise UsageError(f"--valid: {graph.cfg.source} has no detection head, so mAP cannot be measured")
    order = network_names(graph)
    train = read_dataset(settings.data, "train", settings.names, order) if settings.data and detector else None
    path, measured = _valid(settings, train, order)
    names = Path(settings.names) if settings.names else _order_taken(order, measured or train)
    labelled, valid = _labelled(settings, path, names)
    classes = heads_of(graph)[-1].classes if detector else 0
    checked = [(settings.data, "train")] if train is not None else []
    checked += [(path, "valid")] if path is not None else []
    warnings = dict.fromkeys(
        text
        for data, split in checked
        for text in open_labelled(data or "", split, settings.names, classes, network_names=order).warnings
    )
    inputs = folder / FOLDER
    found = Available(
        train=labelled,
        train_count=len(train) if train is not None else 0,
        valid=valid,
        valid_count=len(measured) if measured is not None else 0,
        valid_is_train=measured is not None and train is not None and measured.images == train.images,
        names=FileSource("names", names) if names is not None else None,
        detector=detector,
        torch=torch,
        class_names=_class_names(settings, graph, train, inputs),
        warnings=tuple(warnings),
    )
    if detector and (settings.images or train is not None):
        return _with_images(found, settings, train, inputs)
    if detector and torch and graph.net.input.c in (1, 3):
        size = min(MOST_PIXELS, max(graph.net.input.w, graph.net.input.h))
        return replace(found, images=Drawn("images", inputs / "drawn", DRAWN, size))
    return found


def _order_taken(order: Path | None, dataset: Dataset | None) -> Path | None:
    """Returns the network's names file where a set has its order: networks that a run writes may have none beside."""
    if order is None or dataset is None or not dataset.labels_name_classes:
        return None
    return order if dataset.class_names == read_names(order)[0] else None


def _labelled(
    settings: CompressSettings, path: Path | None, names: Path | None
) -> tuple[Labelled | None, Labelled | None]:
    """Returns the labelled images to train and to measure on."""
    valid = None if path is None else Labelled("valid", path, names, ("valid",))
    if not settings.data:
        return None, valid
    both = path == Path(settings.data)  # one digest for all stages then
    data = Labelled("data", Path(settings.data), names, ("train", "valid") if both else ("train",))
    return data, data if both else valid


def _valid(settings: CompressSettings, train: Dataset | None, order: Path | None) -> tuple[Path | None, Dataset | None]:
    """Finds labelled images to measure on; `order` as `network_names` of `read_dataset`."""
    if settings.valid:
        return Path(settings.valid), read_dataset(settings.valid, "valid", settings.names, order)
    if settings.data is None or train is None:
        return None, None
    try:
        return Path(settings.data), read_dataset(settings.data, "valid", settings.names, order)
    except DataError:
        return None, None


def _with_images(found: Available, settings: CompressSettings, train: Dataset | None, inputs: Path) -> Available:
    """Divides the images into those to score and fit on, to learn from, and to measure on."""
    if settings.images:
        paths = images_of(Path(settings.images))
        images: FileSource = Images("images", Path(settings.images))
    else:
        paths = tuple(record.path for record in train.images) if train is not None else ()
        images = list_of("images", inputs / "train.txt", paths)
    rest, held = divide_images(paths)
    found = replace(found, images=images)
    if train is None:
        free = rest if found.valid is None else paths  # nothing need be held out where labels tell
        found = replace(found, learn=list_of("unlabelled", inputs / "learn.txt", free))
    if found.valid is None:
        found = replace(found, held_out=list_of("held out", inputs / "held-out.txt", held))
    return found


def _class_names(settings: CompressSettings, graph: Graph, train: Dataset | None, inputs: Path) -> FileSource | None:
    known = settings.names or names_file(graph)
    if known:
        return FileSource("names", Path(known))
    path = inputs / f"{Path(graph.cfg.source).stem}.names"
    return Written("names", path, train.class_names) if train is not None and train.class_names else None
