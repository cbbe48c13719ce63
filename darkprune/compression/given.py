"""What a user has to work with: labels, images, or nothing but the pair; and the lists that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from darkprune.compression.defaults import FEWEST_UNLABELLED
from darkprune.compression.sources import Drawn, Images, Labelled, Written, list_of
from darkprune.data import read_dataset
from darkprune.data.dataset import Dataset
from darkprune.data.image_files import divide_images, images_of
from darkprune.errors import DataError, UsageError
from darkprune.graph.graph import Graph
from darkprune.runs.stages import FileSource

DRAWN = 320  #: scenes that stand in for images: 64 of them are held out
MOST_PIXELS = 416  #: side of a drawn scene, at most


@dataclass(frozen=True)
class Given:
    """What a user has.

    Attributes:
        train: labelled images to train on, with their number; None without labels.
        valid: labelled images to measure on.
        seen: whether those are the images that are trained on.
        names: names of the classes, for `train` and `valid`, where the user gives a file.
        images: unlabelled images to score and fit on; the training images where there are labels.
        learn: those that the network may learn from without labels, with their number.
        held_out: those that the output distance is measured on.
        detector: whether the network has detection heads.
        torch: whether torch is there, without which nothing can be looked at or trained.
        class_names: names for the result, where any are known.
    """

    train: tuple[Labelled, int] | None = None
    valid: Labelled | None = None
    seen: bool = False
    names: Path | None = None
    images: FileSource | None = None
    learn: tuple[FileSource, int] | None = None
    held_out: FileSource | None = None
    detector: bool = True
    torch: bool = True
    class_names: FileSource | None = None

    @property
    def learns_enough(self) -> bool:
        """Whether there are unlabelled images enough to learn from without labels."""
        return self.learn is not None and self.learn[1] >= FEWEST_UNLABELLED

    @property
    def drawn(self) -> bool:
        """Whether drawn scenes stand in for images."""
        return isinstance(self.images, Drawn)

    def to_write(self) -> Iterator[Written | Drawn]:
        """Yields the files that the run writes before its first stage."""
        for source in (self.images, self.learn and self.learn[0], self.held_out, self.class_names):
            if isinstance(source, Written | Drawn):
                yield source


@dataclass(frozen=True)
class Asked:
    """What the user names on the command line or in the settings.

    Attributes:
        data, valid, images, names: as there.
        class_names: names known otherwise, such as those beside the cfg.
    """

    data: str | None = None
    valid: str | None = None
    images: str | None = None
    names: str | None = None
    class_names: Path | None = None


def look_at(asked: Asked, graph: Graph, room: Path) -> Given:
    """Finds out what there is.

    Args:
        asked: what the user names.
        graph: the network.
        room: the run's folder.

    Raises:
        DataError: something of it cannot be used.
        UsageError: labelled images to measure on, of a network that detects nothing.
    """
    torch = find_spec("torch") is not None
    if not torch and (asked.data or asked.images):
        raise DataError("to score, repair and train with images, torch is needed: pip install 'darkprune[train]'")
    names = Path(asked.names) if asked.names else None
    inputs = room / "inputs"
    detector = bool(graph.heads)
    if asked.valid and not detector:
        raise UsageError(f"--valid: {graph.cfg.source} has no detection head, so mAP cannot be measured")
    train = read_dataset(asked.data, "train", names) if asked.data and detector else None
    path, seen = _valid(asked, train, names)
    valid = None if path is None else Labelled("valid", path, names, ("valid",))
    labelled: tuple[Labelled, int] | None = None
    if asked.data:
        both = path == Path(asked.data)  # one digest for all stages then
        data = Labelled("data", Path(asked.data), names, ("train", "valid") if both else ("train",))
        labelled, valid = (data, len(train) if train is not None else 0), data if both else valid
    images: FileSource | None = None
    learn: tuple[FileSource, int] | None = None
    held_out: FileSource | None = None
    if detector and (asked.images or train is not None):
        if asked.images:
            paths: tuple[Path, ...] = images_of(Path(asked.images))
            images = Images("images", Path(asked.images))
        else:
            paths = tuple(record.path for record in train.images) if train is not None else ()
            images = list_of("images", inputs / "train.txt", paths)
        rest, held = divide_images(paths)
        if train is None:
            free = rest if valid is None else paths  # nothing need be held out where labels tell
            learn = list_of("unlabelled", inputs / "learn.txt", free), len(free)
        if valid is None:
            held_out = list_of("held out", inputs / "held-out.txt", held)
    elif detector and torch and graph.net.input.c in (1, 3):
        images = Drawn("images", inputs / "drawn", DRAWN, min(MOST_PIXELS, max(graph.net.input.w, graph.net.input.h)))
    return Given(
        labelled,
        valid,
        seen,
        names,
        images,
        learn,
        held_out,
        detector,
        torch,
        _class_names(asked, train, inputs / f"{Path(graph.cfg.source).stem}.names"),
    )


def _valid(asked: Asked, train: Dataset | None, names: Path | None) -> tuple[Path | None, bool]:
    """Finds labelled images to measure on, and says whether they are those of the training."""
    if asked.valid:
        read_dataset(asked.valid, "valid", names)
        return Path(asked.valid), asked.valid == asked.data
    if asked.data is None or train is None:
        return None, False
    try:
        found = read_dataset(asked.data, "valid", names)
    except DataError:
        return None, False
    return Path(asked.data), found.images == train.images


def _class_names(asked: Asked, train: Dataset | None, path: Path) -> FileSource | None:
    known = asked.names or asked.class_names
    if known:
        return FileSource("names", Path(known))
    return Written("names", path, train.class_names) if train is not None and train.class_names else None
