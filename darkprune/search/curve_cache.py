"""Measured curves, kept beside the checkpoint so that the next run need not measure them again.

The file is `WEIGHTS.sensitivity.json`, next to the weights; where that folder cannot be written, or is darkprune's own,
`$XDG_CACHE_HOME/darkprune/` (`~/.cache/darkprune/`). An entry counts only for the same cfg, weights, images, labels and
settings, and only if everything in it is what a measurement could have given; else it is measured anew.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from darkprune.darknet.output import atomic_file
from darkprune.errors import OutputError
from darkprune.selection.curves import Curve
from darkprune.zoo import folder

FORMAT = "darkprune-curves/1"
MAX_BYTES = 4 << 20
MOST_ENTRIES = 16
SUFFIX = ".sensitivity.json"


class CurveCache:
    """The file of one checkpoint.

    Attributes:
        path: where it is, or will be.
        problem: what was wrong with an earlier one; None if nothing.
    """

    def __init__(self, weights: Path, weights_sha256: str) -> None:
        beside = weights.with_name(weights.name + SUFFIX)
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkprune"
        own = weights.parent.resolve() == folder("weights").resolve()  # darkprune's own folder is not the user's
        may = not own and os.access(beside.parent, os.W_OK)
        self.path = beside if may else home / (weights_sha256[:32] + SUFFIX)
        self.problem: str | None = None
        self._entries = self._read()

    def find(self, key: str, expected: Sequence[tuple[str, int]], kinds: Sequence[str]) -> list[Curve]:
        """Returns the curves that are there, in order: all, the first few of a run that was stopped, or none.

        Args:
            key: of what they were measured with.
            expected: name and number of channels of every group.
            kinds: kinds of budget.
        """
        found = self._entries.get(key)
        if found is None:
            return []
        try:
            curves = [_curve(entry, *wanted, kinds) for entry, wanted in zip(found, expected, strict=False)]
        except (KeyError, TypeError, ValueError, AttributeError):
            self.problem = f"{self.path}: is damaged; the curves are measured anew"
            return []
        return curves

    def keep(self, key: str, curves: Sequence[Curve]) -> None:
        """Writes curves, in place of earlier ones of the same key; the oldest entries go.

        Raises:
            OutputError: it cannot be written.
        """
        others = [(other, value) for other, value in self._entries.items() if other != key]
        self._entries = dict([*others[-(MOST_ENTRIES - 1) :], (key, [asdict(curve) for curve in curves])])
        text = json.dumps({"format": FORMAT, "entries": self._entries}, indent=1, allow_nan=False) + "\n"
        with atomic_file(self.path, overwrite=True) as file:
            file.write(text.encode())

    def _read(self) -> dict[str, Any]:
        try:
            if not self.path.is_file():
                return {}
            if self.path.stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            data = json.loads(self.path.read_text(encoding="utf-8"))
            entries = data["entries"]
            if data["format"] != FORMAT or not isinstance(entries, dict) or len(entries) > MOST_ENTRIES:
                raise ValueError("another format")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self.problem = f"{self.path}: is damaged; the curves are measured anew"
            return {}
        return entries


def try_to_keep(cache: CurveCache, key: str, curves: Sequence[Curve]) -> None:
    """Keeps curves; notes where they cannot be, which stops nobody."""
    try:
        cache.keep(key, curves)
    except OutputError as error:
        cache.problem = f"the curves are not kept: {error}"


def _curve(data: Mapping[str, Any], group: str, channels: int, kinds: Sequence[str]) -> Curve:
    """Reads a curve, and believes nothing.

    Raises:
        KeyError, TypeError, ValueError: it is none, or of another group.
    """
    ratios = _numbers(data["ratios"], 1.0)
    retained = _numbers(data["retained"], 1.0)
    left = {kind: _numbers(data["left"][kind], 1e18) for kind in kinds}
    lengths = {len(ratios), len(retained), *map(len, left.values())}
    rising = all(a < b for a, b in zip((0.0, *ratios), ratios, strict=False))
    if (data["group"], data["channels"]) != (group, channels) or len(lengths) != 1 or not rising:
        raise ValueError("not this group's curve")
    return Curve(group, channels, ratios, retained, left)


def _numbers(values: Any, most: float) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) > 1000:
        raise TypeError("no list of numbers")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise TypeError("no number")
    found = tuple(float(value) for value in values)
    if not all(math.isfinite(value) and 0 <= value <= most for value in found):
        raise ValueError("out of range")
    return found
