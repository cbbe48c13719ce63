"""The prefetching loader: order, left-out images, the end."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.data.images import letterbox, read_image, resize
from darkprune.data.loading import InputShape, batch_of, load_batches, load_image
from darkprune.errors import DataError


def make_images(folder: Path, count: int) -> list[Path]:
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), np.full((10 + number, 20, 3), number, np.uint8))
    return paths


SHAPE = InputShape(16, 8)


@pytest.mark.parametrize("workers", [1, 3, None])
@pytest.mark.parametrize("ahead", [0, 2])
def test_order_sizes_and_content(tmp_path: Path, workers: int | None, ahead: int) -> None:
    paths = make_images(tmp_path, 11)
    batches = list(load_batches(paths, SHAPE, 4, workers=workers, ahead=ahead))
    assert [len(batch.indices) for batch in batches] == [4, 4, 3]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(11))
    assert np.concatenate([batch.sizes for batch in batches]).tolist() == [[20, 10 + i] for i in range(11)]
    images = np.concatenate([batch.images for batch in batches])
    assert images.shape == (11, 3, 8, 16)
    assert images.dtype == np.float32
    assert np.allclose(images[:, :, 0, 0] * 255, np.arange(11)[:, None])


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    paths = make_images(tmp_path, 5)
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    paths[4].unlink()
    first, second, third = load_batches(paths, SHAPE, 2)
    assert first.indices.tolist() == [0]
    assert "truncated" in str(first.problems[0])
    assert first.problems[0].file == paths[1]
    assert second.indices.tolist() == [2, 3]
    assert third.images.shape == (0, 3, 8, 16)
    assert "no such file" in third.problems[0].message
    with pytest.raises(DataError, match=r"1\.png.*truncated"):
        list(load_batches(paths, SHAPE, 2, strict=True))


def test_letterbox_and_grey(tmp_path: Path) -> None:
    path = make_images(tmp_path, 3)[2]
    planes, size = load_image(path, InputShape(16, 8, 1, True))
    assert planes.shape == (1, 8, 16)
    assert size == (20, 12)
    pixels = np.full((12, 20, 1), 2, np.uint8)
    assert np.array_equal(planes, letterbox(pixels, 16, 8))
    assert np.array_equal(load_image(path, InputShape(16, 8, 1))[0], resize(pixels, 16, 8))


def test_frames_make_the_same_batch(tmp_path: Path) -> None:
    paths = make_images(tmp_path, 3)
    (loaded,) = load_batches(paths, SHAPE, 3)
    made = batch_of([read_image(path) for path in paths], SHAPE)
    assert np.array_equal(made.images, loaded.images)
    assert np.array_equal(made.sizes, loaded.sizes)
    assert made.indices.tolist() == [0, 1, 2]


def test_leaving_early_stops_the_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    loader = load_batches(make_images(tmp_path, 20), SHAPE, 2, workers=2)
    next(loader)
    loader.close()
    assert threading.active_count() == before


def test_no_images() -> None:
    assert list(load_batches([], SHAPE, 2)) == []


def test_a_senseless_batch() -> None:
    with pytest.raises(ValueError, match="batch=0"):
        list(load_batches([], SHAPE, 0))
