"""Measured curves, kept beside the checkpoint so that the next run need not measure them again.

The file is `WEIGHTS.sensitivity.json`, next to the weights; where that folder cannot be written, or is darkprune's own,
it lies in `$XDG_CACHE_HOME/darkprune/` (`~/.cache/darkprune/`). Curves count only while everything that decided them is
the same, and only if a measurement could have given them; else they are measured anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from darkprune.errors import OutputError
from darkprune.runs.json_file import JsonValue
from darkprune.runs.record import Origin, Record
from darkprune.runs.record_file import RecordFile, cache_folder
from darkprune.selection.curves import Curve
from darkprune.zoo import folder

FORMAT = "darkprune-curves/2"
MOST_ENTRIES = 16
MOST_POINTS = 1000
SUFFIX = ".sensitivity.json"


class CurveCache:
    """The curves of one checkpoint.

    Attributes:
        path: of the file.
        problem: why earlier curves are not used, or new ones not kept; None if nothing is wrong.
    """

    def __init__(self, weights: Path, weights_sha256: str) -> None:
        beside = weights.with_name(weights.name + SUFFIX)
        own = weights.parent.resolve() == folder("weights").resolve()  # darkprune's own folder is not the user's
        may = not own and os.access(beside.parent, os.W_OK)
        self.path = beside if may else cache_folder() / (weights_sha256[:32] + SUFFIX)
        self.problem: str | None = None
        self._records = RecordFile(self.path, FORMAT, {})
        if self.path.exists():
            try:
                self._records.load()
            except OutputError:
                self._refuse()

    def find(self, origin: Origin, expected: Sequence[tuple[str, int]], kinds: Sequence[str]) -> list[Curve]:
        """Returns the curves that are there, in order: all, the first few of a run that was stopped, or none.

        Args:
            origin: what decides them.
            expected: name and number of channels of every group.
        """
        record = self._records.find(origin.key, origin.key)
        if record is None:
            return []
        found = JsonValue(record.result)["curves"].items
        try:
            return [_curve(entry, *wanted, kinds) for entry, wanted in zip(found, expected, strict=False)]
        except ValueError:
            self._refuse()
            return []

    def keep(self, origin: Origin, curves: Sequence[Curve]) -> None:
        """Writes curves in the place of earlier ones of the same origin; the oldest of others go.

        Where that is not possible `problem` says why.
        """
        self._records.drop([origin.key])
        self._records.drop(list(self._records.records)[: 1 - MOST_ENTRIES])
        try:
            result = {"curves": [asdict(curve) for curve in curves]}
            self._records.keep(origin.key, Record(origin=origin, result=result))
        except OutputError as error:
            self.problem = f"the curves are not kept: {error}"

    def _refuse(self) -> None:
        self.problem = f"{self.path}: is damaged; the curves are measured anew"


def _curve(data: JsonValue, group: str, channels: int, kinds: Sequence[str]) -> Curve:
    """Reads a curve.

    Raises:
        ValueError: it is none, or of another group.
    """
    ratios, retained = _numbers(data["ratios"], 1.0), _numbers(data["retained"], 1.0)
    left = {kind: _numbers(data["left"][kind], 1e18) for kind in kinds}
    lengths = {len(ratios), len(retained), *map(len, left.values())}
    rising = all(a < b for a, b in zip((0.0, *ratios), ratios, strict=False))
    if (data["group"].text, data["channels"].number) != (group, channels) or len(lengths) != 1 or not rising:
        raise ValueError("not this group's curve")
    return Curve(group, channels, ratios, retained, left)


def _numbers(values: JsonValue, most: float) -> tuple[float, ...]:
    found = [entry.number for entry in values.items[: MOST_POINTS + 1]]
    numbers = tuple(number for number in found if number is not None and 0 <= number <= most)
    if not isinstance(values.value, list) or len(numbers) != len(found) or len(found) > MOST_POINTS:
        raise ValueError("not numbers in range")
    return numbers
