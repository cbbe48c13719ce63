"""Drawn scenes: a detection data set that needs no download, the same for the same seed on every machine.

Objects of six kinds are drawn over clutter, partly hidden by one another and by bars, under varied light, with blur and
noise. Labels are darknet's: one text file beside each image, `class cx cy w h` relative to the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ("disc", "ring", "square", "triangle", "cross", "star")
HIDDEN = 0.55  #: an object of which more than this is covered has no label

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """One image with its objects.

    Attributes:
        image: (size, size, 3) uint8, BGR as OpenCV has it.
        classes: (n,) class ids.
        boxes: (n, 4) cx, cy, w, h relative to the image.
    """

    image: Image
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]


def draw_scene(seed: int, number: int, size: int = 160) -> Scene:
    """Draws one scene; (seed, number) determines it."""
    random = np.random.default_rng([seed, number])
    image = _background(random, size)
    whole: list[Mask] = []
    classes: list[int] = []
    for _ in range(int(random.integers(1, 7))):
        kind = int(random.integers(len(CLASSES)))
        mask = _shape(random, kind, size)
        _paint(random, image, mask)
        whole.append(mask)
        classes.append(kind)
    covers = whole[1:]
    if random.random() < 0.4:
        bar = _bar(random, size)
        _paint(random, image, bar)
        covers = [*covers, bar]
    boxes, kept = _labels(whole, classes, covers, size)
    return Scene(_photograph(random, image), np.array(kept, np.int64), boxes)


def write_scenes(folder: Path, train: int, valid: int, seed: int = 0, size: int = 160) -> Path:
    """Writes a data set: images, labels, lists, names and a .data file; returns the .data file.

    Args:
        folder: made if absent.
        train, valid: number of images of each split.
        seed: of the scenes; the two splits share none.
        size: of the images in pixels.
    """
    lists = {}
    for split, first, count in (("train", 0, train), ("valid", 1_000_000, valid)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(first, first + count):
            scene = draw_scene(seed, number, size)
            path = folder / split / f"{number:07d}.png"
            if not cv2.imwrite(str(path), scene.image):
                raise OSError(f"{path}: cannot be written")
            lines = [
                f"{label} {' '.join(f'{value:.6f}' for value in box)}\n"
                for label, box in zip(scene.classes.tolist(), scene.boxes.tolist(), strict=True)
            ]
            path.with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
            paths.append(str(path.resolve()))
        lists[split] = folder / f"{split}.txt"
        lists[split].write_text("\n".join(paths) + "\n", encoding="utf-8")
    names = folder / "scenes.names"
    names.write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    data = folder / "scenes.data"
    data.write_text(
        f"classes={len(CLASSES)}\ntrain={lists['train'].resolve()}\nvalid={lists['valid'].resolve()}\n"
        f"names={names.resolve()}\n",
        encoding="utf-8",
    )
    return data


def _background(random: np.random.Generator, size: int) -> Image:
    """Smooth light and dark, with lines, dots and scribbles that are no objects."""
    coarse = random.uniform(40, 215, (4, 4, 3)).astype(np.float32)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    for _ in range(int(random.integers(0, 14))):
        colour = random.integers(0, 256, 3).tolist()
        start, end = random.integers(0, size, (2, 2)).tolist()
        choice = random.integers(3)
        if choice == 0:
            cv2.line(image, start, end, colour, int(random.integers(1, 3)), cv2.LINE_AA)
        elif choice == 1:
            cv2.circle(image, start, int(random.integers(1, 4)), colour, -1, cv2.LINE_AA)
        else:
            points = random.integers(0, size, (1, 5, 2)).astype(np.int32)
            cv2.polylines(image, list(points), False, colour, 1, cv2.LINE_AA)
    return np.asarray(image, np.uint8)


def _shape(random: np.random.Generator, kind: int, size: int) -> Mask:
    """Draws one object's mask: any place, size, turn and aspect."""
    radius = size * float(random.uniform(0.06, 0.2))
    centre = random.uniform(radius * 0.8, size - radius * 0.8, 2)
    stretch = np.array([random.uniform(0.75, 1.33), 1.0])
    turn = float(random.uniform(0, 2 * np.pi))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mask = np.zeros((size, size), np.uint8)

    def place(points: Points) -> list[NDArray[np.int32]]:
        placed = (points * stretch) @ rotation.T * radius + centre
        return [np.round(placed * 16).astype(np.int32)]

    outline = _OUTLINES[kind]()
    cv2.fillPoly(mask, place(outline), 255, cv2.LINE_AA, shift=4)
    if CLASSES[kind] == "ring":
        cv2.fillPoly(mask, place(outline * 0.55), 0, cv2.LINE_AA, shift=4)
    return np.asarray(mask, np.uint8)


def _polygon(corners: int, inner: float | None = None) -> Points:
    count = corners * (1 if inner is None else 2)
    angles = 2 * np.pi * np.arange(count) / count
    radii = np.ones(count) if inner is None else np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _cross() -> Points:
    arm = 0.33
    quarter = np.array([[arm, -1], [arm, -arm], [1, -arm], [1, arm]])[:3]
    turns = [np.array([[0, -1], [1, 0]]), np.array([[-1, 0], [0, -1]]), np.array([[0, 1], [-1, 0]])]
    return np.concatenate([quarter, *(quarter @ turn.T for turn in turns)])


_OUTLINES: tuple[Callable[[], Points], ...] = (
    lambda: _polygon(40),
    lambda: _polygon(40),
    lambda: _polygon(4),
    lambda: _polygon(3),
    _cross,
    lambda: _polygon(5, 0.42),
)


def _bar(random: np.random.Generator, size: int) -> Mask:
    mask = np.zeros((size, size), np.uint8)
    start, end = random.integers(0, size, (2, 2)).tolist()
    cv2.line(mask, start, end, 255, int(size * random.uniform(0.03, 0.08)), cv2.LINE_AA)
    return np.asarray(mask, np.uint8)


def _paint(random: np.random.Generator, image: Image, mask: Mask) -> None:
    """Fills a mask with a shaded colour that differs from the background."""
    background = image[mask > 0].mean(axis=0) if (mask > 0).any() else np.full(3, 128.0)
    colour = random.uniform(0, 255, 3)
    while np.abs(colour - background).max() < 60:
        colour = random.uniform(0, 255, 3)
    shade = np.linspace(random.uniform(0.75, 1), random.uniform(0.75, 1), image.shape[0])[:, None, None]
    alpha = mask[..., None] / 255.0
    image[:] = (image * (1 - alpha) + np.clip(colour * shade, 0, 255) * alpha).astype(np.uint8)


def _labels(
    whole: list[Mask], classes: list[int], covers: list[Mask], size: int
) -> tuple[NDArray[np.float64], list[int]]:
    """Returns boxes of the objects that are visible enough, around their whole shape inside the image."""
    boxes, kept = [], []
    for number, (mask, kind) in enumerate(zip(whole, classes, strict=True)):
        on = mask > 127
        hidden = np.zeros_like(on)
        for cover in covers[number:]:
            hidden |= cover > 127
        if not on.any() or (on & hidden).sum() > HIDDEN * on.sum():
            continue
        rows, columns = np.flatnonzero(on.any(axis=1)), np.flatnonzero(on.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        boxes.append(np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]) / size)
        kept.append(kind)
    return (np.stack(boxes) if boxes else np.zeros((0, 4))), kept


def _photograph(random: np.random.Generator, image: Image) -> Image:
    """Varies light, contrast and sharpness, and adds noise."""
    seen = image.astype(np.float64)
    if random.random() < 0.5:
        seen = cv2.GaussianBlur(seen, (0, 0), float(random.uniform(0.3, 1.1))).astype(np.float64)
    seen = (seen - 128) * random.uniform(0.7, 1.15) + 128 + random.uniform(-25, 25)
    seen = seen + random.normal(0, random.uniform(1, 9), seen.shape)
    return np.asarray(seen.clip(0, 255), np.uint8)
