"""Batches: the same whatever makes them, taken up anywhere."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from darkprune.data import read_dataset
from darkprune.errors import DataError, TrainingError
from darkprune.training.data.augment import Augmentation
from darkprune.training.data.batches import Batch, BatchLoader, BatchPlan, SizeSettings
from darkprune.training.data.examples import ExampleMaker, ImageSet, image_set, unlabelled_set
from tests.training.tiny import write_images

WHAT = Augmentation(jitter=0.2, hue=0.1, saturation=1.5, exposure=1.5, mosaic=True)
PLAN = BatchPlan(4, 2, 40, 5, SizeSettings(32, 32, 1.4, 16))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    data = write_images(tmp_path_factory.mktemp("data"), 10)
    return image_set(read_dataset(data, "train"), 2, 3)


def take(loader: BatchLoader, step: int, count: int) -> list[Batch]:
    stream = loader.start(step)
    found = list(islice(stream, count))
    stream.close()
    return found


def same(first: Batch, second: Batch) -> bool:
    return (
        first.step == second.step
        and torch.equal(first.pixels, second.pixels)
        and torch.equal(first.truths.boxes, second.truths.boxes)
        and torch.equal(first.truths.classes, second.truths.classes)
        and first.sources == second.sources
    )


def test_workers_and_starting_points_make_no_difference(images: ImageSet) -> None:
    maker = ExampleMaker(images, WHAT, strict=False)
    whole = take(BatchLoader(maker, PLAN, 0), 0, 60)
    assert [batch.step for batch in whole] == [step for step in range(30) for _ in range(2)]
    assert len({batch.size for batch in whole}) > 1
    others = take(BatchLoader(maker, PLAN, 2), 0, 8)
    assert all(same(a, b) for a, b in zip(whole[:8], others, strict=True))
    later = take(BatchLoader(maker, PLAN, 0), 7, 46)
    assert all(same(a, b) for a, b in zip(whole[14:], later, strict=True))


def test_processes_share_a_step(images: ImageSet) -> None:
    maker = ExampleMaker(images, WHAT, strict=False)
    whole = take(BatchLoader(maker, PLAN, 0), 0, 24)
    for rank in range(2):
        plan = BatchPlan(4, 2, 40, 5, SizeSettings(32, 32, 1.4, 16), rank, 2)
        mine = take(BatchLoader(maker, plan, 0), 0, 12)
        assert all(same(a, b) for a, b in zip(whole[rank::2], mine, strict=True))


def test_an_epoch_holds_every_image_once() -> None:
    for epoch in range(3):
        assert sorted(PLAN.image_of(position, 10) for position in range(10 * epoch, 10 * epoch + 10)) == list(range(10))
    orders = [[PLAN.image_of(position, 10) for position in range(10 * e, 10 * e + 10)] for e in range(3)]
    assert orders[0] != orders[1]


def test_pixels_become_numbers(images: ImageSet) -> None:
    batch = take(BatchLoader(ExampleMaker(images, Augmentation(jitter=0, flip=False), False), PLAN, 0), 0, 1)[0]
    given = batch.images(torch.device("cpu"))
    assert given.shape == (2, 3, batch.size[1], batch.size[0])
    assert given.dtype is torch.float32
    np.testing.assert_allclose(given[0, 1].numpy(), batch.pixels[0, :, :, 1].numpy() / 255, rtol=1e-6)


def test_decoded_images_are_kept_where_they_fit(images: ImageSet) -> None:
    kept = ImageSet(images.paths, images.labels, 3, {})
    assert not kept.keep_in_memory(1000)
    assert kept.keep_in_memory(1 << 24)
    assert len(kept.cached) == 10
    maker, other = (ExampleMaker(each, WHAT, strict=False) for each in (images, kept))
    assert all(
        same(a, b)
        for a, b in zip(take(BatchLoader(maker, PLAN, 0), 0, 3), take(BatchLoader(other, PLAN, 0), 0, 3), strict=True)
    )


def test_unreadable_images_are_replaced_and_named(tmp_path: Path) -> None:
    data = write_images(tmp_path, 4)
    broken = tmp_path / "images" / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    images = image_set(read_dataset(data, "train"), 2, 3)
    plan = BatchPlan(4, 1, 3, 0, SizeSettings(32, 32))
    found = take(BatchLoader(ExampleMaker(images, WHAT, strict=False), plan, 0), 0, 3)
    assert {problem.file.name for batch in found for problem in batch.problems} == {"001.png"}
    assert all(len(batch.pixels) == 4 for batch in found)
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"001\.png"):
            take(BatchLoader(ExampleMaker(images, WHAT, strict=True), plan, workers), 0, 3)


def test_nothing_readable_stops(tmp_path: Path) -> None:
    data = write_images(tmp_path, 2)
    for path in (tmp_path / "images").glob("*.png"):
        path.write_bytes(b"no image")
    images = image_set(read_dataset(data, "train"), 2, 3)
    with pytest.raises(DataError, match="in a row"):
        take(BatchLoader(ExampleMaker(images, WHAT, strict=False), PLAN, 0), 0, 1)


def test_labels_that_cannot_be_learned_are_left_out(tmp_path: Path) -> None:
    data = write_images(tmp_path, 3)
    label = tmp_path / "images" / "000.txt"
    label.write_text("0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n1 0.5 0.5 0 0.2\n1 2.5 0.5 0.2 0.2\n")
    images = image_set(read_dataset(data, "train"), 2, 3)
    assert images.labels[0].tolist() == [pytest.approx([0, 0.5, 0.5, 0.2, 0.2])]
    for number in range(3):
        (tmp_path / "images" / f"{number:03}.txt").write_text("")
    with pytest.raises(TrainingError, match="not one object"):
        image_set(read_dataset(data, "train"), 2, 3)


def test_images_without_labels(images: ImageSet) -> None:
    bare = unlabelled_set(images.paths, 3)
    batch = take(BatchLoader(ExampleMaker(bare, WHAT, strict=False), PLAN, 0), 0, 1)[0]
    assert batch.truths.classes.numel() == 0
    assert len(batch.pixels) == 2
