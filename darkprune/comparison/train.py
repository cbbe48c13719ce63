"""Training in a comparison: sparsely before the cut, pruning inside the run, and recovery after the cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from darkprune.comparison.amounts import Amount, size_kind
from darkprune.comparison.cells import TRAINED, Cell
from darkprune.comparison.setup import Setup
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.settings import Selection
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.result import TrainResult
from darkprune.training.settings import DistillSettings, TrainSettings
from darkprune.training.tasks import distil_network, train_network

NEVER = 1 << 40  #: steps between measurements: what is compared is the end of each run, not its best moment
KEPT = ("log.csv", "gamma.npz")  #: files of a run, besides its network, that stay


def train_sparsely(setup: Setup, cell: Cell, out: Path) -> dict[str, object]:
    """Trains the given network so that its γ are drawn to zero; leaves the pair, the log and the record of γ in `out`.

    Returns:
        Steps, images per second, and what is wrong with the data.
    """
    how = {**setup.settings.sparse_training, "sparsity": cell.sparsity}
    if setup.settings.highest_ratio is not None:
        how["ratio"] = setup.settings.highest_ratio

    def train(folder: Path, run: dict[str, Any]) -> TrainResult:
        run = {**run, "eval_every": None}  # for the curves of mAP
        return train_network(read_graph(setup.cfg), setup.weights, _data(setup), folder, TrainSettings(**how, **run))

    return _run(setup, f"{cell.start_name}_{setup.sparse_origin(cell).key[:12]}", cell.seed, train, out)


def prune_while_training(setup: Setup, cell: Cell, amount: Amount, out: Path) -> dict[str, object]:
    """Prunes a network step by step while it trains; leaves the slim pair in `out`.

    Returns:
        See `train_sparsely`.
    """
    cfg, weights = setup.start(cell)
    graph = read_graph(cfg)
    settings = setup.settings
    limits = settings.limited(Selection())
    how = {
        **settings.training,
        "prune_round_to": limits.round_to,
        "prune_min_channels": limits.min_channels,
        **_remaining(graph, weights, amount, size_kind(settings.budget_of), limits),
    }

    def train(folder: Path, run: dict[str, Any]) -> TrainResult:
        return train_network(graph, weights, _data(setup), folder, TrainSettings(**how, **run))

    return _run(setup, f"{cell.cut_name}_{setup.cut_origin(cell).key[:12]}", cell.cut_seed, train, out)


def train(setup: Setup, cell: Cell, previous: Path, out: Path) -> dict[str, object]:
    """Fine-tunes or distils the pair in `previous` into `out`; a run that was killed goes on from its state.

    Returns:
        See `train_sparsely`.

    Raises:
        DarkpruneError: it cannot be trained.
        KeyboardInterrupt: it was interrupted; its state is kept.
    """
    files, preset = setup.files, TRAINED[str(cell.training)]
    student = (read_graph(previous / files.cfg), previous / files.weights)
    plan = setup.cut_folder(cell) / files.plan

    def finetune(folder: Path, run: dict[str, Any]) -> TrainResult:
        return train_network(*student, _data(setup), folder, TrainSettings(**setup.settings.training, **run))

    def distil(folder: Path, run: dict[str, Any]) -> TrainResult:
        unlabelled = cell.training == "distill-unlabelled"
        settings = DistillSettings(
            **setup.settings.training,
            **run,
            data=None if unlabelled else setup.settings.data,
            unlabelled=setup.images if unlabelled else None,
            preset=preset or "objectness",
            plan=plan if plan.is_file() else None,
        )
        cfg, weights = setup.teacher
        return distil_network((read_graph(cfg), weights), student, folder, settings)

    work = finetune if preset is None else distil
    done = _run(setup, f"{cell.name}_{setup.pair_origin(cell).key[:12]}", cell.seed, work, out)
    if plan.is_file():
        shutil.copyfile(plan, out / files.plan)
    return done


def _run(
    setup: Setup, name: str, seed: int, work: Callable[[Path, dict[str, Any]], TrainResult], out: Path
) -> dict[str, object]:
    """Carries a training out in a folder of its own, and leaves its pair in `out`."""
    folder = RunFolder(setup.folder / "runs" / name, setup.cfg.stem)
    resume = folder.state.is_file()
    run = {
        "names": setup.settings.names,
        "device": setup.settings.device,
        "workers": setup.settings.workers,
        "seed": seed,
        "resume": resume,
        "overwrite": not resume,
        "keep_every": NEVER,
        "eval_every": NEVER,
        "no_tensorboard": True,
    }
    result = work(folder.folder, run)
    if result.stopped:
        raise KeyboardInterrupt
    shutil.copyfile(folder.weights("final"), out / setup.files.weights)
    shutil.copyfile(folder.cfg, out / setup.files.cfg)
    for kept in KEPT:
        if (folder.folder / kept).is_file():
            shutil.copyfile(folder.folder / kept, out / kept)
    folder.remove()
    speed = round(result.images_per_second, 2)
    return {"steps": result.steps, "images_per_second": speed, "warnings": list(result.warnings)}


def _data(setup: Setup) -> str:
    return str(setup.settings.data)


def _remaining(graph: Graph, weights: Path, amount: Amount, kind: str, limits: Selection) -> dict[str, object]:
    """Returns what to keep, as training takes it: a fraction of the channels, the operations or the parameters."""
    if amount.ratio:
        return {"prune_to": 1 - amount.ratio, "prune_of": "channels"}
    with NetworkWeights(graph, weights) as opened:
        budget = amount.as_budget(opened, kind, limits)
        whole = budget.of(totals(graph, opened.header.size))
    return {"prune_to": budget.target / whole, "prune_of": "macs" if budget.kind == "macs" else "params"}
