"""The time that stages to come take: estimated from their work, corrected by what earlier ones took."""

from __future__ import annotations

from collections.abc import Mapping

from darkprune.progress import duration


class Outlook:
    """Where a run stands among its stages, and how long the rest takes."""

    def __init__(self, total: int, seconds: Mapping[str, float]) -> None:
        """Takes the estimates.

        Args:
            seconds: estimate of each stage that is to be done, by name; empty where none can be made.
        """
        self.total = total
        self._seconds = dict(seconds)
        self._expected = self._taken = 0.0

    def of_stage(self, number: int, name: str) -> str:
        """Returns what is said of a stage that begins: the time of all that are left, its number, its own time."""
        own, rest = self._corrected(self._seconds.get(name, 0.0)), self._corrected(sum(self._seconds.values()))
        left = f"roughly {duration(rest)} left, " if rest >= 1 else ""
        takes = f", {duration(own)}" if 1 <= own < rest else ""
        return f"[{left}stage {number} of {self.total}{takes}] {name}"

    def done(self, name: str, seconds: float | None) -> None:
        """Takes note of a stage that is done.

        Args:
            seconds: that it took; None where nothing was to be done.
        """
        expected = self._seconds.pop(name, 0.0)
        if seconds is not None and expected:
            self._expected += expected
            self._taken += seconds

    def _corrected(self, seconds: float) -> float:
        return seconds * self._taken / self._expected if self._expected else seconds
