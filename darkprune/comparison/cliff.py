"""A sweep over pruned networks: its points, their file, and the control that every curve carries (METHODS §7).

The control is the unpruned network at a smaller input with as many operations: whatever pruning leaves has to be better
than that, or the user had better take the smaller input.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from darkprune.darknet.output import atomic_file
from darkprune.errors import OutputError
from darkprune.evaluation.control import control_at
from darkprune.runners.measure import MAP

FORMAT = "darkprune-cliff/1"


@dataclass(frozen=True)
class Point:
    """One measured network.

    Attributes:
        kind: `pruned`, `recovered`, or `control`: the unpruned network at some input size.
        ratio: fraction of channels asked to go; 0 for the control.
        width, height: of the input, in pixels.
        params: stored floats.
        macs: multiply-adds for one image.
        value: mAP@0.5 (a fraction), or the distance to the unpruned network's outputs.
    """

    kind: str
    ratio: float
    width: int
    height: int
    params: int
    macs: int
    value: float

    @property
    def key(self) -> str:
        """What the point is found by in a file of earlier results."""
        return f"{self.kind} {self.ratio:.6g} {self.width}x{self.height}"


class Store:
    """The results in the folder: written after every measurement, so that a killed sweep goes on where it stopped.

    Attributes:
        points: key -> what was measured with these files and settings.
    """

    def __init__(self, folder: Path, about: dict[str, Any], overwrite: bool) -> None:
        """Opens the folder.

        Raises:
            OutputError: it holds results of other files, images or settings.
        """
        self._folder, self._about = folder, about
        self.points: dict[str, Point] = {}
        path = folder / "cliff.json"
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] == FORMAT and found["about"] == about:
                points = [Point(**entry) for entry in found["points"]]
                self.points = {point.key: point for point in points}
                return
            differs = next((key for key in about if found["about"].get(key) != about[key]), "format")
            why = f"is of another sweep (other {differs})"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            why = "is not an earlier sweep, or broken"
        if not overwrite:
            raise OutputError(f"{path}: {why}; choose another -o, or --overwrite")

    def add(self, point: Point) -> None:
        """Keeps a measurement."""
        self.points[point.key] = point
        self._write("cliff.json", json.dumps(self._data({}), indent=1) + "\n")

    def write_tables(self, result: dict[str, Any]) -> None:
        """Writes the finished table."""
        self._write("cliff.json", json.dumps(self._data(result), indent=1) + "\n")
        text = io.StringIO()
        rows = [*result["pruned"], *result.get("recovered", []), *result["control"]]
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write("cliff.csv", text.getvalue())

    def _data(self, result: dict[str, Any]) -> dict[str, Any]:
        points = [asdict(point) for point in self.points.values()]
        return {"format": FORMAT, "about": self._about, "points": points, **result}

    def _write(self, name: str, text: str) -> None:
        with atomic_file(self._folder / name, overwrite=True) as file:
            file.write(text.encode())


def summarise(
    base: Point, pruned: Sequence[Point], controls: Sequence[Point], metric: str, recovered: Sequence[Point] = ()
) -> dict[str, Any]:
    """Compares every ratio with the control at equal operations, and finds the largest fall.

    Args:
        base: the unpruned network.
        pruned: by ratio.
        controls: the unpruned network at several sizes, `base` included.
        metric: `mAP@0.5` (more is better) or `distance` (less is).
        recovered: the pruned ones after recovery, if there was any.

    Returns:
        `pruned`, `recovered` and `control` with a row for each point; `cliff` and `pruning_beats_control_at` for the
        pruned ones, and for the recovered ones `recovered_cliff` and `recovery_beats_control_at`.
    """
    sign = 1 if metric == MAP else -1
    rows, cliff, beats = _curve(base, pruned, controls, sign)
    result = {
        "metric": metric,
        "unpruned": base.value,
        "cliff": cliff,
        "pruning_beats_control_at": beats,
        "pruned": rows,
        "control": [_row(point, base) for point in sorted(controls, key=lambda point: -point.macs)],
    }
    if recovered:
        rows, cliff, beats = _curve(base, recovered, controls, sign)
        result.update(recovered=rows, recovered_cliff=cliff, recovery_beats_control_at=beats)
    return result


def _curve(
    base: Point, points: Sequence[Point], controls: Sequence[Point], sign: int
) -> tuple[list[dict[str, Any]], dict[str, Any] | None, list[float]]:
    """Returns the rows of a curve, its largest fall, and the ratios at which it beats the control."""
    rows, sizes = [], [(float(point.macs), point.value) for point in controls]
    for point in points:
        control = control_at(sizes, point.macs)
        rows.append(
            {
                **_row(point, base),
                "control": None if control is None else round(control, 6),
                "beats_control": None if control is None else sign * (point.value - control) > 0,
            }
        )
    fall, last, first = max(
        ((sign * (a.value - b.value), a, b) for a, b in pairwise([base, *points])), key=lambda step: step[0]
    )
    cliff = {"from_ratio": last.ratio, "to_ratio": first.ratio, "before": last.value, "behind": first.value}
    beats = [row["ratio"] for row in rows if row["beats_control"]]
    return rows, {**cliff, "fall": round(fall, 7)} if fall > 0 else None, beats


def _row(point: Point, base: Point) -> dict[str, Any]:
    return {**asdict(point), "macs_removed": round(1 - point.macs / base.macs, 6)}
