"""When a network is pruned while it trains, and how much remains each time.

The removed share rises between two epochs, by default as 1 − (1 − t)³: fast at first, slowly towards the end (Zhu &
Gupta, *To prune, or not to prune*, 2017). Source of the method: Yin et al., ICCAI 2020, doi 10.1145/3404555.3404612.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from darkprune.errors import UsageError
from darkprune.training.settings import GradualSettings

#: name -> share of the channels to remove that is removed at a time t, from 0 to 1
SCHEDULES: dict[str, Callable[[float], float]] = {"cubic": lambda t: 1 - (1 - t) ** 3, "linear": lambda t: t}
#: defaults: begin and end as shares of the run, and the number of cuts
FROM, UNTIL, CUTS = 0.1, 0.6, 10


@dataclass(frozen=True)
class Phase:
    """One cut, and the steps that lead to it.

    Attributes:
        marked: the channels to go are chosen after this step, and masked little by little from there on.
        cut: they are gone after this step.
        remaining: what is left then, as a fraction of the original.
    """

    marked: int
    cut: int
    remaining: float


def make_timetable(settings: GradualSettings, epoch_steps: int, steps: int) -> tuple[Phase, ...]:
    """Turns the epochs of settings with a `prune_to` into steps.

    Returns:
        The phases; each begins where the one before ends, and less remains after each.

    Raises:
        UsageError: epochs after the end of the run, or in the wrong order.
    """
    epochs = steps / epoch_steps
    start = FROM * epochs if settings.prune_from is None else settings.prune_from
    until = max(start, UNTIL * epochs) if settings.prune_until is None else settings.prune_until
    first, last = round(start * epoch_steps), round(until * epoch_steps)
    if not last > first:
        raise UsageError(f"--prune-until {until:g} must be after --prune-from {start:g}")
    if last > steps:
        raise UsageError(f"--prune-until {until:g}: the run has {epochs:.3g} epochs of {epoch_steps} steps")
    way = last - first
    each = way / CUTS if settings.prune_every is None else settings.prune_every * epoch_steps
    count = min(way, max(1, math.floor(way / each + 1e-9)))
    bounds = [first + round(way * number / count) for number in range(count + 1)]
    remaining, schedule = settings.prune_to or 1.0, SCHEDULES[settings.prune_schedule]
    shares = [*(1 - (1 - remaining) * schedule(number / count) for number in range(count)), remaining]
    return tuple(Phase(*pair, share) for pair, share in zip(pairwise(bounds), shares[1:], strict=True))
