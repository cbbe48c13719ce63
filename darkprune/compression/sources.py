"""What the stages of a run read besides files: images, labels, lists and scenes that the run writes itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import cv2

from darkprune.darknet.output import result_folder
from darkprune.data import read_dataset
from darkprune.data.dataset import digest_of_labels
from darkprune.data.image_files import images_of
from darkprune.data.scenes import draw_scene
from darkprune.progress import track
from darkprune.runs.digests import digest_of_images, digest_of_lines
from darkprune.runs.stages import FileSource


@dataclass(frozen=True)
class Images(FileSource):
    """A folder or a list of images, known by their paths and sizes."""

    def digest(self) -> str:
        """Returns the digest of paths and sizes.

        Raises:
            DataError: there are none.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest_of_images(images_of(self.path))


@dataclass(frozen=True)
class Labelled(FileSource):
    """A labelled set: its images by path and size, its labels and names by content.

    Attributes:
        names: names of the classes, where they are not the set's own.
        splits: those that matter.
    """

    names: Path | None = None
    splits: tuple[str, ...] = ("train", "valid")

    def digest(self) -> str:
        """Returns the digest.

        Raises:
            DataError: the set cannot be read.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest_of_labels(*(read_dataset(self.path, split, self.names) for split in self.splits))


@dataclass(frozen=True)
class Written(FileSource):
    """A file of lines that the run writes itself, before its first stage.

    Attributes:
        lines: its content.
        images: whether the lines are paths of images, whose sizes count too.
    """

    lines: tuple[str, ...] = ()
    images: bool = False

    def digest(self) -> str:
        """Returns the digest of the lines, which need not be written yet."""
        return digest_of_images(map(Path, self.lines)) if self.images else digest_of_lines(self.lines)

    @property
    def content(self) -> bytes:
        """What the file holds, or will hold."""
        return ("\n".join(self.lines) + "\n").encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Content(FileSource):
    """A file that the run writes itself, before its first stage.

    Attributes:
        content: of the file.
    """

    content: bytes = b""

    def digest(self) -> str:
        """Returns the digest that the file has, or will have."""
        return sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Drawn(FileSource):
    """A folder of drawn scenes, which stand in where a user has no images at all.

    Attributes:
        count: how many.
        size: side of each, in pixels.
    """

    count: int = 0
    size: int = 0

    def digest(self) -> str:
        """Returns the digest of what decides the scenes."""
        return digest_of_lines(("drawn", str(self.count), str(self.size)))

    def write(self) -> None:
        """Draws them, unless they are there.

        Raises:
            OutputError: they cannot be written.
        """
        if self.path.is_dir():
            return
        step = track("drawing", self.count, "scene")
        with result_folder(self.path, []) as folder:
            for number in range(self.count):
                scene = draw_scene(0, number, self.size)
                (folder / f"{number:04d}.png").write_bytes(cv2.imencode(".png", scene.image)[1].tobytes())
                step()


def list_of(role: str, path: Path, images: Iterable[Path]) -> Written:
    """Returns a list of images to be written."""
    return Written(role, path, tuple(os.path.abspath(image) for image in images), True)
