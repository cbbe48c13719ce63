"""When a network is pruned while it trains, and how much remains each time (METHODS §5).

The share that is gone rises between two epochs, by default as 1 − (1 − t)³: fast while much can be spared, slowly
towards the end (Zhu & Gupta, *To prune, or not to prune*, 2017). Sources of the whole: Yin et al., ICCAI 2020, doi
10.1145/3404555.3404612.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from darkprune.errors import UsageError
from darkprune.selection.settings import PruneSettings

#: name -> the share of what is to go that is gone at a part of the way
SCHEDULES: dict[str, Callable[[float], float]] = {"cubic": lambda t: 1 - (1 - t) ** 3, "linear": lambda t: t}
QUANTITIES = ("macs", "params", "channels")
#: where nothing is said: from and until as shares of the run, and the number of cuts between
FROM, UNTIL, CUTS = 0.1, 0.6, 10


@dataclass(frozen=True)
class GradualSettings:
    """How to prune inside a run.

    Attributes:
        remaining: what shall remain in the end, as a fraction of the original.
        of: of which quantity: `macs`, `params`, or `channels` (the sum of the convolutions' widths).
        start, until: epochs between which it is pruned; None for a tenth, and six tenths, of the run.
        every: epochs from one cut to the next; None for a tenth of the way.
        schedule: `cubic` or `linear`.
        prune: which channels go; its ratio is not used.
    """

    remaining: float
    of: str = "macs"
    start: float | None = None
    until: float | None = None
    every: float | None = None
    schedule: str = "cubic"
    prune: PruneSettings = field(default_factory=PruneSettings)

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: one makes no sense.
        """
        if not 0 < self.remaining < 1:
            raise UsageError(f"--prune-to {self.remaining:g}: say what shall remain, as a fraction such as 0.5")
        if self.every is not None and not self.every > 0:
            raise UsageError(f"--prune-every {self.every:g} must be larger than 0")
        if self.start is not None and not (self.start >= 0 and math.isfinite(self.start)):
            raise UsageError(f"--prune-from {self.start:g} must not be negative")


@dataclass(frozen=True)
class Stage:
    """One cut, and the way to it.

    Attributes:
        marked: the channels to go are chosen behind this step, and masked little by little from there on.
        cut: they are gone behind this step.
        remaining: what is left then, as a fraction of the original.
    """

    marked: int
    cut: int
    remaining: float


def make_timetable(settings: GradualSettings, epoch_steps: int, steps: int) -> tuple[Stage, ...]:
    """Turns epochs into steps.

    Args:
        settings: when and how much.
        epoch_steps: steps of an epoch.
        steps: of the run.

    Returns:
        The stages; each begins where the one before ends, and less remains in each.

    Raises:
        UsageError: times that the run does not have.
    """
    epochs = steps / epoch_steps
    start = FROM * epochs if settings.start is None else settings.start
    until = max(start, UNTIL * epochs) if settings.until is None else settings.until
    first, last = round(start * epoch_steps), round(until * epoch_steps)
    if not last > first:
        raise UsageError(f"--prune-until {until:g} must lie behind --prune-from {start:g}")
    if last > steps:
        raise UsageError(f"--prune-until {until:g}: the run has {epochs:.3g} epochs of {epoch_steps} steps")
    way = last - first
    each = way / CUTS if settings.every is None else settings.every * epoch_steps
    count = min(way, max(1, math.floor(way / each + 1e-9)))
    bounds = [first + round(way * number / count) for number in range(count + 1)]
    shares = [1 - (1 - settings.remaining) * SCHEDULES[settings.schedule](n / count) for n in range(count)]
    shares.append(settings.remaining)
    return tuple(Stage(*pair, share) for pair, share in zip(pairwise(bounds), shares[1:], strict=True))


def to_plain(settings: GradualSettings, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """Returns what makes a run this one, as plain values."""
    prune = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(settings.prune).items()}
    return {"of": settings.of, "stages": [[s.marked, s.cut, s.remaining] for s in stages], "prune": prune}
