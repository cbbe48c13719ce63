"""Measuring latency: runs in turn, percentiles, and what saved operations are worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darkprune.json_types import JsonObject
from darkprune.progress import Progress, silent, track
from darkprune.runners.base import LoadedNetwork


@dataclass(frozen=True)
class Latency:
    """Times of one network.

    Attributes:
        runs: number of timed runs.
        batch: images per run.
        median, p90, p99, smallest: milliseconds per run.
        images_per_second: from the median.
        operations_per_second: 2 x multiply-adds x images, from the median.
    """

    runs: int
    batch: int
    median: float
    p90: float
    p99: float
    smallest: float
    images_per_second: float
    operations_per_second: float

    @classmethod
    def of(cls, seconds: Sequence[float], batch: int, macs: int) -> Latency:
        """Summarises the times of runs."""
        times = np.array(seconds) * 1e3
        median, p90, p99 = (float(np.percentile(times, q)) for q in (50, 90, 99))
        images = batch * 1e3 / median
        return cls(len(times), batch, median, p90, p99, float(times.min()), images, 2 * macs * images)

    def to_json(self) -> JsonObject:
        """Returns the figures, in milliseconds where they are times."""
        return {
            "runs": self.runs,
            "batch": self.batch,
            "median_ms": round(self.median, 4),
            "p90_ms": round(self.p90, 4),
            "p99_ms": round(self.p99, 4),
            "min_ms": round(self.smallest, 4),
            "images_per_second": round(self.images_per_second, 3),
            "operations_per_second": round(self.operations_per_second),
        }


def time_alternately(
    networks: Sequence[LoadedNetwork],
    images: Sequence[NDArray[np.float32]],
    runs: int,
    warmup: int,
    progress: Progress = silent,
) -> list[list[float]]:
    """Times networks in turn, A B A B …, so that a machine's drift meets each alike.

    Args:
        networks: loaded.
        images: for each network a batch of its size.
        runs: timed runs of each.
        warmup: runs of each that are not counted.
        progress: gets an event per run.

    Returns:
        For each network the seconds of every run.
    """
    seconds: list[list[float]] = [[] for _ in networks]
    step = track(progress, "timing", (warmup + runs) * len(networks), "run")
    for number in range(warmup + runs):
        for network, batch, times in zip(networks, images, seconds, strict=True):
            start = time.perf_counter()
            network.head_maps(batch)
            if number >= warmup:
                times.append(time.perf_counter() - start)
            step()
    return seconds


def yield_of_saving(before: float, after: float, operations_before: float, operations_after: float) -> float | None:
    """Returns which part of the saved operations became saved time: 1 is all of it; None if none were saved."""
    saved = 1 - operations_after / operations_before
    return None if saved <= 0 else (1 - after / before) / saved
