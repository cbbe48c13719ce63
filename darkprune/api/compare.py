"""`compare`: methods, budgets and recoveries side by side, on one checkpoint and one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from darkprune.api.pair import Pair
from darkprune.comparison.cells import Cell, grid, share
from darkprune.comparison.inputs import prepare
from darkprune.comparison.paper import published_for, with_paper
from darkprune.comparison.run import begin, carry_out, collect, collect_sparse, controls, is_earlier, times
from darkprune.comparison.settings import CompareSettings
from darkprune.comparison.setup import Setup
from darkprune.comparison.table import Records, Row, make_rows, to_csv
from darkprune.darknet.output import atomic_file
from darkprune.errors import DarkpruneError
from darkprune.graph.graph import read_graph
from darkprune.progress import Progress, reporting
from darkprune.runs.json_file import encode_json
from darkprune.runs.lock import locked
from darkprune.runs.provenance import write_provenance
from darkprune.runs.record import Record
from darkprune.settings import PathLike
from darkprune.training.records.curves import can_draw

NO_PICTURES = "no pictures are drawn: matplotlib is not installed (pip install 'darkprune[report]')"


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """A comparison, or a share of it.

    Attributes:
        rows: the table: the unpruned network, its controls, then the cells; empty while cells of other shares are
            missing.
        done: cells that this call was about.
        missing: cells of other shares that are not done yet.
        runner: program that measured.
        outputs: table and pictures.
        warnings: what was left out, and what is wrong with the labelled images.
    """

    rows: tuple[Row, ...]
    done: int
    missing: int
    runner: str
    outputs: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        if self.missing:
            return {"done": self.done, "missing": self.missing, "rows": None, "outputs": []}
        rows = [row.to_json() for row in self.rows]
        return {"rows": rows, "runner": self.runner, "outputs": list(map(str, self.outputs))}


def compare(
    pair: Pair, output: PathLike, settings: CompareSettings, *, progress: Progress | None = None
) -> CompareResult:
    """Compares methods, budgets and recoveries; called again with the same output it goes on where it stopped.

    Args:
        pair: the unpruned network.
        output: folder for the table, the pictures and what every cell left.
        settings: what is compared.
        progress: gets an event per step of a cell.

    Raises:
        UsageError: something asked for that does not exist, or needs images that are not given.
        OutputError: the folder holds something else, or another comparison is at work in it.
        DarkpruneError: network or data cannot be used, or every cell failed.
        KeyboardInterrupt: interrupted; what is done is kept.
    """
    settings = with_paper(settings, pair.graph)
    axes = settings.methods, settings.budgets, settings.recoveries, settings.seeds, settings.sparsities
    cells = grid(*axes)
    mine = share(cells, settings.cell) if settings.cell else cells
    setup, images, warnings = prepare(pair.cfg, pair.weights_file, Path(output), settings, cells)
    is_earlier(setup)  # refuses a folder of somebody else before a lock is put there
    with reporting(progress), locked(setup.folder, shared=settings.cell is not None):
        goes_on = is_earlier(setup)
        begin(setup)
        write_provenance(setup.folder, setup.inputs, goes_on)
        if images is not None:
            images.write()
        try:
            carry_out(setup, mine)
            records = collect(setup, cells)
            missing = len(cells) - len(records)
            if missing:
                return CompareResult(rows=(), done=len(mine), missing=missing, runner=setup.runner)
            rows = _table(setup, cells, records)
        except KeyboardInterrupt:
            done = len(collect(setup, cells))
            raise KeyboardInterrupt(f"{done} of {len(cells)} cells are done, and the same command goes on") from None
        outputs = _write(setup, cells, rows)
    failures = [record.error for record in records.values() if record.error is not None]
    if len(failures) == len(cells):
        raise DarkpruneError(f"{output}: all {len(cells)} cells failed; the first one: {failures[0]}")
    return CompareResult(
        rows=tuple(rows),
        done=len(mine),
        missing=0,
        runner=setup.runner,
        outputs=tuple(outputs),
        warnings=(*pair.warnings(), *warnings, *(() if can_draw() else (NO_PICTURES,))),
    )


def _table(setup: Setup, cells: Sequence[Cell], records: Mapping[Cell, Record]) -> list[Row]:
    unpruned = controls(setup, records.values())
    networks = [(network, setup.weights) for network, _ in unpruned]
    for record in records.values():
        if record.error is None:
            pair = [setup.folder / str(record.result[name]) for name in ("cfg", "weights")]
            networks.append((read_graph(pair[0]), pair[1]))
    whole = Records(
        cells={cell: records[cell] for cell in cells},
        unpruned=[record for _, record in unpruned],
        sparse=collect_sparse(setup, cells),
        ms={} if setup.settings.no_times else times(setup, networks),
    )
    return make_rows(whole, published_for(unpruned[0][0]) if setup.settings.paper else None)


def _write(setup: Setup, cells: Sequence[Cell], rows: Sequence[Row]) -> list[Path]:
    """Writes table and pictures; returns their paths."""
    settings, paths = setup.settings, []

    def save(name: str, content: bytes) -> None:
        with atomic_file(setup.folder / name, overwrite=True) as file:
            file.write(content)
        paths.append(setup.folder / name)

    about = {
        "cfg": setup.cfg.name,
        "weights": setup.weights.name,
        "data": str(settings.data),
        "runner": setup.runner,
        "budget_of": settings.budget_of,
        "paper": settings.paper,
        "digests": {role: entry.sha256 for role, entry in setup.inputs.items()},
        "changes": settings.training,
    }
    table = {"about": about, "rows": [row.to_json() for row in rows], "cells": [asdict(cell) for cell in cells]}
    save("compare.json", encode_json(table))
    save("compare.csv", to_csv(rows).encode())
    if can_draw():
        from darkprune.comparison.curves import draw, draw_sparsity

        draw(rows, f"{setup.cfg.stem}: methods at equal {settings.budget_of}", save)
        runs = {cell.sparsity: setup.sparse_folder(cell.start_name) for cell in reversed(cells) if cell.start_name}
        if runs:
            draw_sparsity(runs, save)
    return paths
