"""A measured budget: the ratio at which the slim network takes as long as is asked for (METHODS §7).

Every trial runs the slim network and the unpruned one in turn, A B A B …, in one program: what is compared is the ratio
of their medians, so that a machine's drift, or its other users, meet both alike.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darkprune.errors import PlanError, UsageError
from darkprune.graph.graph import Graph
from darkprune.layers.base import Floats
from darkprune.progress import Progress, Steps, silent, track
from darkprune.runners.base import LoadedNetwork, load_with_any
from darkprune.runners.timing import time_alternately
from darkprune.selection.budget import HIGHEST
from darkprune.selection.decide import Ranking, decide
from darkprune.selection.reach import along
from darkprune.selection.settings import Selection

TOLERANCE = 0.05
TRIALS = 10  #: measurements at most, the first one of the original against itself included
SECONDS = 3.0  #: of runs, about, before it is seen how noisy they are
RUNS = (15, 400)  #: of each network in that time, at least and at most
REPEATS = 3  #: times that many runs at most, while they are too noisy
WARMUP = 3
_TARGET = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|%)?")


@dataclass(frozen=True)
class Trial:
    """One measurement.

    Attributes:
        ratio: fraction of channels asked to go, or the place on the way along the curves.
        part: time of the slim network over that of the unpruned one.
        noise: half-width of the 95 % interval of the runs' median ratio, relative.
        runs: of each.
    """

    ratio: float
    part: float
    noise: float
    runs: int


@dataclass(frozen=True)
class LatencyFound:
    """What the search found.

    Attributes:
        runner, batch: what was timed.
        original_ms: median of the unpruned network's runs, over all trials.
        target_ms: what was asked for.
        reached_ms: the slim network's, from its part of the original's.
        noise: relative; the larger of the last trial's and of the difference that the original shows to itself.
        trials: in the order of measurement; the first is the original against itself, the last the one that counts.
    """

    runner: str
    batch: int
    original_ms: float
    target_ms: float
    reached_ms: float
    noise: float
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, rounded."""
        data = asdict(self)
        numbers = {key: round(value, 4) for key, value in data.items() if isinstance(value, float)}
        trials = [{key: round(value, 4) for key, value in trial.items()} for trial in data["trials"]]
        return {**data, **numbers, "trials": trials}

    def warnings(self) -> list[str]:
        """Says where the noise is too large for what was promised."""
        if self.noise <= TOLERANCE:
            return []
        return [
            f"latency: timing on this machine is uncertain by {100 * self.noise:.0f} %, more than the 5 % that it "
            "should be met within; measure again where nothing else runs"
        ]


def parse_latency(text: str) -> tuple[float, bool]:
    """Reads a latency: a fraction of the original's (`0.6`, `60%`), or milliseconds (`12`, `12ms`).

    Returns:
        The value, and whether it is a fraction.

    Raises:
        UsageError: it cannot be read, or is 0.
    """
    match = _TARGET.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(
            f"--target-latency {text[:30]}: write milliseconds (12ms), or a fraction of the original's (0.6)"
        )
    value = float(match[1])
    if match[2] == "%":
        return value / 100, True
    return value, match[2] is None and value <= 1


def within_latency(
    ranking: Ranking,
    settings: Selection,
    target: tuple[float, bool],
    runner: str,
    batch: int = 1,
    progress: Progress = silent,
) -> tuple[Selection, LatencyFound]:
    """Finds settings whose slim network takes as long as is asked for.

    Args:
        ranking: from `rank`.
        settings: an allocation with one ratio, or `sensitivity` with curves in the ranking.
        target: see `parse_latency`.
        runner: program to time the networks in.
        batch: images per run.
        progress: gets an event per trial, at most `TRIALS`.

    Raises:
        UsageError: the original is fast enough already.
        PlanError: it cannot be met within 5 %; says the nearest that can.
        RunnerError: the program is not installed, or refuses the network.
    """
    clock = _Clock(ranking, settings, runner, batch, track(progress, "measuring latency", TRIALS, "trial"))
    clock.against_itself()
    value, is_fraction = target
    wanted = value if is_fraction else value / clock.original_ms
    if wanted >= 1:
        raise UsageError(
            f"--target-latency {value:g}: the original takes {clock.original_ms:.2f} ms on {runner}; ask for less"
        )
    least = clock.trial(HIGHEST)
    if least.part > wanted * (1 + TOLERANCE):
        raise PlanError(
            f"--target-latency {value:g}: cannot be met on {runner}: with every layer at its floor "
            f"{least.part * clock.original_ms:.2f} ms remain of {clock.original_ms:.2f} ({100 * least.part:.0f} %), "
            f"asked for are {wanted * clock.original_ms:.2f}; lower --min-channels or --round-to, or ask for more"
        )
    low, high, best = (0.0, 1.0), (HIGHEST, least.part), least
    while len(clock.trials) < TRIALS and abs(best.part / wanted - 1) > TOLERANCE / 2:
        trial = clock.trial(_between(low, high, wanted))
        if trial.part > wanted:
            low = (trial.ratio, trial.part)
        else:
            high = (trial.ratio, trial.part)
        best = min(best, trial, key=lambda each: abs(each.part / wanted - 1))
    final = clock.trial(best.ratio)  # the nearest of several noisy ones flatters: it is measured anew
    found = clock.found(wanted, final)
    if abs(final.part / wanted - 1) > TOLERANCE + min(TOLERANCE, found.noise):
        if found.noise > TOLERANCE:
            raise PlanError(
                f"--target-latency {value:g}: timing on this machine is uncertain by {100 * found.noise:.0f} % now, so "
                "that no ratio could be told to meet it; try again where nothing else runs, or give --target-macs"
            )
        raise PlanError(
            f"--target-latency {value:g}: cannot be met within 5 % on {runner}: nearest is {found.reached_ms:.2f} ms "
            f"of {found.original_ms:.2f} (--ratio {final.ratio:.4f}), asked for are {found.target_ms:.2f}"
        )
    return clock.at(final.ratio), found


def _between(low: tuple[float, float], high: tuple[float, float], wanted: float) -> float:
    """Interpolates the ratio, well inside the bracket: noise may have put the ends where they are not."""
    span = low[1] - high[1]
    share = (low[1] - wanted) / span if span > 0 else 0.5
    return low[0] + (high[0] - low[0]) * min(0.85, max(0.15, share))


class _Clock:
    """Times slim networks against the unpruned one."""

    def __init__(self, ranking: Ranking, settings: Selection, runner: str, batch: int, step: Steps) -> None:
        original = ranking.original
        self.at = along(ranking, settings, "macs")
        self.trials: list[Trial] = []
        self._ranking, self._runner, self._batch, self._step = ranking, runner, batch, step
        self._pair = original.graph, original.path
        self._network = self._load(*self._pair)
        self._times: list[float] = []

    @property
    def original_ms(self) -> float:
        return 1e3 * float(np.median(self._times))

    def against_itself(self) -> None:
        """Times the original against a second copy of itself: what differs there is no difference."""
        self._time(0.0, self._load(*self._pair))

    def trial(self, ratio: float) -> Trial:
        """Prunes and times."""
        decision = decide(self._ranking, self.at(ratio))
        with decision.temporary_weights() as path:
            return self._time(ratio, self._load(decision.graph, path))

    def found(self, wanted: float, final: Trial) -> LatencyFound:
        """Sums up."""
        itself = self.trials[0]
        noise = max(final.noise, itself.noise, abs(itself.part - 1))
        whole = self.original_ms
        return LatencyFound(
            self._runner, self._batch, whole, wanted * whole, final.part * whole, noise, tuple(self.trials)
        )

    def _load(self, graph: Graph, weights: Path) -> LoadedNetwork:
        return load_with_any(graph, weights, self._runner, taps=False)[1]

    def _time(self, ratio: float, network: LoadedNetwork) -> Trial:
        shape = self._network.graph.net.input
        images = np.random.default_rng(0).random((self._batch, shape.c, shape.h, shape.w), np.float32)
        pair, given = (self._network, network), (images, images)
        first, second = time_alternately(pair, given, 1, WARMUP)
        runs = int(np.clip(SECONDS / (first[0] + second[0]), *RUNS))
        before: list[float] = []
        after: list[float] = []
        for _ in range(REPEATS):
            for times, more in zip((before, after), time_alternately(pair, given, runs, 0), strict=True):
                times += more
            found = _summed_up(ratio, np.array(before), np.array(after))
            if found.noise < TOLERANCE / 2:
                break
        self._times += before
        self.trials.append(found)
        self._step()
        return found


def _summed_up(ratio: float, before: Floats, after: Floats) -> Trial:
    """Compares the seconds of runs in turn."""
    parts = after / before
    quarter, three = np.percentile(parts, (25, 75))
    notch = 1.57 * (three - quarter) / np.sqrt(len(parts))  # McGill, Tukey, Larsen 1978
    return Trial(ratio, float(np.median(after) / np.median(before)), float(notch / np.median(parts)), len(parts))
