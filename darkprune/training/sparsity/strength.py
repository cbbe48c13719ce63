"""The weight s of the penalty, steered so that enough γ vanish in time.

A proximal step of rate·s makes every penalised |γ| smaller, the loss pulls some of them back. What s means depends on
the scale of the loss (darknet's losses are sums over cells), so that one number does not fit all networks, nor all
groups of one. `SteeredS` measures how fast the |γ| that the asked-for ratio would just remove falls, and chooses s so
that it arrives at zero at the switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

NEGLIGIBLE = 0.01  #: |γ| below this counts as zero
UPDATES = 40  #: how often s is chosen anew until the switch
LARGEST_CHANGE = 2.0  #: factor between one choice and the next
RELEASE = 0.8  #: factor while the level is zero, until the loss draws it up again
SHORTEST_HORIZON = 0.05  #: share of the steps until the switch, in which a level that is late has to arrive


class SteeredS:
    """Chooses s from how fast the level falls.

    With r the rates summed over some steps, the level changes by (pull − s)·r, where the pull of the loss is what is
    measured. The next s is (level / r until the switch) + pull. A level of zero shows only that the loss pulls less
    than s: s is lowered then, so that no more γ vanish than have to.

    Attributes:
        s: weight of Σ|γ| at the moment.
    """

    def __init__(self, rates: Sequence[float], switch: int, level: float) -> None:
        """Chooses the first s: that which arrives in time if the loss does not pull.

        Args:
            rates: learning rate of every step of the run.
            switch: step after which the level is to be zero.
            level: at the start.
        """
        self._reached = [0.0, *accumulate(rates)]  #: rates summed over the first n steps
        self._switch = max(1, min(switch, len(rates)))
        self._every = max(1, self._switch // UPDATES)
        self._step, self._level = 0, level
        self.s = level / self._left(0)

    def update(self, step: int, level: float) -> None:
        """Takes note of a step.

        Args:
            step: its number, from 1.
            level: the |γ| up to which the asked-for ratio would remove channels.
        """
        if step % self._every:
            return
        passed = self._reached[step] - self._reached[self._step]
        if passed > 0:
            pull = self.s + (level - self._level) / passed
            wanted = level / self._left(step) + max(0.0, pull) if level > 0 else RELEASE * self.s
            self.s = min(self.s * LARGEST_CHANGE, max(self.s / LARGEST_CHANGE, wanted))
        self._step, self._level = step, level

    def state_dict(self) -> dict[str, float]:
        """Returns what a resumed run needs."""
        return {"s": self.s, "step": self._step, "level": self._level}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores it."""
        self.s, self._step, self._level = state["s"], int(state["step"]), state["level"]

    def _left(self, step: int) -> float:
        """Returns the rates summed from a step to the switch; over a short horizon where that is near or past."""
        end = min(len(self._reached) - 1, max(self._switch, step + max(1, round(SHORTEST_HORIZON * self._switch))))
        left = self._reached[end] - self._reached[step]
        mean = self._reached[-1] / (len(self._reached) - 1)
        return max(left, mean) or 1.0
