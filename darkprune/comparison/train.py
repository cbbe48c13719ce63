"""Recovery by training: fine-tuning, and distillation from the unpruned network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from darkprune.comparison.cells import TRAINED, Cell
from darkprune.comparison.setup import Setup
from darkprune.graph.graph import read_graph
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.settings import DistillSettings, TrainSettings
from darkprune.training.tasks import distil_network, train_network

NEVER = 1 << 40  #: steps between measurements: what is compared is the end of each run, not its best moment


def train(setup: Setup, cell: Cell, out: Path) -> dict[str, object]:
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
    start, files, settings = setup.pair_folder(cell.untrained), setup.files, setup.settings
    student = (read_graph(start / files.cfg), start / files.weights)
    folder = RunFolder(setup.folder / "runs" / f"{cell.name}_{setup.pair_origin(cell).key[:12]}", setup.cfg.stem)
    resume = folder.state.is_file()
    how: dict[str, Any] = {
        **settings.training,
        "names": settings.names,
        "device": settings.device,
        "workers": settings.workers,
        "seed": cell.seed,
        "resume": resume,
        "overwrite": not resume,
        "keep_every": NEVER,
        "eval_every": NEVER,
        "no_tensorboard": True,
    }
    preset = TRAINED[str(cell.training)]
    if preset is None:
        result = train_network(*student, settings.data or "", folder.folder, TrainSettings(**how))
    else:
        unlabelled = cell.training == "distill-unlabelled"
        distillation = DistillSettings(
            **how,
            data=None if unlabelled else settings.data,
            unlabelled=setup.images if unlabelled else None,
            preset=preset,
            plan=setup.cut_folder(cell) / files.plan,
        )
        result = distil_network((read_graph(setup.cfg), setup.weights), student, folder.folder, distillation)
    if result.stopped:
        raise KeyboardInterrupt
    shutil.copyfile(folder.weights("final"), out / files.weights)
    for path in (start / files.cfg, start / files.plan, folder.folder / "log.csv"):
        shutil.copyfile(path, out / path.name)
    shutil.rmtree(folder.folder, ignore_errors=True)
    speed = round(result.images_per_second, 2)
    return {"steps": result.steps, "images_per_second": speed, "warnings": list(result.warnings)}
