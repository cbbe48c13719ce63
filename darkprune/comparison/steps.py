"""The steps of a cell: cut, recovery, measurement. Each is done once; what it needs is done first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.comparison.setup import Setup
from darkprune.comparison.train import train
from darkprune.data import read_dataset
from darkprune.errors import UsageError
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.graph.graph import Graph, read_graph, with_input_size
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.runners.base import load_with_any
from darkprune.runs.record import Record, StepError, fill_file, fill_folder
from darkprune.search.choice import Effort, choose
from darkprune.search.session import Session
from darkprune.selection.budget import parse_budget
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.surgery.result import write_result


def cut(setup: Setup, cell: Cell, jobs: int = 1) -> Record:
    """Makes the cut that a cell starts from: slim pair, plan and report in a folder.

    Args:
        setup: of the comparison.
        cell: any cell of the cut.
        jobs: processes that the candidates of a search are tried in.

    Raises:
        StepError: it cannot be made.
    """
    return fill_folder(setup.cut_folder(cell), setup.cut_origin(cell), lambda out: _cut(setup, cell, out, jobs))


def recover(setup: Setup, cell: Cell) -> Record:
    """Makes a cell's slim pair.

    Raises:
        StepError: it cannot be made.
    """
    cut(setup, cell)
    if cell.training is not None:
        recover(setup, cell.untrained)
    return fill_folder(setup.pair_folder(cell), setup.pair_origin(cell), lambda out: _recover(setup, cell, out))


def measure(setup: Setup, cell: Cell) -> Record | None:
    """Does all of a cell; None where that failed: its record says why."""
    try:
        return fill_file(setup.record_file(cell.name), setup.measure_origin(cell), lambda: _measure(setup, cell))
    except StepError:
        return None


def measure_unpruned(setup: Setup, size: tuple[int, int]) -> Record:
    """Measures the unpruned network at an input size.

    Raises:
        StepError: it cannot be measured.
    """
    path = setup.record_file(f"unpruned_{size[0]}x{size[1]}")
    graph = with_input_size(read_graph(setup.cfg), *size)
    return fill_file(path, setup.unpruned_origin(*size), lambda: _figures(setup, graph, setup.weights))


def _cut(setup: Setup, cell: Cell, out: Path, jobs: int) -> dict[str, object]:
    method = method_of(cell.method)
    graph = read_graph(setup.cfg)
    session = None
    if setup.looks(cell):
        session = Session(_images(setup, cell), graph, method.finish, seed=cell.cut_seed)
    with NetworkWeights(graph, setup.weights) as weights:
        budget = parse_budget(setup.settings.budget_of, cell.budget, totals(graph, weights.header.size))
        selection, rest = method.for_budget(weights, budget, setup.settings.common)
        candidates = setup.settings.candidates if method.searches else 0
        effort = Effort(candidates, method.rounds, seed=cell.cut_seed, jobs=jobs)
        surgery = choose(weights, selection, session, rest, effort)
        _, result = write_result(surgery, out, hashes=lambda: setup.hashes)
    units, warnings = len(surgery.plan.units), list(surgery.warnings)
    return {"units": units, "after": result.after.to_json(), "warnings": warnings}


def _recover(setup: Setup, cell: Cell, out: Path) -> Mapping[str, object]:
    if cell.training is not None:
        return train(setup, cell, out)
    source = setup.cut_folder(cell)
    if cell.how == "none":
        for name in asdict(setup.files).values():
            shutil.copyfile(source / name, out / name)
        return {}
    graph = read_graph(setup.cfg)
    session = Session(_images(setup, cell), graph, cell.how, seed=cell.seed)
    with NetworkWeights(graph, setup.weights) as weights:
        plan = read_plan(source / setup.files.plan)
        surgery, done = session.recover(replay(weights, plan, setup.hashes))
        write_result(surgery, out)
        return done.to_json()


def _measure(setup: Setup, cell: Cell) -> dict[str, object]:
    recovered, first = recover(setup, cell), cut(setup, cell)
    seconds = first.seconds + recovered.seconds
    if cell.training is not None:
        seconds += recover(setup, cell.untrained).seconds
    pair = setup.pair_folder(cell)
    figures = _figures(setup, read_graph(pair / setup.files.cfg), pair / setup.files.weights)
    return {
        **asdict(cell),
        "how": cell.how,
        **figures,
        "seconds": round(seconds, 3),
        "units": first.result.get("units", 0),
        "cfg": (pair / setup.files.cfg).relative_to(setup.folder).as_posix(),
        "weights": (pair / setup.files.weights).relative_to(setup.folder).as_posix(),
    }


def _figures(setup: Setup, graph: Graph, weights: Path) -> dict[str, object]:
    _, network = load_with_any(graph, weights, setup.runner, taps=False)
    dataset = read_dataset(setup.settings.data or "", setup.settings.split, setup.settings.names)
    detector = Detector.of(graph, network.head_maps)
    found, _ = evaluate_detector(detector, dataset, loading=Loading(workers=setup.settings.workers))
    return {
        "width": graph.net.input.w,
        "height": graph.net.input.h,
        "params": graph.params,
        "macs": graph.macs,
        "bytes": os.path.getsize(weights),
        "cfg_sha256": cfg_digest(graph),
        "map50": found.map50,
        "map75": found.map75,
        "map": found.map,
    }


def cfg_digest(graph: Graph) -> str:
    """Returns the hash of a network's text, which decides how long it takes."""
    return sha256(graph.cfg.encode()).hexdigest()


def _images(setup: Setup, cell: Cell) -> Path:
    if setup.images is None:
        raise UsageError(f"{cell.name}: looks at images; give some with --images DIR (labels are not needed)")
    return setup.images
