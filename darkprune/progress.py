"""Progress of long work: one event, one callback, and the bars that show it by default.

Functions of the public API take `progress: Progress | None`. A caller's own function gets every event; with None, tqdm
bars are shown where a person can see them (a terminal, a notebook), and nothing is printed anywhere else, unless
`without_bars` names what prints there, as the command line does. What they call is not handed the callback: `track` and
`say` find that of the block of `reporting` which they run in, and outside of any they do nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

from darkprune.errors import one_line

T = TypeVar("T")


@dataclass(frozen=True)
class ProgressEvent:
    """Where a piece of work stands.

    Attributes:
        task: what is being done ("refit", "evaluating yolov4"); a new name begins a new piece of work.
        done: steps that are complete.
        total: all steps; 0 where that is not known.
        unit: what a step is ("image", "layer").
        message: a line for the user that stays, apart from any bar; empty for most events.
        details: what else is worth seeing at the moment ("loss 2.31, mAP@0.5 41.2 %"); shown beside the bar.
    """

    task: str
    done: float = 0
    total: float = 0
    unit: str = "it"
    message: str = ""
    details: str = ""


#: called with every event of long work
Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Ignores an event: for work within work whose progress is of no interest."""


class Steps:
    """Counts the steps of one piece of work and reports each; call it after a step."""

    def __init__(self, task: str, total: float, unit: str) -> None:
        self._task, self._total, self._unit = task, total, unit
        self._done: float = 0

    def __call__(self, steps: float = 1) -> None:
        """Moves on by some steps."""
        self.at(self._done + steps)

    def at(self, done: float, total: float | None = None, details: str = "") -> None:
        """Moves to a number of completed steps.

        Args:
            done: steps that are complete.
            total: number of all steps, once it is known.
            details: see `ProgressEvent`.
        """
        self._done, self._total = done, self._total if total is None else total
        current()(ProgressEvent(self._task, self._done, self._total, self._unit, details=details))


def track(task: str, total: float = 0, unit: str = "it") -> Steps:
    """Begins a piece of work, and reports that.

    Args:
        task: what is being done.
        total: number of steps; 0 where it is not known yet.
        unit: what a step is.

    Returns:
        What to call after each step.
    """
    steps = Steps(task, total, unit)
    steps.at(0)
    return steps


def say(message: str, progress: Progress | None = None) -> None:
    """Reports a line that stays.

    Args:
        progress: the callback, in a thread of one's own; see `current`.
    """
    (current() if progress is None else progress)(ProgressEvent("", message=message))


def duration(seconds: float) -> str:
    """Formats a time: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def announced(parts: Mapping[str, T]) -> Iterator[T]:
    """Yields the parts of long work, each after a line with its number and the time that is left.

    Args:
        parts: by name. Those that take less than a second, since an earlier call has done them, tell nothing about
            the others.
    """
    done, taken = 0, 0.0
    for number, (name, part) in enumerate(parts.items()):
        left = f", {duration(taken / done * (len(parts) - number))} left" if done else ""
        say(f"{name}: {number + 1} of {len(parts)}{left}")
        began = time.monotonic()
        yield part
        seconds = time.monotonic() - began
        if seconds >= 1:
            done, taken = done + 1, taken + seconds


@contextmanager
def reporting(progress: Progress | None) -> Iterator[None]:
    """Sends the events of this block's work to a callback.

    Args:
        progress: the callback. None goes on with the enclosing block's; the outermost block shows bars in a terminal or
            a notebook, elsewhere see `without_bars`.
    """
    bars = None
    if progress is None:  # not "or": a callback that collects events may be false while it has none
        progress = _current.get()
    if progress is None:
        progress = bars = _Bars() if _seen() else None
    before = _current.set(_without_bars.get() if progress is None else progress)
    try:
        yield
    finally:
        _current.reset(before)
        if bars is not None:
            bars.close()


def current() -> Progress:
    """Returns what gets the events of the work here: for threads, which do not know the block that they began in."""
    callback = _current.get()
    return silent if callback is None else callback


_current: ContextVar[Progress | None] = ContextVar("current", default=None)
_without_bars: ContextVar[Progress] = ContextVar("without_bars", default=silent)


@contextmanager
def without_bars(progress: Progress) -> Iterator[None]:
    """Names what gets the events of this block's work where no bar would be seen: a log file, a pipe.

    Args:
        progress: for functions that are called without a callback of their own.
    """
    before = _without_bars.set(progress)
    try:
        yield
    finally:
        _without_bars.reset(before)


def _seen() -> bool:
    """Returns whether a person sees what is shown: a terminal that can redraw a line, or a notebook."""
    if "ipykernel" in sys.modules:
        return True
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


MOST_NAMED = 36  #: characters of a task's name in a bar
#: lines of a bar, which tqdm cuts to the terminal's width: what matters most stands first, the bar itself last
_TIMED = "{remaining} left, {percentage:.0f} %: {desc}, {unit} {n_fmt} of {total_fmt}{postfix}, {rate_fmt} |{bar}|"
#: without a total the bar is blank; tqdm before 4.70 cuts no line that has none
_COUNTED = "{desc}: {unit} {n_fmt}{postfix}, {rate_fmt}, {elapsed} so far{bar}"


class _Bar(Protocol):
    n: float
    total: float | None
    bar_format: str | None

    def update(self, n: float) -> object: ...
    def set_postfix_str(self, s: str, refresh: bool) -> object: ...
    def close(self) -> object: ...


class _Bars:
    """Shows one tqdm bar at a time: that of the task which reported last."""

    def __init__(self) -> None:
        self._task = ""
        self._bar: _Bar | None = None

    def __call__(self, event: ProgressEvent) -> None:
        from tqdm.auto import tqdm  # 50 ms that a pipe need not pay

        if event.message:
            tqdm.write(event.message, file=sys.stderr)  # above the bar, which stays
            return
        if self._bar is None or event.task != self._task or event.done < self._bar.n:
            self.close()
            self._task = event.task
            self._bar = tqdm(
                total=event.total or None, initial=event.done, desc=one_line(event.task, MOST_NAMED), unit=event.unit,
                leave=False, delay=0.3, dynamic_ncols=True,
            )  # fmt: skip
        self._bar.total = event.total or None
        self._bar.bar_format = _TIMED if event.total else _COUNTED
        if event.details:
            self._bar.set_postfix_str(event.details, refresh=False)
        self._bar.update(event.done - self._bar.n)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
