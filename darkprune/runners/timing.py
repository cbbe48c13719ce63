"""Measuring latency: runs in turn, percentiles, and what saved operations are worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darkprune.graph.graph import Graph
from darkprune.json_types import JsonObject
from darkprune.progress import reporting, silent, track
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


def noise_for(graph: Graph, batch: int = 1) -> NDArray[np.float32]:
    """Returns images of noise that a network takes: (batch, c, h, w) in 0…1."""
    shape = graph.net.input
    return np.random.default_rng(0).random((batch, shape.c, shape.h, shape.w), np.float32)


def time_alternately(networks: Sequence[LoadedNetwork], runs: int, warmup: int, *, batch: int = 1) -> list[list[float]]:
    """Times networks in turn on noise, A B A B …, so that a machine's drift meets each alike.

    Args:
        runs, warmup: runs of each that are timed, after those that are not.

    Returns:
        For each network the seconds of every run.
    """
    images = [noise_for(network.graph, batch) for network in networks]
    seconds: list[list[float]] = [[] for _ in networks]
    step = track("timing", (warmup + runs) * len(networks), "run")
    for number in range(warmup + runs):
        for network, given, times in zip(networks, images, seconds, strict=True):
            start = time.perf_counter()
            network.head_maps(given)
            if number >= warmup:
                times.append(time.perf_counter() - start)
            step()
    return seconds


def runs_within(
    seconds: float, bounds: tuple[int, int], networks: Sequence[LoadedNetwork], warmup: int = 1, *, batch: int = 1
) -> int:
    """Returns the number of runs of each network, within bounds, that take some seconds together; warms them up."""
    with reporting(silent):
        once = time_alternately(networks, 1, warmup, batch=batch)
    return int(np.clip(seconds / sum(first for (first,) in once), *bounds))


def speed_up(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Compares two networks that were timed in turn.

    Args:
        slow, fast: seconds of their runs, pair by pair.

    Returns:
        The median of the quotients, and the ends of its 95 % interval (by ranks, so whatever the distribution).
    """
    quotients = np.sort(np.array(slow) / np.array(fast))
    runs = len(quotients)
    reach = 0.98 * np.sqrt(runs)  # 1.96 standard deviations of a binomial distribution with p = 1/2
    low, high = max(0, int(np.floor(runs / 2 - reach))), min(runs - 1, int(np.ceil(runs / 2 + reach)))
    return float(np.median(quotients)), float(quotients[low]), float(quotients[high])
