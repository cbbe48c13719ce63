"""A measured budget: finds the ratio at which the slim network meets a latency.

Each trial runs the slim network and the unpruned one in turn, A B A B …, in one program. The ratio of their medians is
what counts, so that a slower machine, or other work on it, affects both alike. Where to try next is predicted from the
times of single layers (`darkprune.runners.layer_times`), corrected by the trials on both sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from darkprune.errors import PlanError, UsageError
from darkprune.graph.graph import Graph
from darkprune.layers.base import Floats
from darkprune.progress import Steps, reporting, silent, track
from darkprune.runners.base import LoadedNetwork, load_with_any
from darkprune.runners.layer_times import LayerPrices, LayerTimes
from darkprune.runners.timing import runs_within, time_alternately
from darkprune.selection.budget import HIGHEST, LatencyTarget, Place, bisection
from darkprune.selection.decide import Ranking, decide
from darkprune.selection.reach import along
from darkprune.selection.settings import Selection

TOLERANCE = 0.05
KIND = "ms"  #: of what curves save, beside the kinds of budgets
PREDICTIONS = 12  #: places that are looked at before the next trial
TRIALS = 10  #: most measurements before the last one, which confirms; that of the original against itself included
SECONDS = 3.0  #: of runs, before their noise is looked at
RUNS = (15, 400)  #: least and most runs of each network in that time
REPEATS = 3  #: most times that number of runs, while they are too noisy
WARMUP = 3


@dataclass(frozen=True)
class Trial:
    """One measurement.

    Attributes:
        ratio: fraction of channels asked to go, or the position along the curves.
        part: time of the slim network over that of the unpruned one.
        noise: half-width of the 95 % interval of the runs' median ratio, relative.
        runs: number of runs of each network.
    """

    ratio: float
    part: float
    noise: float
    runs: int


@dataclass(frozen=True)
class LatencyFound:
    """Result of the search.

    Attributes:
        runner: program that the networks were timed in.
        batch: images per run.
        original_ms: median of the unpruned network's runs, over all trials.
        target_ms: asked for.
        reached_ms: of the slim network.
        predicted_ms: from the times of single layers; None where they are not timed.
        noise: relative: the larger of the last trial's, and of the original's difference from itself.
        trials: in the order of measurement; the first is the original against itself, the last one is the result.
    """

    runner: str
    batch: int
    original_ms: float
    target_ms: float
    reached_ms: float
    predicted_ms: float | None
    noise: float
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, object]:
        """Returns the fields, rounded."""
        data: dict[str, object] = {
            name: round(value, 4) if isinstance(value, float) else value for name, value in vars(self).items()
        }
        trials = [{name: round(value, 4) for name, value in asdict(trial).items()} for trial in self.trials]
        return {**data, "trials": trials}

    def warnings(self) -> list[str]:
        """Returns a warning where the noise exceeds the tolerance."""
        if self.noise <= TOLERANCE:
            return []
        return [
            f"latency: timing on this machine is uncertain by {100 * self.noise:.0f} %, more than the 5 % that it "
            "should be met within; measure again where nothing else runs"
        ]


@dataclass(frozen=True)
class Where:
    """What networks are timed in.

    Attributes:
        runner: the program.
        batch: images per run.
        layers: times of single layers there; None: multiply-adds stand for them.
    """

    runner: str
    batch: int = 1
    layers: LayerTimes | None = None


def within_latency(
    ranking: Ranking, settings: Selection, target: LatencyTarget, where: Where
) -> tuple[Ranking, Selection, LatencyFound]:
    """Finds settings whose slim network meets a latency.

    Args:
        settings: an allocation with one ratio, or `sensitivity` with curves in the ranking.

    Returns:
        The ranking, its curves with milliseconds among what they save; the settings; what was measured.

    Raises:
        UsageError: the original is fast enough already.
        PlanError: it cannot be met within 5 %; the message names the nearest that can.
        RunnerError: the program is not installed, or refuses the network.
    """
    runner, prices = where.runner, None
    if where.layers is not None:
        prices = where.layers.prices(ranking.weights.graph)
        ranking = _with_prices(ranking, settings, prices)
    clock = _Clock(ranking, settings, where, prices, track("measuring latency", TRIALS + 1, "trial"))
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
    best = Place(HIGHEST, least.part)
    places = bisection(lambda ratio: clock.trial(ratio).part, wanted, Place(0.0, 1.0), best, clock.between)
    while len(clock.trials) < TRIALS and abs(best.left / wanted - 1) > TOLERANCE / 2:
        best = min(best, next(places), key=lambda place: abs(place.left / wanted - 1))
    final = clock.trial(best.at)  # the nearest of several noisy ones is biased: measure it again
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
    return ranking, clock.at(final.ratio), found


def _with_prices(ranking: Ranking, settings: Selection, prices: LayerPrices) -> Ranking:
    """Adds milliseconds to what the curves of the groups save."""
    if settings.allocation != "sensitivity" or ranking.curves is None:
        return ranking
    curves = []
    for number, curve in enumerate(ranking.curves.curves):
        left = []
        for ratio in curve.ratios:
            alone = tuple(ratio if other == number else 0.0 for other in range(len(ranking.groups)))
            surgery = decide(ranking, replace(settings, allocation="explicit", ratios=alone, budget=None))
            left.append(prices.of(surgery.graph))
        curves.append(replace(curve, left={**curve.left, KIND: tuple(left)}))
    unpruned = {**ranking.curves.unpruned, KIND: prices.of(ranking.weights.graph)}
    return replace(ranking, curves=replace(ranking.curves, unpruned=unpruned, curves=tuple(curves)))


class _Clock:
    """Times slim networks against the unpruned one."""

    def __init__(
        self, ranking: Ranking, settings: Selection, where: Where, prices: LayerPrices | None, step: Steps
    ) -> None:
        original = ranking.original
        self.at = along(ranking, settings, "macs" if prices is None else KIND)
        self.trials: list[Trial] = []
        self._ranking, self._runner, self._batch, self._step = ranking, where.runner, where.batch, step
        self._prices = prices
        self._pair = original.graph, original.path
        self._network = self._load(*self._pair)
        self._times: list[float] = []

    @property
    def original_ms(self) -> float:
        return 1e3 * float(np.median(self._times))

    def against_itself(self) -> None:
        """Times the original against a second copy of itself, which shows the noise."""
        self._time(0.0, self._load(*self._pair))

    def trial(self, ratio: float) -> Trial:
        """Prunes and times."""
        surgery = decide(self._ranking, self.at(ratio))
        with surgery.temporary_weights() as path:
            return self._time(ratio, self._load(surgery.graph, path))

    def predicted(self, ratio: float) -> float:
        """Returns the milliseconds of all convolutions at a place; multiply-adds where layers are not timed."""
        graph = decide(self._ranking, self.at(ratio)).graph
        return float(graph.macs) if self._prices is None else self._prices.of(graph)

    def between(self, low: Place, high: Place, wanted: float) -> float:
        """Finds the place whose prediction lies between those of two places as the target between their times.

        It stays well inside: times may be off by noise, and predictions go in steps.
        """
        span = low.left - high.left
        share = (low.left - wanted) / span if span > 0 else 0.5
        first, last = (self.predicted(place.at) for place in (low, high))
        target = first + share * (last - first)
        places = bisection(self.predicted, target, Place(low.at, first), Place(high.at, last))
        found = min(islice(places, PREDICTIONS), key=lambda place: abs(place.left - target))
        inside = min(0.85, max(0.15, (found.at - low.at) / (high.at - low.at)))
        return low.at + (high.at - low.at) * inside

    def found(self, wanted: float, final: Trial) -> LatencyFound:
        """Returns the result."""
        itself = self.trials[0]
        noise = max(final.noise, itself.noise, abs(itself.part - 1))
        whole = self.original_ms
        return LatencyFound(
            runner=self._runner,
            batch=self._batch,
            original_ms=whole,
            target_ms=wanted * whole,
            reached_ms=final.part * whole,
            predicted_ms=self._predicted_ms(final.ratio),
            noise=noise,
            trials=tuple(self.trials),
        )

    def _predicted_ms(self, ratio: float) -> float | None:
        """Returns the prediction for a place: what is not in convolutions takes as long as in the original."""
        if self._prices is None:
            return None
        return self.original_ms + self._prices.of(decide(self._ranking, self.at(ratio)).graph) - self.predicted(0.0)

    def _load(self, graph: Graph, weights: Path) -> LoadedNetwork:
        return load_with_any(graph, weights, self._runner, taps=False)[1]

    def _time(self, ratio: float, network: LoadedNetwork) -> Trial:
        timed = partial(time_alternately, (self._network, network), batch=self._batch)
        runs = runs_within(SECONDS, RUNS, (self._network, network), WARMUP, batch=self._batch)
        before: list[float] = []
        after: list[float] = []
        for _ in range(REPEATS):
            with reporting(silent):  # what counts is the trial
                seconds = timed(runs, 0)
            for times, more in zip((before, after), seconds, strict=True):
                times += more
            found = _summarised(ratio, np.array(before), np.array(after))
            if found.noise < TOLERANCE / 2:
                break
        self._times += before
        self.trials.append(found)
        self._step()
        return found


def _summarised(ratio: float, before: Floats, after: Floats) -> Trial:
    """Returns a trial from the seconds of runs in turn."""
    parts = after / before
    quarter, three = np.percentile(parts, (25, 75))
    notch = 1.57 * (three - quarter) / np.sqrt(len(parts))  # McGill, Tukey, Larsen 1978
    return Trial(ratio, float(np.median(after) / np.median(before)), float(notch / np.median(parts)), len(parts))
