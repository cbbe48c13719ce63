"""What a stage reads, and how its content is told apart."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path

import cv2

from darkprune.darknet.output import atomic_file, result_folder
from darkprune.data import read_dataset
from darkprune.data.reading import images_of
from darkprune.data.scenes import draw_scene
from darkprune.surgery.plan import hash_file


@dataclass(frozen=True)
class Source:
    """A file that a stage reads.

    Attributes:
        role: what the stage takes it for: cfg, weights, plan, …
        path: where it lies.
    """

    role: str
    path: Path

    def digest(self) -> str:
        """Returns the hash of its content.

        Raises:
            OSError: it is not there.
        """
        return _file_digest(self.path)


@dataclass(frozen=True)
class Images(Source):
    """A folder or a list of images: known by their paths and sizes."""

    def digest(self) -> str:
        """Returns the hash of paths and sizes.

        Raises:
            DataError: there are none.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return _of_lines(_image_line(path) for path in images_of(self.path))


@dataclass(frozen=True)
class Labelled(Source):
    """A labelled set: its images by path and size, its labels and names by content.

    Attributes:
        names: names of the classes, where they are not the set's own.
        splits: those that matter.
    """

    names: Path | None = None
    splits: tuple[str, ...] = ("train", "valid")

    def digest(self) -> str:
        """Returns the hash.

        Raises:
            DataError: the set cannot be read.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        lines: list[str] = []
        for split in self.splits:
            dataset = read_dataset(self.path, split, self.names)
            lines += [split, *dataset.class_names]
            lines += [_image_line(record.path) for record in dataset.images]
            for file in sorted({record.labels.file for record in dataset.images}):
                lines.append(f"{file} {_file_digest(file) if file.is_file() else '-'}")
        return _of_lines(lines)


@dataclass(frozen=True)
class Written(Source):
    """A file of lines that the run writes itself, before its first stage.

    Attributes:
        lines: what stands in it.
        images: whether the lines are paths of images, whose sizes count too.
    """

    lines: tuple[str, ...] = ()
    images: bool = False

    def digest(self) -> str:
        """Returns the hash of the lines, which need not be written yet."""
        return _of_lines(_image_line(Path(line)) for line in self.lines) if self.images else _of_lines(self.lines)

    def write(self) -> None:
        """Writes the file.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_file(self.path, overwrite=True) as file:
            file.write(("\n".join(self.lines) + "\n").encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class Drawn(Source):
    """A folder of drawn scenes, which stand in where a user has no images at all.

    Attributes:
        count: how many.
        size: of each, in pixels.
    """

    count: int = 0
    size: int = 0

    def digest(self) -> str:
        """Returns the hash of what decides the scenes."""
        return _of_lines(("drawn", str(self.count), str(self.size)))

    def write(self, progress: Callable[[], object] = lambda: None) -> None:
        """Draws them, unless they are there.

        Args:
            progress: called after each.

        Raises:
            OutputError: they cannot be written.
        """
        if self.path.is_dir():
            return
        for left in self.path.parent.glob(f".{self.path.name}.partial-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with result_folder(self.path, []) as room:
            for number in range(self.count):
                scene = draw_scene(0, number, self.size)
                (room / f"{number:04d}.png").write_bytes(cv2.imencode(".png", scene.image)[1].tobytes())
                progress()


def list_of(role: str, path: Path, images: Iterable[Path]) -> Written:
    """Returns a list of images to be written."""
    return Written(role, path, tuple(os.path.abspath(image) for image in images), True)


def _file_digest(path: Path) -> str:
    found = path.stat()
    return _hash_of(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, changed: int) -> str:
    """Hashes a file once for as long as it stays as it is."""
    return hash_file(path)


def _image_line(path: Path) -> str:
    try:
        return f"{path} {os.stat(path).st_size}"
    except OSError:
        return f"{path} -"


def _of_lines(lines: Iterable[str]) -> str:
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
