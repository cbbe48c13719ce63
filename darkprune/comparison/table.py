"""The table of a comparison: cells averaged over their seeds, beside the unpruned network and its control."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, stdev

from darkprune.comparison.cells import Cell
from darkprune.comparison.paper import PaperRow
from darkprune.evaluation.control import control_at
from darkprune.json_types import JsonObject
from darkprune.runs.record import Record


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        kind: `unpruned`, `control` (the unpruned network at a smaller input), `sparse` (unpruned, trained so that its γ
            are drawn to zero) or `pruned`.
        method, budget, recovery: of the cells; empty where nothing is pruned.
        seeds: number of cells that it is the mean of.
        width, height: of the input, in pixels.
        params, macs, bytes: stored floats, multiply-adds for one image, size of the weights file (means over seeds).
        map50, map50_std: mAP@0.5 as a fraction; mean and standard deviation over seeds (0 where nothing is random).
        map, map_std: mAP@0.5:0.95 likewise; None without an evaluator.
        ms: milliseconds for one image.
        seconds: time of everything from the given network on.
        control: mAP@0.5 of the control at as many multiply-adds; None below its smallest size.
        failed: why cells of it have no result.
        sparsity: training before the cut; empty for the given network.
        published: mAP@0.5 that Chu et al. 2023 published for the same row; None where they published none.
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
    sparsity: str = ""
    published: float | None = None

    @property
    def label(self) -> str:
        """The method, and the training before the cut where there was one."""
        return self.method if self.sparsity in ("", "none") else f"{self.method}, {self.sparsity}"

    @property
    def beats_control(self) -> bool | None:
        """Whether it is better than the unpruned network at a smaller input; None where that is not known."""
        return None if self.map50 is None or self.control is None else self.map50 > self.control

    def to_json(self) -> JsonObject:
        """Returns the fields, floats rounded to what was measured."""
        data = {**asdict(self), "beats_control": self.beats_control}
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in data.items()}


@dataclass(frozen=True, kw_only=True)
class Records:
    """Everything that a table is made of.

    Attributes:
        cells: what became of each cell, in the order of the table.
        unpruned: the given network at its own size, then at smaller ones.
        sparse: the networks that were trained sparsely, by one cell of each.
        ms: milliseconds by the digest of the cfg.
    """

    cells: Mapping[Cell, Record]
    unpruned: Sequence[Record]
    sparse: Mapping[Cell, Record] = field(default_factory=dict)
    ms: Mapping[str, float] = field(default_factory=dict)


def make_rows(records: Records, published: Mapping[PaperRow, float] | None = None) -> list[Row]:
    """Makes the table.

    Args:
        published: mAP@0.5 as published, by sparsity, method, budget and recovery.
    """
    known, ms = published or {}, records.ms
    first, *smaller = [
        Row("control", seeds=1, map50_std=0.0, map_std=0.0, **_figures([record], ms)) for record in records.unpruned
    ]
    first = replace(first, kind="unpruned", published=known.get(("", "", "", "")))
    points = [(float(row.macs or 0), float(row.map50 or 0)) for row in (first, *smaller)]
    rows = [first, *sorted(smaller, key=lambda row: -float(row.macs or 0))]
    for group in _by(records.sparse, lambda cell: cell.sparsity):
        line = Row("sparse", sparsity=group[0].sparsity, published=known.get((group[0].sparsity, "", "", "")))
        rows.append(_filled(line, [records.sparse[cell] for cell in group], ms))
    for group in _by(records.cells, lambda cell: replace(cell, seed=0)):
        cell = group[0]
        line = Row("pruned", cell.method, cell.budget, cell.recovery, sparsity=cell.sparsity)
        line = replace(line, published=known.get((cell.sparsity, cell.method, cell.budget, cell.recovery)))
        row = _filled(line, [records.cells[cell] for cell in group], ms)
        if smaller and row.macs is not None:
            row = replace(row, control=control_at(points, row.macs))
        rows.append(row)
    return rows


def _filled(row: Row, records: Sequence[Record], ms: Mapping[str, float]) -> Row:
    """Fills in means and spreads over the records that have results, and why others have none."""
    done = [record for record in records if record.error is None]
    errors = dict.fromkeys(str(record.error) for record in records if record.error is not None)
    failed = "; ".join(errors)
    if done and errors:
        failed = f"{len(records) - len(done)} of {len(records)} failed: {failed}"
    row = replace(row, seeds=len(done), failed=failed)
    if not done:
        return row
    return replace(
        row,
        **_figures(done, ms),
        seconds=_mean([record.result.get("seconds") for record in done]),
        map50_std=_spread([record.result["map50"] for record in done]),
        map_std=_spread([record.result["map"] for record in done]),
    )


def to_csv(rows: Iterable[Row]) -> str:
    """Returns the table as CSV."""
    text = io.StringIO()
    data = [row.to_json() for row in rows]
    writer = csv.DictWriter(text, list(data[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(data)
    return text.getvalue()


def _by(cells: Iterable[Cell], key: Callable[[Cell], object]) -> list[list[Cell]]:
    """Groups cells, in their order."""
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def _figures(records: Sequence[Record], ms: Mapping[str, float]) -> JsonObject:
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
