"""Carrying out a comparison: cells as independent jobs in processes, then the controls and the times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.comparison.setup import FOLDERS, Setup
from darkprune.comparison.steps import (
    cfg_digest,
    cut,
    measure,
    measure_sparse,
    measure_unpruned,
    prepare_start,
    recover,
)
from darkprune.darknet.leftovers import remove_leftovers_in
from darkprune.darknet.output import LOCK, atomic_file
from darkprune.errors import OutputError
from darkprune.evaluation.control import control_networks
from darkprune.graph.graph import Graph, read_graph
from darkprune.processes import in_processes
from darkprune.progress import reporting, silent, track
from darkprune.runners.base import load_with_any
from darkprune.runners.timing import Latency, time_alternately
from darkprune.runs.record import NAME as RECORD
from darkprune.runs.record import Input, Origin, Record, StepError, fill_file, find_record, forget_failure, path_text

ABOUT = "network.txt"
RUNS, WARMUP = 30, 3

_Item = TypeVar("_Item")


def is_earlier(setup: Setup) -> bool:
    """Returns whether the folder holds an earlier comparison of this network, which goes on.

    Raises:
        OutputError: it holds something else, or a comparison of another network and `overwrite` is not set.
    """
    path, folder = setup.folder / ABOUT, setup.folder
    if path.is_file():
        goes_on = path.read_text(encoding="utf-8", errors="replace") == _about(setup)
        if not goes_on and not setup.settings.overwrite:
            raise OutputError(f"{folder}: is a comparison of another network; choose another -o, or --overwrite")
        return goes_on
    if folder.exists() and (not folder.is_dir() or any(each.name != LOCK for each in folder.iterdir())):
        raise OutputError(f"{folder}: exists and is no earlier comparison; choose another -o")
    return False


def begin(setup: Setup) -> None:
    """Writes what the folder is about, and removes what killed processes left half-done where no other is at work.

    Raises:
        OutputError: the folder cannot be written.
    """
    with atomic_file(setup.folder / ABOUT, [setup.cfg, setup.weights], overwrite=True) as file:
        file.write(_about(setup).encode())
    if setup.settings.cell is not None:
        return
    for folder in FOLDERS:
        remove_leftovers_in(setup.folder / folder)


def carry_out(setup: Setup, cells: Sequence[Cell]) -> None:
    """Does cells, as far as they are not done yet. What fails is tried again in the next run, not in this one."""
    _forget_failures(setup, cells)
    do = partial(_do, setup)
    starts = _one_each(cells, lambda cell: cell.start_name)
    cuts = _one_each(cells, lambda cell: cell.cut_name)
    trained = [cell for cell in cuts if method_of(cell.method).trains]
    searched = [cell for cell in cuts if method_of(cell.method).searches]  # their candidates have the processes
    chosen = [cell for cell in cuts if cell not in (*trained, *searched)]
    do("training sparsely", prepare_start, starts)
    do("cutting", cut, chosen)
    do("searching", partial(cut, jobs=setup.settings.jobs), searched, jobs=1)
    do("pruning while training", cut, trained)
    for length in range(1, max(len(cell.chain) for cell in cells) + 1):  # each starts from what the one before left
        at_once = [cell for cell in _with_previous(cells) if len(cell.chain) == length]
        do("training" if length > 1 else "recovering", recover, at_once)
    do("measuring", measure, cells)
    do("measuring before the cut", measure_sparse, starts)


def collect(setup: Setup, cells: Sequence[Cell]) -> dict[Cell, Record]:
    """Returns the records of those cells that are done or failed with the settings as they are."""
    found = {cell: find_record(setup.record_file(cell.name), setup.measure_origin(cell).key) for cell in cells}
    return {cell: record for cell, record in found.items() if record is not None}


def collect_sparse(setup: Setup, cells: Sequence[Cell]) -> dict[Cell, Record]:
    """Returns the records of the networks that were trained sparsely before the cut, one cell for each."""
    starts = _one_each(cells, lambda cell: cell.start_name)
    found = {
        cell: find_record(setup.record_file(f"sparse_{cell.start_name}"), setup.sparse_measure_origin(cell).key)
        for cell in starts
    }
    return {cell: record for cell, record in found.items() if record is not None}


def controls(setup: Setup, records: Iterable[Record]) -> list[tuple[Graph, Record]]:
    """Measures the unpruned network, at its own size first, then at the sizes that cost what the cells cost.

    Raises:
        StepError: the unpruned network cannot be measured.
    """
    macs = [int(record.result["macs"]) for record in records if record.error is None]
    networks = control_networks(read_graph(setup.cfg), macs)
    sizes = [(each.net.input.w, each.net.input.h) for each in networks]
    for width, height in sizes:
        forget_failure(setup.record_file(f"unpruned_{width}x{height}"))
    _do(setup, "measuring the unpruned network", measure_unpruned, sizes)
    return [(network, measure_unpruned(setup, size)) for network, size in zip(networks, sizes, strict=True)]


def times(setup: Setup, networks: Iterable[tuple[Graph, Path]]) -> dict[str, float]:
    """Times networks one after the other, each in turn with the unpruned one, on this machine alone.

    Args:
        networks: with their weights; those with the same text have the same time.

    Returns:
        Digest of the cfg -> milliseconds of one image: the network's share of the unpruned one's time in the same
        minute, times that one's median over all of them; so the machine's drift meets all alike.
    """
    by_digest = {cfg_digest(graph): (graph, weights) for graph, weights in networks}
    taken: dict[str, Mapping[str, float]] = {}
    step = track("timing", len(by_digest), "network")
    for digest, (graph, weights) in by_digest.items():
        inputs = {"network": Input(path_text(weights, setup.folder), digest), "unpruned": setup.inputs["cfg"]}
        path = setup.record_file(f"time_{digest[:16]}")
        forget_failure(path)
        with suppress(StepError):
            origin = Origin("time", {"runner": setup.runner, "runs": RUNS}, inputs)
            taken[digest] = fill_file(path, origin, partial(_time, setup, graph, weights)).result
        step()
    if not taken:
        return {}
    whole = float(np.median([entry["unpruned_ms"] for entry in taken.values()]))
    return {digest: whole * entry["ms"] / entry["unpruned_ms"] for digest, entry in taken.items()}


def _about(setup: Setup) -> str:
    return "cfg {}\nweights {}\n".format(*setup.hashes)


@reporting(silent)
def _time(setup: Setup, graph: Graph, weights: Path) -> dict[str, float]:
    graphs = (read_graph(setup.cfg), graph)
    networks = [load_with_any(each, file, setup.runner, taps=False)[1]
                for each, file in zip(graphs, (setup.weights, weights), strict=True)]  # fmt: skip
    seconds = time_alternately(networks, RUNS, WARMUP)
    before, after = (Latency.of(each, 1, graph.macs).median for each in seconds)
    return {"ms": after, "unpruned_ms": before}


def _with_previous(cells: Iterable[Cell]) -> list[Cell]:
    """Adds the cells whose networks others start from."""
    return list(dict.fromkeys(step for cell in cells for step in cell.chain))


def _one_each(cells: Iterable[Cell], name: Callable[[Cell], str]) -> list[Cell]:
    """Returns one cell for each name that is not empty."""
    return list({name(cell): cell for cell in cells if name(cell)}.values())


def _forget_failures(setup: Setup, cells: Sequence[Cell]) -> None:
    for cell in _with_previous(cells):
        forget_failure(setup.cut_folder(cell) / RECORD)
        forget_failure(setup.pair_folder(cell) / RECORD)
        forget_failure(setup.record_file(cell.name))
    for cell in _one_each(cells, lambda cell: cell.start_name):
        forget_failure(setup.sparse_folder(cell.start_name) / RECORD)
        forget_failure(setup.record_file(f"sparse_{cell.start_name}"))


@reporting(silent)
def _attempt(step: Callable[[Setup, _Item], object], setup: Setup, item: _Item) -> None:
    """Does a step; where it fails its record says why, and the cell's measurement finds it."""
    with suppress(StepError):
        step(setup, item)


def _do(
    setup: Setup,
    task: str,
    step: Callable[[Setup, _Item], object],
    items: Sequence[_Item],
    jobs: int | None = None,
) -> None:
    """Does a step for each item, in as many processes as the settings say."""
    if items:
        done = track(task, len(items), "cell")
        for _ in in_processes(partial(_attempt, step, setup), items, jobs or setup.settings.jobs):
            done()
