"""What a run writes at every step: `log.csv` and TensorBoard events; a resumed run drops what is after its state."""

from __future__ import annotations

import csv
import math
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from darkprune.darknet.output import atomic_file
from darkprune.errors import OutputError, TrainingError

FIRST = "step"
MAX_FIELD = 64
MAX_LINE = 1 << 16
_STEP = re.compile(r"\d{1,18}", re.ASCII)


class Log:
    """A table that grows by rows, and TensorBoard events with the same values.

    Attributes:
        columns: `step` first.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: int, events: Path | None = None) -> None:
        """Opens the table.

        Args:
            columns: names after `step`.
            keep: steps whose rows are kept; a run that was killed may have written more than its state has.
            events: folder for TensorBoard's; None for none.

        Raises:
            OutputError: it cannot be written.
            TrainingError: the file there has other columns.
        """
        self.path = path
        self.columns = (FIRST, *columns)
        self._events = None if events is None else _open_events(events, keep)
        kept = [row for row in read_rows(path) if int(row[FIRST]) <= keep] if keep and path.exists() else []
        if kept and tuple(kept[0]) != self.columns:
            raise TrainingError(f"{path}: has other columns than this run would write; remove it to continue")
        lines = [",".join(self.columns), *(",".join(row.values()) for row in kept)]
        with atomic_file(path, overwrite=True) as file:
            file.write(("\n".join(lines) + "\n").encode())
        try:
            self._file = path.open("a", encoding="utf-8", newline="", buffering=1)  # every row is written at once
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from None

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds a row; what is missing stays empty."""
        known = {name: value for name, value in values.items() if value is not None}
        cells = [f"{known[name]:.7g}" if name in known else "" for name in self.columns[1:]]
        try:
            self._file.write(",".join([str(step), *cells]) + "\n")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from None
        if self._events is not None:
            for name, value in known.items():
                self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Makes sure that the rows so far are on the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _open_events(folder: Path, step: int) -> Any:
    """Returns a writer of TensorBoard events; None where it is not installed. Events after the step do not count."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yields the complete rows of a table; the last one may have been cut off."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(iter(lambda: file.readline(MAX_LINE), ""))
        with suppress(csv.Error):  # what follows is no table
            names = next(rows, [])
            if names[:1] != [FIRST] or len(set(names)) < len(names):
                return
            for row in rows:
                if len(row) == len(names) and max(map(len, row)) <= MAX_FIELD and _STEP.fullmatch(row[0]):
                    yield dict(zip(names, row, strict=True))


class Curve(NamedTuple):
    """The values of a column, and the steps that they belong to."""

    steps: array[int]
    values: array[float]


NO_CURVE = Curve(array("q"), array("d"))


def read_curves(path: Path) -> dict[str, Curve]:
    """Reads the columns of a table with their finite values; nothing but these is kept in memory."""
    curves: dict[str, Curve] = {}
    for row in read_rows(path):
        step = int(row[FIRST])
        for name, text in row.items():
            curve = curves.setdefault(name, Curve(array("q"), array("d")))
            with suppress(ValueError):
                value = float(text or "nan")
                if math.isfinite(value):
                    curve.steps.append(step)
                    curve.values.append(value)
    return curves
