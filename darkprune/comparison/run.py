"""Carrying out a comparison: cells as independent jobs in processes, then the controls and the times."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.comparison.setup import Setup
from darkprune.comparison.steps import cfg_digest, cut, measure, measure_unpruned, recover
from darkprune.darknet.output import atomic_file
from darkprune.errors import OutputError
from darkprune.evaluation.control import control_networks
from darkprune.graph.graph import Graph, read_graph
from darkprune.processes import in_processes
from darkprune.runners.base import load_with_any
from darkprune.runners.timing import Latency, time_alternately
from darkprune.runs.record import NAME as RECORD
from darkprune.runs.record import Input, Origin, Record, StepError, fill_file, find_record, forget_failure

ABOUT = "network.txt"
RUNS, WARMUP = 30, 3

#: called with what is done, and how many of how many
Tell = Callable[[str, int, int], None]
_Item = TypeVar("_Item")


def open_folder(setup: Setup, overwrite: bool, alone: bool) -> bool:
    """Makes the comparison's folder, or finds it.

    Args:
        setup: of the comparison.
        overwrite: take a folder of another network.
        alone: no other job is at work in it: what killed ones left half-done is removed.

    Returns:
        Whether it holds an earlier comparison of this network, which goes on.

    Raises:
        OutputError: it holds something else, or a comparison of another network; it cannot be written.
    """
    about = f"cfg {setup.digests['cfg']}\nweights {setup.digests['weights']}\n"
    path = setup.folder / ABOUT
    goes_on = path.is_file() and path.read_text(encoding="utf-8", errors="replace") == about
    if path.is_file():
        if not goes_on and not overwrite:
            raise OutputError(f"{setup.folder}: is a comparison of another network; choose another -o, or --overwrite")
    elif setup.folder.exists() and (not setup.folder.is_dir() or any(setup.folder.iterdir())):
        raise OutputError(f"{setup.folder}: exists and is no earlier comparison; choose another -o")
    with atomic_file(path, [setup.cfg, setup.weights], overwrite=True) as file:
        file.write(about.encode())
    for left in setup.folder.glob("*/.*.partial-*") if alone else ():
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    return goes_on


def carry_out(setup: Setup, cells: Sequence[Cell], jobs: int, tell: Tell) -> None:
    """Does cells, as far as they are not done yet. What fails is tried again in the next run, not in this one.

    Args:
        setup: of the comparison.
        cells: all, or a share of them.
        jobs: processes.
        tell: called after each step.
    """
    for cell in cells:
        forget_failure(setup.cut_folder(cell) / RECORD)
        for pair in (cell.untrained, cell):
            forget_failure(setup.pair_folder(pair) / RECORD)
        forget_failure(setup.record_file(cell.name))
    cuts = list({cell.cut_name: cell for cell in cells}.values())
    starts = list(dict.fromkeys(cell.untrained for cell in cells))
    trained = [cell for cell in cells if cell.training is not None]
    measured = [cell for cell in cells if cell.training is None]
    searches = [cell for cell in cuts if method_of(cell.method).searches]  # their candidates have the processes
    _do("cutting", partial(_attempt, cut, setup), [cell for cell in cuts if cell not in searches], jobs, tell)
    if searches:
        _do("searching", partial(_attempt, cut, replace(setup, jobs=jobs)), searches, 1, tell)
    _do("recovering", partial(_attempt, recover, setup), starts, jobs, tell)
    _do("training", partial(_attempt, recover, setup), trained, jobs, tell)
    _do("measuring", partial(measure, setup), [*measured, *trained], jobs, tell)


def collect(setup: Setup, cells: Sequence[Cell]) -> dict[Cell, Record]:
    """Returns the records of those cells that are done or failed with the settings as they are."""
    found = {}
    for cell in cells:
        key = setup.measure_origin(setup.pair_origin(cell).key).key
        record = find_record(setup.record_file(cell.name), key)
        if record is not None:
            found[cell] = record
    return found


def controls(setup: Setup, records: Iterable[Record], jobs: int, tell: Tell) -> list[Record]:
    """Measures the unpruned network, at its own size first, then at the sizes that cost what the cells cost.

    Raises:
        StepError: the unpruned network cannot be measured.
    """
    graph = read_graph(setup.cfg)
    macs = [record.result["macs"] for record in records if record.error is None]
    sizes = [(each.net.input.w, each.net.input.h) for each in control_networks(graph, macs)]
    keys = [setup.record_file(f"unpruned_{width}x{height}") for width, height in sizes]
    for path in keys:
        forget_failure(path)
    _do("measuring the unpruned network", partial(_attempt, measure_unpruned, setup), sizes, jobs, tell)
    return [measure_unpruned(setup, size) for size in sizes]


def times(setup: Setup, networks: Iterable[tuple[Graph, Path]], tell: Tell) -> dict[str, float]:
    """Times networks one after the other, each in turn with the unpruned one, on this machine alone.

    Args:
        setup: of the comparison.
        networks: with their weights; those with the same text have the same time.
        tell: called after each.

    Returns:
        Hash of the cfg -> milliseconds of one image: the network's share of the unpruned one's time in the same
        minute, times that one's median over all of them; so the machine's drift meets all alike.
    """
    by_digest = {cfg_digest(graph): (graph, weights) for graph, weights in networks}
    taken: dict[str, Mapping[str, Any]] = {}
    for number, (digest, (graph, weights)) in enumerate(by_digest.items(), 1):
        inputs = {"network": Input("", digest), "unpruned": Input(str(setup.cfg), setup.digests["cfg"])}
        origin = Origin("time", {"runner": setup.runner, "runs": RUNS}, inputs)
        path = setup.record_file(f"time_{digest[:16]}")
        forget_failure(path)
        try:
            taken[digest] = fill_file(path, origin, partial(_time, setup, graph, weights)).result
        except StepError:
            continue
        tell("timing", number, len(by_digest))
    if not taken:
        return {}
    whole = float(np.median([entry["unpruned_ms"] for entry in taken.values()]))
    return {digest: whole * entry["ms"] / entry["unpruned_ms"] for digest, entry in taken.items()}


def _time(setup: Setup, graph: Graph, weights: Path) -> dict[str, Any]:
    graphs = (read_graph(setup.cfg), graph)
    networks = [load_with_any(each, file, setup.runner, taps=False)[1]
                for each, file in zip(graphs, (setup.weights, weights), strict=True)]  # fmt: skip
    random = np.random.default_rng(0)
    shapes = [each.net.input for each in graphs]
    images = [random.random((1, shape.c, shape.h, shape.w), np.float32) for shape in shapes]
    seconds = time_alternately(networks, images, RUNS, WARMUP)
    before, after = (Latency.of(each, 1, graph.macs).median for each in seconds)
    return {"ms": after, "unpruned_ms": before}


def _attempt(step: Callable[[Setup, _Item], Record], setup: Setup, item: _Item) -> None:
    """Does a step; where it fails its record says why, and the cell's measurement finds it."""
    with suppress(StepError):
        step(setup, item)


def _do(what: str, work: Callable[[_Item], object], items: Sequence[_Item], jobs: int, tell: Tell) -> None:
    tell(what, 0, len(items))
    for number, _ in enumerate(in_processes(work, items, jobs), 1):
        tell(what, number, len(items))
