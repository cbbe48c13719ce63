"""Budgets: what to keep of a network, and the ratio that leaves it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from darkprune.errors import PlanError, UsageError
from darkprune.graph.stats import Totals

#: kind -> units that it may be given in, as factors
UNITS: dict[str, dict[str, float]] = {
    "params": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "macs": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "size": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9},
}
TOLERANCE = 0.01
STEPS = 23  #: of a bisection: far below one channel
HIGHEST = 0.999  #: ratio at which every layer is at its floor
_FEW = 1000  #: a value below it without a unit is a slip, not a network of that size
_LATENCY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|%)?")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*|%)")


@dataclass(frozen=True)
class Budget:
    """What to keep of a network.

    Attributes:
        kind: `params`, `macs` or `size`.
        target: stored floats, multiply-adds or bytes.
    """

    kind: str
    target: float

    def of(self, totals: Totals) -> float:
        """Returns the quantity that the budget is about."""
        return float({"params": totals.params, "macs": totals.macs, "size": totals.bytes}[self.kind])


def parse_budget(kind: str, text: str, before: Totals) -> Budget:
    """Reads a budget: a fraction of the original (`0.65`, `65%`) or a value with its unit (`12G`, `24M`, `90MB`).

    Raises:
        UsageError: it cannot be read, or is not below the original.
    """
    flag = f"--target-{kind}"
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{flag} {text[:30]}: write a fraction (0.65) or a value with its unit ({_examples(kind)})")
    value, unit = float(match[1]), match[2]
    whole = Budget(kind, 0).of(before)
    if unit == "%" or (unit == "" and value <= 1):
        target = (value / 100 if unit else value) * whole
    elif unit == "" and value < _FEW:
        raise UsageError(
            f"{flag} {text[:30]}: is above 1, so no fraction, and has no unit; write 0.65, or {_examples(kind)}"
        )
    elif unit in UNITS[kind]:
        target = value * UNITS[kind][unit]
    else:
        raise UsageError(f"{flag} {text[:30]}: '{unit}' is no unit here; write {_examples(kind)}")
    if not 0 < target <= whole:
        raise UsageError(
            f"{flag} {text[:30]}: the network has {whole:,.0f}; ask for less than that, and for more than 0"
        )
    return Budget(kind, target)


class LatencyTarget(NamedTuple):
    """A latency that is asked for.

    Attributes:
        value: milliseconds, or a fraction of the original's.
        is_fraction: which of the two.
    """

    value: float
    is_fraction: bool


def parse_latency(text: str) -> LatencyTarget:
    """Reads a latency: a fraction of the original's (`0.6`, `60%`), or milliseconds (`12`, `12ms`).

    Raises:
        UsageError: it cannot be read, or is 0.
    """
    match = _LATENCY.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(
            f"--target-latency {text[:30]}: write milliseconds (12ms), or a fraction of the original's (0.6)"
        )
    value = float(match[1])
    if match[2] == "%":
        return LatencyTarget(value / 100, True)
    return LatencyTarget(value, match[2] is None and value <= 1)


class Place(NamedTuple):
    """A ratio, or another position on a way along which networks get smaller, and what is left there."""

    at: float
    left: float


def _middle(low: Place, high: Place, target: float) -> float:
    return (low.at + high.at) / 2


def bisection(
    measure: Callable[[float], float],
    target: float,
    low: Place,
    high: Place,
    between: Callable[[Place, Place, float], float] = _middle,
) -> Iterator[Place]:
    """Yields places closer and closer to a target, without end.

    Args:
        measure: returns what is left at a place; falling.
        low, high: places before and after the target.
        between: chooses the next place between two, for the target.
    """
    while True:
        at = between(low, high, target)
        place = Place(at, measure(at))
        yield place
        low, high = (place, high) if place.left > target else (low, place)


def nearest_ratio(budget: Budget, measure: Callable[[float], Totals], before: Totals) -> Place:
    """Finds the ratio that comes nearest to a budget, by bisection.

    Args:
        measure: totals of the network pruned by a ratio; falling in the ratio.
        before: totals of the original.

    Returns:
        The ratio, and what remains; `HIGHEST` where even that leaves too much.
    """

    def left_at(ratio: float) -> float:
        return budget.of(measure(ratio))

    def off(place: Place) -> tuple[float, float]:
        return abs(place.left / budget.target - 1), place.at

    whole, least = Place(0.0, budget.of(before)), Place(HIGHEST, left_at(HIGHEST))
    if least.left > budget.target:
        return least
    best = min(whole, least, key=off)
    places = bisection(left_at, budget.target, whole, least)
    for _ in range(STEPS):
        if off(best)[0] < TOLERANCE / 20:
            break
        best = min(best, next(places), key=off)
    return best


def solve_ratio(budget: Budget, measure: Callable[[float], Totals], before: Totals) -> float:
    """Finds the ratio that leaves what the budget says.

    Args:
        budget, measure, before: see `nearest_ratio`.

    Raises:
        PlanError: no ratio meets it within 1 %; says the nearest that one does.
    """
    ratio, left = nearest_ratio(budget, measure, before)
    if abs(left / budget.target - 1) <= TOLERANCE:
        return ratio
    if ratio == HIGHEST and left > budget.target:
        raise PlanError(unreachable(budget, left, {}))
    raise PlanError(
        f"{_wanted(budget)} cannot be met within 1 %: nearest is {left:,.0f} (--ratio {ratio:.4f}); "
        "a smaller --round-to or another --allocation has finer steps"
    )


def unreachable(budget: Budget, left: float, least: Mapping[str, float]) -> str:
    """Says that a budget is below what can be reached, and what stands in the way.

    Args:
        left: the least that can.
        least: flag -> the least that could if it asked for nothing, and those before it neither.
    """
    flag = next((flag for flag, could in least.items() if could <= budget.target * (1 + TOLERANCE)), None)
    nearest = f"{_wanted(budget)} cannot be met: with every layer at its floor {left:,.0f} remain, ask for that or more"
    if flag is not None:
        return f"{nearest}; {flag} stands in the way, a smaller one would do"
    if least:
        return f"{nearest}; without --min-channels and --round-to it would be {min(least.values()):,.0f}"
    return nearest


def _wanted(budget: Budget) -> str:
    return f"the budget of {budget.target:,.0f} ({budget.kind})"


def _examples(kind: str) -> str:
    return {"params": "24M", "macs": "12G", "size": "90MB"}[kind]
