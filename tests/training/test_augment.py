"""Augmentation: labels stay on what they label, whatever is done to the image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import CfgError
from darkprune.graph.graph import build_graph
from darkprune.training.data.augment import (
    Augmentation,
    Cutout,
    cut_out,
    draw_cutout,
    move_labels,
    read_augmentation,
    shift_colours,
    usable,
)
from darkprune.training.data.mixing import Tile, draw_seams, mixup, mosaic
from tests.training.tiny import CFG, tiny_graph

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
PLAIN = (0.0, 1.0, 1.0)


def scene(width: int, height: int, kind: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """A grey image with one rectangle in the colour of its class, and its label."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 90, np.uint8)
    w, h = int(random.integers(width // 4, width // 2)), int(random.integers(height // 4, height // 2))
    x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
    image[y : y + h, x : x + w] = COLOURS[kind]
    label = [kind, (x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    return image, np.array([label], np.float32)


def seen(pixels: npt.NDArray[np.uint8], kind: int) -> npt.NDArray[np.float64] | None:
    """Edges (left, top, right, bottom) of a colour in the picture, in pixels."""
    near = np.abs(pixels.astype(int) - COLOURS[kind]).sum(axis=2) < 200
    if not near.any():
        return None
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def edges(label: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.float64]:
    x, y, w, h = label[1:] * np.array([width, height, width, height])
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2], float)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.6, 1.0, 1.5]))
def test_labels_move_with_their_objects(seed: int, letterbox: bool, resize: float) -> None:
    random = np.random.default_rng(seed)
    width, height = int(random.integers(90, 200)), int(random.integers(90, 200))
    image, labels = scene(width, height, 0, seed)
    what = Augmentation(jitter=0.3, resize=resize, letterbox=letterbox)
    cutout = usable(draw_cutout(random, width, height, what, 128 / 96), width, height)
    moved = move_labels(labels, cutout, (width, height), (128, 96), 10, random)
    where = seen(cut_out(image, cutout, 128, 96), 0)
    if where is None or (where[2:] - where[:2]).min() < 3:
        return
    assert len(moved) == 1
    np.testing.assert_allclose(edges(moved[0], 128, 96), where, atol=3.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
@example(112889, False)  # an edge that float32 puts a whole pixel outside
def test_labels_of_a_mosaic_are_where_its_objects_are(seed: int, bound: bool) -> None:
    random = np.random.default_rng(seed)
    width, height = 128, 96
    tiles = []
    for kind in range(4):
        image, labels = scene(int(random.integers(90, 200)), int(random.integers(90, 200)), kind, seed + kind)
        size = (image.shape[1], image.shape[0])
        cutout = draw_cutout(random, *size, Augmentation(jitter=0.2), width / height)
        if random.integers(2):
            cutout = cutout.to_corner(kind)
        cutout = usable(cutout, *size)
        moved = move_labels(labels, cutout, size, (width, height), 10, random)
        tiles.append(Tile(cut_out(image, cutout, width, height), PLAIN, moved, cutout, size))
    pixels, labels = mosaic(tiles, draw_seams(random, width, height), bound, 10)
    assert pixels.shape == (height, width, 3)
    for label in labels:
        where = seen(pixels, int(label[0]))
        box = edges(label, width, height)
        # darknet rounds edges to whole pixels before it cuts: a fraction of one stays outside (float32: up to 1.000001)
        assert box.min() > -1 - 1e-5
        assert (box[2:] < np.array([width, height]) + 1 + 1e-5).all()
        if bound and where is not None:
            # without `mosaic_bound` a box reaches as far as its object did in its own image
            np.testing.assert_allclose(box, where, atol=4.5)
    for kind in range(4):
        where = seen(pixels, kind)
        if where is not None and (where[2:] - where[:2]).min() > 8:
            assert kind in labels[:, 0]


def test_mixup_keeps_both_in_full() -> None:
    parts = []
    for kind in (0, 2):
        image, labels = scene(64, 64, kind, kind)
        parts.append(Tile(image, PLAIN, labels, Cutout(0, 0, 0, 0, False), (64, 64)))
    pixels, labels = mixup(parts[0], parts[1], 10)
    assert labels[:, 0].tolist() == [0, 2]
    mean = (parts[0].pixels.astype(int) + parts[1].pixels) / 2
    assert np.abs(pixels - mean).max() <= 1
    assert len(mixup(parts[0], parts[1], 1)[1]) == 1


def test_objects_of_less_than_a_pixel_are_dropped() -> None:
    labels = np.array([[0, 0.5, 0.5, 0.02, 0.5], [1, 0.5, 0.5, 0.5, 0.5], [0, 0.5, 1.4, 0.2, 0.2]], np.float32)
    random = np.random.default_rng(0)
    whole = Cutout(0, 0, 0, 0, False)
    assert move_labels(labels, whole, (100, 100), (32, 32), 10, random)[:, 0].tolist() == [1]
    assert len(move_labels(labels, whole, (100, 100), (64, 64), 10, random)) == 2


def test_many_objects_are_limited_but_not_always_the_same() -> None:
    labels = np.tile(np.array([[0, 0.5, 0.5, 0.2, 0.2]], np.float32), (20, 1))
    labels[:, 0] = np.arange(20)
    random = np.random.default_rng(0)
    whole = Cutout(0, 0, 0, 0, False)
    drawn = [tuple(move_labels(labels, whole, (50, 50), (50, 50), 5, random)[:, 0]) for _ in range(4)]
    assert all(len(each) == 5 for each in drawn)
    assert len(set(drawn)) == 4


def test_colours_change_as_asked_for() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert np.array_equal(shift_colours(grey, *PLAIN), grey)
    brighter = shift_colours(grey, 0.0, 1.0, 1.5)
    assert np.abs(brighter.astype(int) - 150).max() <= 1
    one = np.full((8, 8, 1), 100, np.uint8)
    assert shift_colours(one, 0.1, 2.0, 0.5).tolist() == np.full((8, 8, 1), 50).tolist()
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    shifted = shift_colours(red, 60 / 179, 1.0, 1.0)[0, 0]  # OpenCV's hue has 180 steps: 60 of them lead to green
    assert shifted[1] > 190 > 10 > shifted[0]


def test_margins_stay_within_jitter_and_resize() -> None:
    random = np.random.default_rng(0)
    what = Augmentation(jitter=0.1, resize=1.5)
    found = np.array(
        [(c.left, c.right, c.top, c.bottom) for c in (draw_cutout(random, 200, 100, what, 1.0) for _ in range(300))]
    )
    # 20 and 10 pixels of jitter; 1.5 shows it a quarter of a side smaller to a sixth larger, at each edge
    assert found[:, :2].min() >= -20 - 50
    assert found[:, :2].max() <= 20 + 33
    assert found[:, 2:].min() >= -10 - 25
    assert found[:, 2:].max() <= 10 + 16
    assert found[:, :2].min() < -50
    assert found[:, :2].max() > 40


def test_keys_are_read_from_net_and_the_last_head() -> None:
    what = read_augmentation(tiny_graph(mixup=1, blur=3, gaussian_noise=500))
    assert (what.jitter, what.saturation, what.hue, what.mosaic, what.mixup) == (0.2, 1.5, 0.1, True, False)
    assert (what.blur, what.noise, what.limit) == (3, 127, 200)
    with pytest.raises(CfgError, match="letter_box"):
        read_augmentation(tiny_graph(letter_box=1))
    with pytest.raises(CfgError, match="resize"):
        read_augmentation(build_graph(parse_cfg(CFG.replace("jitter=.2", "resize=0"), "x.cfg")))


@pytest.mark.parametrize("corner", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_a_part_moves_to_the_corner_as_in_darknet(corner: int, flip: bool) -> None:
    """`load_data_detection`: what is cut off at both sides is cut off at one, the mirrored one where it is mirrored."""
    moved = Cutout(3, 5, 7, 11, flip).to_corner(corner)
    at_left = (corner in (0, 2)) != flip
    assert (moved.left, moved.right) == ((0, 8) if at_left else (8, 0))
    assert (moved.top, moved.bottom) == ((0, 18) if corner < 2 else (18, 0))


@pytest.mark.parametrize("corner", range(4))
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_mosaic_hides_filled_margins_of_mirrored_images_too(corner: int, flip: bool, side: str) -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, :50], image[:, 50:] = COLOURS[0], COLOURS[2]
    margins = dict.fromkeys(("left", "right", "top", "bottom"), 0) | {side: -20}
    cutout = Cutout(**margins, flip=flip)
    tile = Tile(cut_out(image, cutout, 120, 80), PLAIN, np.zeros((0, 5), np.float32), cutout, (100, 60))
    pixels, _ = mosaic([tile] * 4, (60, 40), False, 10)
    rows, columns = slice(0, 40) if corner < 2 else slice(40, 80), slice(0, 60) if corner % 2 == 0 else slice(60, 120)
    # a filled margin shows the image's mean colour, half red and half blue
    filled = (np.abs(pixels[rows, columns].astype(int) - (COLOURS[0].astype(int) + COLOURS[2]) // 2) < 20).all(axis=2)
    assert filled.mean() < 0.06  # the seam between the halves is blurred by the resizing
