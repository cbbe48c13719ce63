"""The progress line."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

SECONDS_BETWEEN_LINES = 10.0  #: where there is no terminal to write over
SECONDS_BETWEEN_UPDATES = 0.2
MEMORY = 0.9  #: share of the old average in what is shown, as in darknet
_SHORT = {"objectness": "obj", "class": "cls"}
_HIDDEN = ("matched",)


class Progress:
    """Shows how a run gets on: one line that is written over on a terminal, a line now and then elsewhere."""

    def __init__(self, steps: int, epoch_steps: int, quiet: bool, stream: TextIO = sys.stderr) -> None:
        self.steps = steps
        self.epoch_steps = epoch_steps
        self.quiet = quiet
        self.stream = stream
        self._terminal = stream.isatty()
        self._shown_at = 0.0
        self._width = 0
        self._averages: dict[str, float] = {}

    def update(
        self, step: int, figures: Mapping[str, float], rate: float, seconds: float, images: int, wait: float, more: str
    ) -> None:
        """Shows a step.

        Args:
            step: steps done.
            figures: of the objective, `loss` first.
            rate: learning rate.
            seconds: that the step took.
            images: that it was made of.
            wait: share of the time in which the network waited for data.
            more: further words.
        """
        for name, value in {**figures, " seconds": seconds, " wait": wait}.items():
            old = self._averages.get(name, value)
            self._averages[name] = MEMORY * old + (1 - MEMORY) * value
        now = time.monotonic()
        due = SECONDS_BETWEEN_UPDATES if self._terminal else SECONDS_BETWEEN_LINES
        if self.quiet or (now - self._shown_at < due and step < self.steps):
            return
        self._shown_at = now
        each = self._averages[" seconds"]
        parts = [f"{_SHORT.get(name, name)} {self._averages[name]:.3g}" for name in figures if name not in _HIDDEN]
        line = (
            f"{step}/{self.steps} epoch {step / self.epoch_steps:.1f}  {' '.join(parts)}  rate {rate:.2g}  "
            f"{images / each:.1f} img/s wait {100 * self._averages[' wait']:.0f} %  {more}{'  ' if more else ''}"
            f"{duration((self.steps - step) * each)} left"
        )
        self._write(line)

    def say(self, message: str) -> None:
        """Shows a line that stays."""
        if self.quiet:
            return
        if self._terminal and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self.stream.write(message + "\n")
        self.stream.flush()

    def finish(self) -> None:
        """Leaves the last line standing."""
        if self._width:
            self.stream.write("\n")
            self._width = 0

    def _write(self, line: str) -> None:
        if self._terminal:
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """Formats a time: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
