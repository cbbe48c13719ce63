"""Schedules: tables worked out by hand from darknet's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.options import Options
from darkprune.errors import CfgError, DarkpruneError, TrainingError
from darkprune.graph.graph import read_graph
from darkprune.training.data.batches import SizeSettings
from darkprune.training.recipe.recipe import read_recipe
from darkprune.training.recipe.schedule import Schedule, read_schedule
from darkprune.training.settings import RunSettings
from darkprune.zoo import resolve
from tests.training.tiny import tiny_graph


def schedule(text: str) -> Schedule:
    cfg = parse_cfg(f"[net]\nlearning_rate=0.01\nmax_batches=100\n{text}\n[convolutional]\n", "x.cfg")
    return read_schedule(Options(cfg.sections[0], cfg.source))


@pytest.mark.parametrize(
    ("text", "step", "rate"),
    [
        ("", 7, 0.01),
        ("policy=whatever", 7, 0.01),
        ("burn_in=10", 1, 0.01 * 0.1**4),
        ("burn_in=10\npower=2", 5, 0.01 * 0.25),
        ("burn_in=10", 10, 0.01),
        ("policy=steps\nsteps=20,40,60\nscales=.1,10,.5", 19, 0.01),
        ("policy=steps\nsteps=20,40,60\nscales=.1,10,.5", 20, 0.001),
        ("policy=steps\nsteps=20,40,60\nscales=.1,10,.5", 40, 0.01),
        ("policy=steps\nsteps=20,40,60\nscales=.1,10,.5", 99, 0.005),
        ("policy=poly\npower=2", 50, 0.0025),
        ("policy=poly", 100, 0.0),
        ("policy=step\nstep=30\nscale=.5", 89, 0.0025),
        ("policy=exp\ngamma=.9", 3, 0.01 * 0.729),
        ("policy=sigmoid\ngamma=.5\nstep=50", 52, 0.01 / (1 + math.e)),
        ("policy=sgdr\nlearning_rate_min=.002", 50, 0.006),
        ("policy=sgdr\nlearning_rate_min=.002", 100, 0.002),
        ("policy=sgdr\nlearning_rate_min=0\nsgdr_cycle=20", 10, 0.005),
        ("policy=sgdr\nlearning_rate_min=0\nsgdr_cycle=20", 20, 0.0),  # the cycle's last step
        ("policy=sgdr\nlearning_rate_min=0\nsgdr_cycle=20", 40, 0.005),  # the second cycle is 20 to 60
        ("policy=sgdr\nlearning_rate_min=0\nsgdr_cycle=20\nsgdr_mult=1", 30, 0.005),
    ],
)
def test_rates(text: str, step: int, rate: float) -> None:
    assert schedule(text).at(step) == pytest.approx(rate, rel=1e-6, abs=1e-9)


def test_random_policy_is_reproducible() -> None:
    wild = schedule("policy=random")
    rates = [wild.at(step, seed=3) for step in range(1, 50)]
    assert rates == [wild.at(step, seed=3) for step in range(1, 50)]
    assert 0 <= min(rates) < max(rates) <= 0.01


@pytest.mark.parametrize("text", ["policy=steps", "policy=steps\nsteps=1,2\nscales=.1"])
def test_steps_need_scales(text: str) -> None:
    with pytest.raises(CfgError, match="scales"):
        schedule(text)


def test_another_length_stretches_the_steps() -> None:
    longer = schedule("policy=steps\nsteps=80,90\nscales=.1,.1\nburn_in=10").over(200)
    assert (longer.steps, longer.burn_in, longer.max_batches) == ((160, 180), 10, 200)
    assert schedule("burn_in=10").over(50).burn_in == 5


def test_changes_go_before_the_cfg() -> None:
    graph = tiny_graph()
    recipe = read_recipe(graph, 20, RunSettings(epochs=10, lr=0.5, policy="cosine", adam=True, mosaic=False, batch=4))
    assert recipe.steps == 50
    assert recipe.epoch_steps == 5
    assert recipe.optimizer.adam
    assert not recipe.augmentation.mosaic
    assert recipe.schedule.at(25) == pytest.approx(0.5 * (0.05 + 0.95 / 2), rel=1e-3)
    assert recipe.schedule.at(50) == pytest.approx(0.025, rel=1e-3)


@pytest.mark.parametrize(
    ("batch", "parts", "ranks", "expected"),
    [(8, 2, 1, 2), (8, 2, 2, 2), (8, 1, 4, 4), (12, 5, 1, 6), (12, 1, 3, 3), (6, 1, 4, None), (4, 8, 1, None)],
)
def test_parts_suit_the_processes(batch: int, parts: int, ranks: int, expected: int | None) -> None:
    settings = RunSettings(batch=batch, subdivisions=parts)
    if expected is None:
        with pytest.raises(DarkpruneError):
            read_recipe(tiny_graph(), 10, settings, ranks=ranks)
    else:
        assert read_recipe(tiny_graph(), 10, settings, ranks=ranks).parts == expected


@pytest.mark.parametrize(
    ("batch", "in_cfg", "ranks", "expected"),
    [
        (64, 16, 1, 2),  # parts of 4 become parts of 32
        (64, 1, 1, 1),
        (64, 2, 1, 2),
        (32, 64, 1, 1),
        (16, 16, 1, 1),
        (8, 8, 1, 1),
        (48, 8, 1, 1),  # two parts would have 24
        (16, 1, 2, 2),  # shared by two processes
        (128, 16, 2, 4),
        (7, 1, 2, None),
    ],
)
def test_without_subdivisions_batch_normalisation_sees_many_images(
    batch: int, in_cfg: int, ranks: int, expected: int | None
) -> None:
    graph = tiny_graph(subdivisions=in_cfg)
    if expected is None:
        with pytest.raises(TrainingError, match="multiple of 2"):
            read_recipe(graph, 100, RunSettings(batch=batch), ranks=ranks)
    else:
        recipe = read_recipe(graph, 100, RunSettings(batch=batch), ranks=ranks)
        assert (recipe.parts, recipe.part) == (expected, batch // expected)


@pytest.mark.parametrize(
    ("name", "batch"), [("yolov4-voc", 16), ("darknet53-yolov3-voc", 32), ("mobilenet-yolov3-voc", 32)]
)
def test_a_smaller_batch_is_not_cut_into_single_images(name: str, batch: int) -> None:
    graph = read_graph(resolve(f"builtin:{name}"))
    assert graph.net.subdivisions > 1
    assert read_recipe(graph, 100, RunSettings(batch=batch, iterations=1)).part == batch


def test_input_sizes_are_darknets() -> None:
    """`train_detector`: round(x·side/step + 1)·step, from 1/1.4 to 1.4 times the side, the largest at both ends."""
    sizes = SizeSettings(416, 416, 1.4, 32)
    assert sizes.largest == (608, 608)
    assert sizes.at(0, 2000, 1) == sizes.at(9, 2000, 1) == sizes.at(1950, 2000, 1) == (608, 608)
    found = {sizes.at(step, 2000, 1) for step in range(10, 1900)}
    assert min(found) >= (320, 320)
    assert max(found) <= (608, 608)
    assert len(found) > 5
    assert all(width == height and width % 32 == 0 for width, height in found)
    for first in range(10, 1890, 10):
        assert len({sizes.at(step, 2000, 1) for step in range(first, first + 10)}) == 1
    assert SizeSettings(416, 320).at(5, 10, 0) == (416, 320)
    assert np.unique([sizes.at(step, 2000, 2) for step in range(10, 500)]).size > 3
