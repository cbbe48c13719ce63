"""The last percent of a budget: single channels taken and given back where a ratio is too coarse.

With `round_to` one step of a ratio may cost more than a budget's tolerance. A step here concerns one *component*: an
atom, or the atoms that equal blocks bind together. `settle` has the last word on every step, so that floors, multiples
and blocks hold all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.channels import BoolArray, ChannelMap
from darkprune.layers.base import Floats, Indices
from darkprune.selection.budget import TOLERANCE, Budget
from darkprune.selection.constraints import Limits, settle

MEASUREMENTS = 600  #: at most; a network of 100 components has a handful of rounds then, a small one is searched well
TRIES = 12  #: steps and pairs of them that are measured in a round; the others are only estimated
_SCARCE = 0.25  #: part of the tolerance that estimates should keep to: two steps together do not cost their sum


@dataclass(frozen=True)
class _Step:
    """A change of one component.

    Attributes:
        component: its number.
        classes: of the component.
        keep: for each of them whether it is kept.
        cost: by how much the quantity changes.
        harm: mean rank of what is taken, or the negative of what comes back: the least does the least harm.
    """

    component: int
    classes: Indices
    keep: BoolArray
    cost: float
    harm: float


def finish(
    channels: ChannelMap,
    keep: BoolArray,
    priority: Floats,
    limits: Limits,
    budget: Budget,
    measure: Callable[[BoolArray], float],
) -> BoolArray:
    """Changes a mask by single channels until a budget is met within 1 %.

    Args:
        keep: per class, what merging decided.
        priority: per class how dear it is; infinite for what may not go.
        measure: what a mask, once settled, leaves of it.

    Returns:
        The mask, to be settled; the one that was given where it meets the budget.

    Raises:
        PlanError: it cannot be met within 1 %; says the nearest that was found, and what stands in the way.
    """
    known: dict[bytes, float] = {}

    def left(mask: BoolArray) -> float:
        key = settle(channels, mask, priority, limits).keep.tobytes()
        if key not in known:
            known[key] = measure(mask)
        return known[key]

    now = best = left(keep)
    components = _components(channels)
    been = {keep.tobytes()}
    steps: list[_Step] = []
    while abs(now / budget.target - 1) > TOLERANCE:
        steps = _steps(channels, keep, priority, limits, components, left, now)
        found = _best(keep, steps, budget.target, now, left, been)
        if found is None or len(known) > MEASUREMENTS:
            break
        keep, now = found  # the best of the neighbours, even where it is worse: the way out of a dead end
        been.add(keep.tobytes())
        best = min(best, now, key=lambda value: abs(value / budget.target - 1))
    else:
        return keep
    settled = settle(channels, keep, priority, limits)
    smallest = min((abs(step.cost) for step in steps), default=0.0)
    reasons = [f"the smallest step is {smallest:,.0f}{f' with --round-to {limits.round_to}' * (limits.round_to > 1)}"]
    if settled.at_floor and now > budget.target:
        shown = ", ".join(map(str, settled.at_floor[:8])) + (" …" if len(settled.at_floor) > 8 else "")
        reasons.append(f"layers {shown} are at their floor (--min-channels {limits.min_channels})")
    raise PlanError(
        f"the budget of {budget.target:,.0f} ({budget.kind}) cannot be met within 1 %: nearest is {best:,.0f}; "
        + ", and ".join(reasons)
    )


def _best(
    keep: BoolArray,
    steps: Sequence[_Step],
    target: float,
    now: float,
    measure: Callable[[BoolArray], float],
    been: set[bytes],
) -> tuple[BoolArray, float] | None:
    """Returns the step or pair of steps that meets the target with the least harm, or else the nearest unseen."""
    moves = [(step,) for step in steps] + [
        pair for pair in combinations(steps, 2) if pair[0].component != pair[1].component
    ]

    def away(move: tuple[_Step, ...]) -> float:
        return abs((now + sum(step.cost for step in move)) / target - 1)

    near = [move for move in moves if away(move) <= _SCARCE * TOLERANCE]
    near.sort(key=lambda move: sum(step.harm for step in move))
    rest = sorted(moves, key=lambda move: (round(away(move), 4), len(move)))
    best: tuple[float, BoolArray, float] | None = None
    for move in [*near[:TRIES], *rest[:TRIES]]:
        mask = keep.copy()
        for step in move:
            mask[step.classes] = step.keep
        value = measure(mask)
        error = abs(value / target - 1)
        if error <= TOLERANCE:
            return mask, value
        if (best is None or error < best[0]) and mask.tobytes() not in been:
            best = error, mask, value
    return None if best is None else best[1:]


def _steps(
    channels: ChannelMap,
    keep: BoolArray,
    priority: Floats,
    limits: Limits,
    components: Sequence[Sequence[Indices]],
    measure: Callable[[BoolArray], float],
    now: float,
) -> list[_Step]:
    """Finds what each component could take or give back next."""
    settled = settle(channels, keep, priority, limits).keep
    steps = []
    for number, atoms in enumerate(components):
        for wanted in (_given(atoms, settled, priority), _taken(channels, atoms, settled, priority, limits)):
            if wanted is None:
                continue
            changed, kept = wanted
            classes = np.concatenate(atoms)
            mask = keep.copy()
            mask[classes] = settled[classes]
            mask[changed] = kept
            cost = measure(mask) - now
            if cost:
                harm = float(priority[changed].mean())
                steps.append(_Step(number, classes, mask[classes], cost, -harm if kept else harm))
    return steps


def _given(atoms: Sequence[Indices], settled: BoolArray, priority: Floats) -> tuple[Indices, bool] | None:
    """Returns the dearest channel that is gone; `settle` gives back what must come with it."""
    gone = np.concatenate([atom[~settled[atom]] for atom in atoms])
    if not len(gone):
        return None
    return gone[[int(np.argmax(priority[gone]))]], True


def _taken(
    channels: ChannelMap, atoms: Sequence[Indices], settled: BoolArray, priority: Floats, limits: Limits
) -> tuple[Indices, bool] | None:
    """Returns the cheapest channels of every atom, as few as change anything; None at a floor."""
    if not all(np.isfinite(priority[atom]).all() for atom in atoms):
        return None
    kept = [atom[settled[atom]] for atom in atoms]
    ordered = [classes[np.lexsort((classes, priority[classes]))] for classes in kept]
    alone = (len(ordered[0]) - 1) % limits.round_to + 1  # down to the multiple below
    for count in (alone,) if len(atoms) == 1 else range(1, limits.round_to + 1):
        classes = np.concatenate([part[:count] for part in ordered])
        mask = settled.copy()
        mask[classes] = False
        after = settle(channels, mask, priority, limits).keep
        if (after != settled).any() and not (after & ~settled).any():
            return classes, False
    return None


def _components(channels: ChannelMap) -> list[list[Indices]]:
    """Groups atoms that equal blocks bind together."""
    bound: dict[int, set[int]] = {}
    of_class = {int(number): atom for atom, classes in enumerate(channels.atoms) for number in classes}
    for split in channels.splits:
        met = {of_class[number] for number in split.classes.ravel().tolist() if number in of_class}
        together = set().union(met, *(bound.get(atom, set()) for atom in met))
        bound.update(dict.fromkeys(together, together))
    sets = {min(bound.get(atom, {atom})): bound.get(atom, {atom}) for atom in range(len(channels.atoms))}
    return [[channels.atoms[atom] for atom in sorted(members)] for _, members in sorted(sets.items())]
