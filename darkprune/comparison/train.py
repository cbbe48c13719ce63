"""Recovery by training: fine-tuning, and distillation from the unpruned network, as `train` and `distill` do them."""

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
    student = (read_graph(start / files.cfg), start / files.weights)
    folder = RunFolder(setup.folder / "runs" / f"{cell.name}_{setup.pair_origin(cell).key[:12]}", setup.cfg.stem)
    resume = folder.state.is_file()
    settings: dict[str, Any] = {
        **vars(setup.keys),
        "names": setup.names,
        "device": setup.device,
        "workers": setup.workers,
        "seed": cell.seed,
        "resume": resume,
        "overwrite": not resume,
        "keep_every": NEVER,
        "eval_every": NEVER,
        "no_tensorboard": True,
    }
    preset = TRAINED[str(cell.training)]
    if preset is None:
        result = train_network(*student, setup.data, folder.folder, TrainSettings(**settings))
    else:
        unlabelled = cell.training == "distill-unlabelled"
        distilled = DistillSettings(
            **settings,
            data=None if unlabelled else setup.data,
            unlabelled=setup.images if unlabelled else None,
            preset=preset,
            plan=setup.cut_folder(cell) / files.plan,
        )
        teacher = (read_graph(setup.cfg), setup.weights)
        result = distil_network(teacher, student, folder.folder, distilled)
    if result.stopped:
        raise KeyboardInterrupt
    shutil.copyfile(folder.weights("final"), out / files.weights)
    for path in (start / files.cfg, start / files.plan, folder.folder / "log.csv"):
        shutil.copyfile(path, out / path.name)
    shutil.rmtree(folder.folder, ignore_errors=True)
    speed = round(result.images_per_second, 2)
    return {"steps": result.steps, "images_per_second": speed, "warnings": list(result.warnings)}
