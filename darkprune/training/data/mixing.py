"""Several images in one example: mosaic and mixup (`load_data_detection`, `blend_truth_mosaic`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from darkprune.data.images import Pixels
from darkprune.training.data.augment import Cutout, Labels, shift_colours

MARGIN = 0.2  #: the seams keep this share of the sides from the edges


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of an example, already cut out and stretched to its size.

    Attributes:
        pixels: (h, w, c) uint8, in its own colours.
        colours: how hue, saturation and brightness are to be shifted, see `shift_colours`.
        labels: relative to it.
        cutout: how it was cut out.
        image: width and height of the image it comes from, in pixels.
    """

    pixels: Pixels
    colours: tuple[float, float, float]
    labels: Labels
    cutout: Cutout
    image: tuple[int, int]


def draw_seams(random: np.random.Generator, width: int, height: int) -> tuple[int, int]:
    """Draws where the four images meet: column and row."""
    x, y = (int(random.integers(int(side * MARGIN), int(side * (1 - MARGIN)) + 1)) for side in (width, height))
    return x, y


def mosaic(tiles: Sequence[Tile], seams: tuple[int, int], bound: bool, limit: int) -> tuple[Pixels, Labels]:
    """Puts four images together: left top, right top, left bottom, right bottom.

    Args:
        tiles: four of one size.
        seams: column and row where they meet.
        bound: cut boxes at the seams, instead of only at the edges.

    Returns:
        Pixels of the tiles' size, and the objects that are still in sight.
    """
    height, width = tiles[0].pixels.shape[:2]
    whole = np.empty_like(tiles[0].pixels)
    labels: list[Labels] = []
    for corner, tile in enumerate(tiles):
        source, target, shift = _place(corner, tile, seams, width, height)
        whole[target] = shift_colours(np.ascontiguousarray(tile.pixels[source]), *tile.colours)
        labels.append(_shifted(tile.labels, shift, target, width, height, bound))
    return whole, np.concatenate(labels)[:limit]


def mixup(first: Tile, second: Tile, limit: int) -> tuple[Pixels, Labels]:
    """Lays two images over each other; the objects of both count in full."""
    below, above = (shift_colours(tile.pixels, *tile.colours) for tile in (first, second))
    pixels = cv2.addWeighted(above, 0.5, below, 0.5, 0.0)
    labels = np.concatenate([first.labels, second.labels])[:limit]
    return np.asarray(pixels, np.uint8).reshape(first.pixels.shape), labels


def _place(
    corner: int, tile: Tile, seams: tuple[int, int], width: int, height: int
) -> tuple[tuple[slice, slice], tuple[slice, slice], tuple[int, int]]:
    """Returns which rows and columns of a tile go where, and by how much its objects move (x, y in pixels).

    The part next to the seam's opposite side is taken, but moved inwards where the tile has a filled margin there.
    """
    cut_x, cut_y = seams
    cutout, (image_width, image_height) = tile.cutout, tile.image
    left, right = (cutout.right, cutout.left) if cutout.flip else (cutout.left, cutout.right)
    free_left = min(cut_x, max(0, int(-left * width / image_width)))
    free_right = min(width - cut_x, max(0, int(-right * width / image_width)))
    free_top = min(cut_y, max(0, int(-cutout.top * height / image_height)))
    free_bottom = min(height - cut_y, max(0, int(-cutout.bottom * height / image_height)))
    if corner % 2 == 0:
        x, columns = width - cut_x - free_right, slice(0, cut_x)
    else:
        x, columns = free_left, slice(cut_x, width)
    if corner < 2:
        y, rows = height - cut_y - free_bottom, slice(0, cut_y)
    else:
        y, rows = free_top, slice(cut_y, height)
    source = (slice(y, y + rows.stop - rows.start), slice(x, x + columns.stop - columns.start))
    return source, (rows, columns), (columns.start - x, rows.start - y)


def _shifted(
    labels: Labels, shift: tuple[int, int], target: tuple[slice, slice], width: int, height: int, bound: bool
) -> Labels:
    """Moves a tile's objects into the mosaic and drops those that left it."""
    size = np.array([width, height], np.float32)
    centre = labels[:, 1:3] + np.array(shift, np.float32) / size
    sides = labels[:, 3:5]
    # whole pixels, as darknet's integers
    low, high = np.trunc((centre - sides / 2) * size), np.trunc((centre + sides / 2) * size)
    if bound:
        rows, columns = target
        low = np.maximum(low, np.array([columns.start, rows.start], np.float32))
        high = np.minimum(high, np.array([columns.stop, rows.stop], np.float32))
        centre, sides = np.float32((low + high) / 2 / size), np.float32((high - low) / size)
    else:
        over_low, over_high = np.minimum(low, 0) / size, np.maximum(high - size, 0) / size
        centre = np.float32(centre - over_low / 2 - over_high / 2)
        sides = np.float32(sides + over_low - over_high)
        # exactly inside now; darknet computes the edges once more and loses an object where they round to outside
        low, high = np.maximum(low, 0), np.minimum(high, size)
    good = (low >= 0) & (high <= size) & (sides > 1 / size) & (sides < 1) & (centre > 0) & (centre < 1)
    kept = good.all(axis=1)
    return np.asarray(np.concatenate([labels[:, :1], centre, sides], axis=1)[kept], np.float32)
