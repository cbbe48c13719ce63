"""The two training tasks: on labels, and from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from darkprune.errors import UsageError
from darkprune.graph.classes import with_classes
from darkprune.graph.graph import Graph, resized
from darkprune.graph.groups import divide
from darkprune.layers.heads import Detection
from darkprune.network import Network
from darkprune.runs.digests import digest_of_file, plain
from darkprune.settings import PathLike
from darkprune.surgery.plan import Plan
from darkprune.surgery.plan_file import read_plan
from darkprune.training.data.classifier import ClassifierObjective
from darkprune.training.distillation.distillation import DistillationObjective
from darkprune.training.distillation.taps import choose_taps, match_taps, parse_taps, with_channels
from darkprune.training.distillation.terms import terms_of
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.loop.distributed import Ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.objective import DetectionObjective, Objective
from darkprune.training.loop.start import Start, find_start, open_network
from darkprune.training.presets import with_preset
from darkprune.training.recipe.recipe import Recipe
from darkprune.training.result import TrainResult
from darkprune.training.run import Task, run_task
from darkprune.training.settings import DistillSettings, TrainSettings
from darkprune.training.sparsity.sparsity import Sparsity


def train_network(
    graph: Graph,
    weights: Path | None,
    data: PathLike,
    output: Path,
    settings: TrainSettings,
) -> TrainResult:
    """Trains a network on labelled images.

    Args:
        weights: its starting weights; None for fresh ones.
        data: images in any form that `read_dataset` knows, or a classifier's .data file.

    Raises:
        DarkpruneError: something cannot be read, trained or written.
    """
    settings = with_preset(settings, graph)
    stored = resized(graph, settings.size)
    graph = with_classes(stored, settings.classes)
    backbone = Path(settings.backbone) if settings.backbone is not None else None
    if weights is not None and backbone is not None:
        raise UsageError("give WEIGHTS or --backbone, not both")
    start = Start(backbone=backbone, seed=settings.seed)
    if weights is not None:
        start = find_start(graph, weights, stored, settings.seed)
    objective = _objective_of(graph)  # refuses before a folder is made

    def hooks(network: Network, recipe: Recipe, folder: RunFolder | None) -> list[Hook]:
        if settings.sparsity is None:
            return []
        return [Sparsity(network, settings, recipe, folder)]

    task = Task(
        graph=graph,
        start=start,
        data=data,
        objective=lambda device, ranks: objective,
        hooks=hooks,
        inputs=_inputs({"cfg": Path(graph.cfg.source), "weights": weights, "backbone": backbone}),
    )
    return run_task(task, output, settings)


def distil_network(
    teacher: tuple[Graph, Path],
    student: tuple[Graph, Path],
    output: Path,
    settings: DistillSettings,
    *,
    plan: Plan | None = None,
) -> TrainResult:
    """Trains a pruned network to compute what its original does.

    Args:
        plan: what the student was cut by; `settings.plan` is taken first.

    Raises:
        DarkpruneError: something cannot be read, trained or written.
    """
    graph = resized(student[0], settings.size)
    original = resized(teacher[0], f"{graph.net.input.w}x{graph.net.input.h}")
    plan = _plan_of(student[0], settings, plan)
    if settings.taps:
        chosen = parse_taps(settings.taps, len(original))
    else:
        chosen = choose_taps(original, divide(original, settings.groups), settings.preset)
    terms, labelled = terms_of(settings), settings.unlabelled is None
    taps = match_taps(chosen, original, graph, plan)
    if terms.maps == "features":
        taps = with_channels(taps, original, graph, plan)

    def objective(device: torch.device, ranks: Ranks) -> Objective:
        network = open_network(original, Start(weights=teacher[1]), device).fuse()
        hard = DetectionObjective(graph) if labelled else None
        return DistillationObjective(graph, network, taps, terms, hard, ranks.share)

    if labelled:
        DetectionObjective(graph)  # refuses before a folder is made
    elif settings.frozen_bn is None:
        settings = replace(settings, frozen_bn=True)
    task = Task(
        graph=graph,
        start=Start(weights=student[1]),
        data=settings.data,
        unlabelled=settings.unlabelled,
        objective=objective,
        inputs=_inputs(
            {
                "cfg": Path(graph.cfg.source),
                "weights": student[1],
                "teacher cfg": Path(original.cfg.source),
                "teacher weights": teacher[1],
            }
        ),
        identity={
            "teacher": digest_of_file(teacher[1]),
            "taps": [[tap.teacher, tap.student, tap.weight] for tap in taps],
            "distillation": plain(terms),
        },
    )
    return run_task(task, output, settings)


def _plan_of(student: Graph, settings: DistillSettings, known: Plan | None) -> Plan | None:
    """Finds the plan that a student was cut by: the one that is given, or the file beside its cfg."""
    if settings.plan is not None:
        return read_plan(Path(settings.plan))
    beside = Path(student.cfg.source).with_name("plan.json")
    return known or (read_plan(beside) if beside.is_file() else None)


def _objective_of(graph: Graph) -> Objective:
    """Returns the loss that a network asks for: of its detection heads, or of its [softmax].

    Raises:
        TrainingError: it has neither.
        CfgError: a training key that makes no sense.
    """
    if graph.heads or any(isinstance(layer.kind, Detection) for layer in graph):
        return DetectionObjective(graph)
    return ClassifierObjective(graph)


def _inputs(files: Mapping[str, Path | None]) -> dict[str, Path]:
    return {role: path for role, path in files.items() if path is not None}
