"""`log.csv`: one row per step; a resumed run removes the rows after its state."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from darkprune.darknet.output import atomic_file
from darkprune.errors import OutputError, TrainingError
from darkprune.training.records.board import Board

FIRST = "step"
MAX_FIELD = 64


class Log:
    """A table that grows by rows.

    Attributes:
        columns: `step` first.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: int, board: Board | None = None) -> None:
        """Opens the table.

        Args:
            path: the file.
            columns: names after `step`.
            keep: steps whose rows are kept; a run that was killed may have written more than its state has.
            board: takes the values as well.

        Raises:
            OutputError: it cannot be written.
            TrainingError: the file there has other columns.
        """
        self.path = path
        self.columns = (FIRST, *columns)
        self._board = board
        kept = [row for row in read_log(path) if int(row[FIRST]) <= keep] if keep and path.exists() else []
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


def read_log(path: Path) -> list[dict[str, str]]:
    """Reads the complete rows of a table; the last one may have been cut off."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows or not rows[0] or rows[0][0] != FIRST:
        return []
    names = rows[0]
    return [
        dict(zip(names, row, strict=True))
        for row in rows[1:]
        if len(row) == len(names) and row[0].isascii() and row[0].isdigit() and max(map(len, row)) <= MAX_FIELD
    ]


def column(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Returns the steps and values of a column where it has values."""
    steps, values = [], []
    for row in rows:
        try:
            value = float(row.get(name) or "nan")
        except ValueError:
            continue
        if math.isfinite(value):
            steps.append(int(row[FIRST]))
            values.append(value)
    return steps, values


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"
