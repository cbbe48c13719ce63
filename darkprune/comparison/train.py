"""Recovery by training: fine-tuning, and distillation from the unpruned network, as `train` and `distill` do them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from darkprune.comparison.cells import TRAINED, Cell
from darkprune.comparison.setup import Setup
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.groups import divide
from darkprune.surgery.plan_file import read_plan
from darkprune.training.data.run_data import DataRequest
from darkprune.training.distillation.distillation import PRESETS
from darkprune.training.distillation.taps import choose_taps, match_taps
from darkprune.training.distillation.teacher import Teacher
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.loop.job import Job, carry_out
from darkprune.training.loop.objective import DetectionObjective
from darkprune.training.loop.session import RunRequest

NEVER = 1 << 40  #: steps between measurements: what is compared is the end of each run, not its best moment


def train(setup: Setup, cell: Cell, out: Path) -> dict[str, Any]:
    """Trains from the pair of the untrained cell; a run that was killed goes on from its state.

    Args:
        setup: of the comparison.
        cell: one that trains.
        out: folder for the pair.

    Returns:
        Steps, images per second, and what was wrong with the data.

    Raises:
        DarkpruneError: it cannot be trained.
        KeyboardInterrupt: it was interrupted; its state is kept.
    """
    start, files = setup.pair_folder(cell.untrained), setup.files
    graph = read_graph(start / files.cfg)
    folder = RunFolder(setup.folder / "runs" / f"{cell.name}_{setup.pair_origin(cell).key[:12]}", setup.cfg.stem)
    resume = folder.state.is_file()
    unlabelled = cell.training == "distill-unlabelled"
    data = DataRequest(None if unlabelled else setup.data, None, setup.names, str(setup.images) if unlabelled else None)
    request = RunRequest(
        folder.folder,
        device=setup.device,
        workers=setup.workers,
        seed=cell.seed,
        resume=resume,
        overwrite=not resume,
        keep_every=NEVER,
        eval_every=NEVER,
        board=False,
        quiet=True,
    )
    said: list[str] = []
    weights = start / files.weights
    if cell.training == "finetune":
        job = Job(graph, weights, lambda device: DetectionObjective(graph), data, setup.changes, request)
    else:
        guide = _teacher(setup, cell, graph, labelled=not unlabelled)
        objective = partial(guide.objective, graph)
        job = Job(graph, weights, objective, data, setup.changes, request, identity=guide.identity())
    outcome = carry_out(job, said.append)
    if outcome.stopped:
        raise KeyboardInterrupt
    shutil.copyfile(folder.weights("final"), out / files.weights)
    for path in (start / files.cfg, start / files.plan, folder.folder / "log.csv"):
        shutil.copyfile(path, out / path.name)
    shutil.rmtree(folder.folder, ignore_errors=True)
    speed = outcome.images / outcome.seconds if outcome.seconds else 0.0
    return {"steps": outcome.steps, "images_per_second": round(speed, 2), "warnings": said}


def _teacher(setup: Setup, cell: Cell, student: Graph, labelled: bool) -> Teacher:
    graph = read_graph(setup.cfg)
    plan = read_plan(setup.cut_folder(cell) / setup.files.plan)
    preset = TRAINED[str(cell.training)]
    taps = match_taps(choose_taps(graph, divide(graph, "auto"), preset), graph, student, plan)
    return Teacher(graph, setup.weights, taps, PRESETS[preset], labelled)
