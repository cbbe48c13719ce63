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


class Board:
    """Writes TensorBoard events; does nothing where it is not installed."""

    def __init__(self, folder: Path, step: int) -> None:
        """Opens the events in a folder; those after a step do not count: the run continues from there."""
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds values of a step."""
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is buffered."""
        if self._writer is not None:
            self._writer.close()


class Log:
    """A table that grows by rows.

    Attributes:
        columns: `step` first.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: int, board: Board | None = None) -> None:
        """Opens the table.

        Args:
            columns: names after `step`.
            keep: steps whose rows are kept; a run that was killed may have written more than its state has.

        Raises:
            OutputError: it cannot be written.
            TrainingError: the file there has other columns.
        """
        self.path = path
        self.columns = (FIRST, *columns)
        self._board = board
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
        cells = [str(step), *(_cell(values.get(name)) for name in self.columns[1:])]
        self._write(",".join(cells) + "\n")
        if self._board is not None:
            self._board.add(step, values)

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
        if self._board is not None:
            self._board.close()

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from None


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yields the complete rows of a table; the last one may have been cut off."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(iter(lambda: file.readline(MAX_LINE), ""))
        with suppress(csv.Error):  # what follows is no table
            names = next(rows, [])
            if names[:1] != [FIRST]:
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


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"
