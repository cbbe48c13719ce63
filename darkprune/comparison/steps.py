"""The steps of a cell: cut, recovery, measurement. Each is done once; what it needs is done first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from darkprune.comparison.amounts import parse_amount
from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.comparison.setup import Setup
from darkprune.comparison.train import prune_while_training, train, train_sparsely
from darkprune.data.dataset import Dataset
from darkprune.data.samples import Samples, read_samples
from darkprune.errors import UsageError
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.graph.graph import Graph, read_graph, with_input_size
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.refit.recover import images_needed
from darkprune.refit.recover import recover as recover_surgery
from darkprune.refit.solved_layers import solved_layers
from darkprune.runners.base import load_with_any
from darkprune.runs.digests import digest_of_file
from darkprune.runs.record import Record, fill_file, fill_folder
from darkprune.scores.unit_scores import score_by_separation
from darkprune.search.choice import choose
from darkprune.search.goal import Goal
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.surgery.result import write_result
from darkprune.surgery.units import Unit, UnitScorer, score_units

MOST_LABELLED = 256  #: images that candidates or units are compared on


def prepare_start(setup: Setup, cell: Cell) -> Record | None:
    """Makes the network that a cell prunes; None where that is the given one.

    Raises:
        StepError: it cannot be made.
    """
    if not cell.start_name:
        return None
    folder = setup.sparse_folder(cell.start_name)
    return fill_folder(folder, setup.sparse_origin(cell), lambda out: train_sparsely(setup, cell, out))


def cut(setup: Setup, cell: Cell, jobs: int = 1) -> Record:
    """Makes the cut that a cell starts from: slim pair, plan and report in a folder. A search takes `jobs` processes.

    Raises:
        StepError: it cannot be made.
    """
    prepare_start(setup, cell)
    return fill_folder(setup.cut_folder(cell), setup.cut_origin(cell), lambda out: _cut(setup, cell, out, jobs))


def recover(setup: Setup, cell: Cell) -> Record:
    """Makes a cell's slim pair.

    Raises:
        StepError: it cannot be made.
    """
    cut(setup, cell)
    if cell.previous is not None:
        recover(setup, cell.previous)
    return fill_folder(setup.pair_folder(cell), setup.pair_origin(cell), lambda out: _recover(setup, cell, out))


def measure(setup: Setup, cell: Cell) -> Record:
    """Does all of a cell.

    Raises:
        StepError: that failed.
    """
    return fill_file(setup.record_file(cell.name), setup.measure_origin(cell), lambda: _measure(setup, cell))


def measure_sparse(setup: Setup, cell: Cell) -> Record:
    """Measures the network that a cell prunes, trained sparsely.

    Raises:
        StepError: that failed.
    """
    path = setup.record_file(f"sparse_{cell.start_name}")

    def work() -> dict[str, object]:
        prepare_start(setup, cell)
        cfg, weights = setup.start(cell)
        return _figures(setup, read_graph(cfg), weights)

    return fill_file(path, setup.sparse_measure_origin(cell), work)


def measure_unpruned(setup: Setup, size: tuple[int, int]) -> Record:
    """Measures the given network at an input size.

    Raises:
        StepError: it cannot be measured.
    """
    path = setup.record_file(f"unpruned_{size[0]}x{size[1]}")
    graph = with_input_size(read_graph(setup.cfg), *size)
    return fill_file(path, setup.unpruned_origin(*size), lambda: _figures(setup, graph, setup.weights))


def _cut(setup: Setup, cell: Cell, out: Path, jobs: int) -> dict[str, object]:
    method, settings = method_of(cell.method), setup.settings
    cfg, path = setup.start(cell)
    graph = read_graph(cfg)
    amount = parse_amount(settings.budget_of, cell.budget, totals(read_graph(setup.cfg)))
    if method.trains:
        return prune_while_training(setup, cell, amount, out)
    samples = _samples(setup, cell, method.finish, cell.cut_seed) if setup.looks(cell) else None
    labelled = None
    if setup.reads_labels(cell):
        labelled = setup.dataset("train")
        labelled = replace(labelled, images=labelled.images[:: -(-len(labelled) // MOST_LABELLED)])
    by_unit = _by_separation(labelled, cell.cut_seed) if labelled is not None and method.units else score_units
    hashes = setup.hashes if not cell.start_name else (digest_of_file(cfg), digest_of_file(path))
    with NetworkWeights(graph, path) as weights:
        selection, budget = method.select(weights, amount, settings.budget_of, settings.limited, by_unit)
        goal = Goal(
            budget=budget,
            recover=method.finish,
            candidates=settings.candidates if method.searches else 0,
            rounds=method.rounds,
            seed=cell.cut_seed,
            jobs=jobs,
            labelled=labelled,
        )
        surgery = choose(weights, selection, goal, samples, by_unit=by_unit)
        _, result = write_result(surgery, out, hashes=lambda: hashes)
    units, warnings = len(surgery.plan.units), list(surgery.warnings)
    return {"units": units, "after": result.after.to_json(), "warnings": warnings}


def _by_separation(dataset: Dataset, seed: int) -> UnitScorer:
    """Returns what scores units by how well they tell the classes apart: measured once, asked for many times."""
    known: dict[tuple[tuple[int, int], ...], tuple[Unit, ...]] = {}

    def score(weights: TensorSource, units: Sequence[Unit]) -> tuple[Unit, ...]:
        key = tuple((unit.first, unit.last) for unit in units)
        if key not in known:
            known[key] = score_by_separation(weights, units, dataset, seed=seed)
        return known[key]

    return score


def _recover(setup: Setup, cell: Cell, out: Path) -> Mapping[str, object]:
    if cell.previous is not None:
        return train(setup, cell, setup.pair_folder(cell.previous), out)
    source = setup.cut_folder(cell)
    if cell.repair == "none":
        for name in asdict(setup.files).values():
            if (source / name).is_file():  # pruning inside a run leaves no plan
                shutil.copyfile(source / name, out / name)
        return {}
    cfg, path = setup.start(cell)
    samples = _samples(setup, cell, cell.repair, cell.seed)
    with NetworkWeights(read_graph(cfg), path) as weights, solved_layers(setup.pair_folder(cell)) as solved:
        plan = read_plan(source / setup.files.plan)
        surgery = replay(weights, plan, (digest_of_file(cfg), digest_of_file(path)))
        surgery, done = recover_surgery(surgery, samples, cell.repair, solved=solved)
        write_result(surgery, out)
        return done.to_json()


def _measure(setup: Setup, cell: Cell) -> dict[str, object]:
    recover(setup, cell)
    first, start = cut(setup, cell), prepare_start(setup, cell)
    seconds = first.seconds + (start.seconds if start is not None else 0.0)
    seconds += sum(recover(setup, step).seconds for step in cell.chain)
    pair = setup.pair_folder(cell)
    figures = _figures(setup, read_graph(pair / setup.files.cfg), pair / setup.files.weights)
    return {
        **asdict(cell),
        "how": cell.repair,
        **figures,
        "seconds": round(seconds, 3),
        "units": first.result.get("units", 0),
        "cfg": (pair / setup.files.cfg).relative_to(setup.folder).as_posix(),
        "weights": (pair / setup.files.weights).relative_to(setup.folder).as_posix(),
    }


def _figures(setup: Setup, graph: Graph, weights: Path) -> dict[str, object]:
    _, network = load_with_any(graph, weights, setup.runner, taps=False)
    detector = Detector.of(graph, network.head_maps)
    dataset = setup.dataset(setup.settings.split)
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


def _samples(setup: Setup, cell: Cell, how: str, seed: int) -> Samples:
    if setup.images is None:
        raise UsageError(f"{cell.name}: looks at images; give some with --images DIR (labels are not needed)")
    graph = read_graph(setup.cfg)
    return read_samples(setup.images, graph, most=images_needed(how, graph), seed=seed)
