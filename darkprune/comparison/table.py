"""The table of a comparison: cells averaged over their seeds, beside the unpruned network and its control."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from darkprune.comparison.cells import Cell
from darkprune.evaluation.control import control_at
from darkprune.runs.record import Record


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        kind: `unpruned`, `control` (the unpruned network at a smaller input) or `pruned`.
        method, budget, recovery: of the cells; empty for the unpruned network.
        seeds: how many cells stand behind it.
        width, height: of the input, in pixels.
        params, macs, bytes: stored floats, multiply-adds for one image, size of the weights file (means over seeds).
        map50, map50_std: mAP@0.5 as a fraction; mean and standard deviation over seeds (0 where nothing is drawn).
        map, map_std: mAP@0.5:0.95 likewise; None without an evaluator.
        ms: milliseconds for one image.
        seconds: that cut and recovery took.
        control: mAP@0.5 of the control at as many multiply-adds; None below its smallest size.
        failed: why cells of it have no result.
    """

    kind: str
    method: str = ""
    budget: str = ""
    recovery: str = ""
    seeds: int = 0
    width: int = 0
    height: int = 0
    params: float | None = None
    macs: float | None = None
    bytes: float | None = None
    map50: float | None = None
    map50_std: float | None = None
    map: float | None = None
    map_std: float | None = None
    ms: float | None = None
    seconds: float | None = None
    control: float | None = None
    failed: str = ""

    @property
    def beats_control(self) -> bool | None:
        """Whether it is better than the unpruned network at a smaller input; None where that is not known."""
        return None if self.map50 is None or self.control is None else self.map50 > self.control

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, floats rounded to what was measured."""
        data = {**asdict(self), "beats_control": self.beats_control}
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in data.items()}


def make_rows(
    cells: Sequence[Cell],
    records: Mapping[Cell, Record],
    unpruned: Sequence[Record],
    ms: Mapping[str, float],
) -> list[Row]:
    """Makes the table.

    Args:
        cells: all, in the order of the table.
        records: what became of them.
        unpruned: the unpruned network at its own size, then at smaller ones.
        ms: milliseconds by the hash of the cfg.
    """
    first, *smaller = [
        Row("control", seeds=1, map50_std=0.0, map_std=0.0, **_figures([record], ms)) for record in unpruned
    ]
    first = replace(first, kind="unpruned")
    points = [(float(row.macs or 0), float(row.map50 or 0)) for row in (first, *smaller)]
    rows = [first, *sorted(smaller, key=lambda row: -float(row.macs or 0))]
    for group in _by_line(cells):
        done = [records[cell] for cell in group if records[cell].error is None]
        errors = dict.fromkeys(str(records[cell].error) for cell in group if records[cell].error is not None)
        failed = "; ".join(errors)
        if done and errors:
            failed = f"{len(group) - len(done)} of {len(group)} failed: {failed}"
        cell = group[0]
        row = Row("pruned", cell.method, cell.budget, cell.recovery, len(done), failed=failed)
        if done:
            row = replace(
                row,
                **_figures(done, ms),
                seconds=fmean(record.result["seconds"] for record in done),
                map50_std=_spread([record.result["map50"] for record in done]),
                map_std=_spread([record.result["map"] for record in done]),
            )
            if smaller:
                row = replace(row, control=control_at(points, float(row.macs or 0)))
        rows.append(row)
    return rows


def to_csv(rows: Iterable[Row]) -> str:
    """Returns the table as CSV."""
    text = io.StringIO()
    data = [row.to_json() for row in rows]
    writer = csv.DictWriter(text, list(data[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(data)
    return text.getvalue()


def _by_line(cells: Sequence[Cell]) -> list[list[Cell]]:
    lines: dict[Cell, list[Cell]] = {}
    for cell in cells:
        lines.setdefault(replace(cell, seed=0), []).append(cell)
    return list(lines.values())


def _figures(records: Sequence[Record], ms: Mapping[str, float]) -> dict[str, Any]:
    results = [record.result for record in records]
    means = {name: fmean(result[name] for result in results) for name in ("params", "macs", "bytes", "map50")}
    size = {name: results[0][name] for name in ("width", "height")}
    return {
        **size,
        **means,
        "map": _mean([result["map"] for result in results]),
        "ms": _mean([ms.get(result["cfg_sha256"]) for result in results]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return None if not known else stdev(known) if len(known) > 1 else 0.0
