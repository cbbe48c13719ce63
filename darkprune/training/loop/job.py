"""One run of training from end to end, for the commands that train: folder, data, recipe, network, loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darkprune.graph.graph import Graph
from darkprune.network import Network
from darkprune.training.data.run_data import DataRequest, Say, open_data
from darkprune.training.gradual.gradual import GradualPruning
from darkprune.training.gradual.timetable import GradualSettings, make_timetable, to_plain
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.loop.distributed import join_ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.loop import Trainer
from darkprune.training.loop.objective import Objective
from darkprune.training.loop.outcome import Outcome
from darkprune.training.loop.session import (
    RunRequest,
    choose_device,
    make_recipe,
    make_trainer,
    open_folder,
    open_network,
)
from darkprune.training.recipe.recipe import Changes, Recipe

#: called with network, recipe and the run's folder (None in all processes but the first), makes what else happens
MakeHooks = Callable[[Network, Recipe, RunFolder | None], Sequence[Hook]]


@dataclass(frozen=True)
class Job:
    """What is to be trained, on what, and how.

    Attributes:
        graph: the network.
        weights: its starting weights; None for fresh ones.
        backbone: a file of the first layers alone instead, or None.
        objective: makes what to minimise, for a device.
        data: where the images are.
        changes: what is wanted otherwise than the cfg says.
        request: how the run is to go.
        inputs: files that the run's folder must not hold.
        hooks: makes what else happens.
        identity: what makes the run this one, besides recipe, cfg, images and pruning.
        gradual: how to prune inside the run; None for not.
    """

    graph: Graph
    weights: Path | None
    objective: Callable[[torch.device], Objective]
    data: DataRequest
    changes: Changes
    request: RunRequest
    inputs: Sequence[Path] = ()
    backbone: Path | None = None
    hooks: MakeHooks = lambda network, recipe, folder: ()
    identity: dict[str, Any] | None = None
    gradual: GradualSettings | None = None


def carry_out(job: Job, say: Say, report: Callable[[Trainer, Outcome], None] | None = None) -> Outcome:
    """Trains; under `torchrun` every process calls this.

    Args:
        job: the job.
        say: takes messages for the user.
        report: called in the first process alone when the run has ended.

    Raises:
        DarkpruneError: of whatever cannot be read, trained or written.
    """
    graph, request = job.graph, job.request
    ranks = join_ranks(choose_device(request.device).type == "cuda")
    try:
        device = choose_device(request.device, ranks.local)
        stem = Path(graph.cfg.source).stem
        folder = open_folder(request, stem, job.inputs) if ranks.first else None
        ranks.wait()
        data = open_data(job.data, graph, say if ranks.first else lambda message: None)
        recipe = make_recipe(graph, data, job.changes, request, ranks, device)
        network = open_network(graph, job.weights, device, request.seed, job.backbone)
        hooks, identity = list(job.hooks(network, recipe, folder)), dict(job.identity or {})
        if job.gradual is not None:
            stages = make_timetable(job.gradual, recipe.epoch_steps, recipe.steps)
            hooks.append(GradualPruning(network, job.gradual, stages, ranks))
            identity["pruning"] = to_plain(job.gradual, stages)
        trainer = make_trainer(
            network, job.objective(device), data, recipe, request, folder or RunFolder(request.output, stem), ranks,
            hooks=hooks, identity=identity, strict=job.data.strict,
        )  # fmt: skip
        outcome = trainer.run()
        if ranks.first and report is not None:
            report(trainer, outcome)
    finally:
        ranks.close()
    return outcome
