"""A training run from end to end: folder, data, recipe, network, loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from darkprune.darknet.output import check_folder
from darkprune.data.dataset import Dataset
from darkprune.errors import OutputError, TrainingError
from darkprune.graph.classes import names_to_copy
from darkprune.graph.graph import Graph
from darkprune.graph.stats import totals
from darkprune.network import Network
from darkprune.progress import reporting, say, silent
from darkprune.runs.lock import locked
from darkprune.runs.provenance import write_provenance
from darkprune.runs.record import file_input
from darkprune.settings import PathLike
from darkprune.training.data.batches import BatchLoader, default_workers
from darkprune.training.data.classifier import CropMaker, Crops
from darkprune.training.data.examples import ExampleMaker
from darkprune.training.data.run_data import RunData, open_data
from darkprune.training.gradual.gradual import GradualPruning, make_timetable
from darkprune.training.loop.checkpoint import STATE, WEIGHTS, RunFolder, restoring
from darkprune.training.loop.distributed import Ranks, join_ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.loop import Outcome, Trainer
from darkprune.training.loop.memory import free_memory, parts_that_fit
from darkprune.training.loop.objective import Objective
from darkprune.training.loop.start import Start, choose_device, fresh_warnings, open_network
from darkprune.training.loop.step import Stepper
from darkprune.training.loop.validation import Validation, Validator
from darkprune.training.recipe.recipe import FEWEST_IMAGES, Recipe, read_recipe
from darkprune.training.result import TrainResult
from darkprune.training.settings import RunSettings

CACHE_SHARE = 0.2  #: of the free memory, for decoded images
SHOWN_UNREADABLE = 20

#: makes hooks from network, recipe and the run's folder (None in all processes but the first)
MakeHooks = Callable[[Network, Recipe, RunFolder | None], Sequence[Hook]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a run trains.

    Attributes:
        graph: the network.
        start: its starting weights.
        data: labelled images, see `open_data`.
        unlabelled: images without labels to train on instead.
        objective: makes what to minimise, for a device and the processes.
        hooks: makes what else happens.
        inputs: files that are read, by role; the run's folder must not hold them.
        identity: what makes the run this one, besides recipe, cfg, images and pruning.
    """

    graph: Graph
    start: Start
    data: PathLike | None
    unlabelled: PathLike | None = None
    objective: Callable[[torch.device, Ranks], Objective]
    hooks: MakeHooks = lambda network, recipe, folder: ()
    inputs: Mapping[str, Path] = field(default_factory=dict)
    identity: Mapping[str, object] = field(default_factory=dict)


def run_task(task: Task, output: Path, settings: RunSettings) -> TrainResult:
    """Trains; under `torchrun` every process calls this, and the first one reports progress.

    Raises:
        DarkpruneError: something cannot be read, trained or written.
    """
    ranks = join_ranks(choose_device(settings.device).type == "cuda")
    try:
        with nullcontext() if ranks.first else reporting(silent):
            return _run(task, output, settings, ranks)
    finally:
        ranks.close()


def _run(task: Task, output: Path, settings: RunSettings, ranks: Ranks) -> TrainResult:
    graph = task.graph
    device = choose_device(settings.device, ranks.local)
    folder = RunFolder(output, Path(graph.cfg.source).stem)
    if ranks.first:
        _check_folder(folder, list(task.inputs.values()), settings)
    ranks.wait()
    data = open_data(graph, task.data, settings, unlabelled=task.unlabelled)
    recipe = read_recipe(graph, len(data.images), settings, ranks=ranks.count, cuda=device.type == "cuda")
    if settings.subdivisions is None:
        recipe = _within_memory(recipe, graph, folder, ranks, settings.resume, device)
    warnings = (*graph.warnings, *data.warnings, *_small_parts(recipe, settings, ranks))
    warnings = (*warnings, *fresh_warnings(graph, task.start))
    _warn(warnings)
    say(f"training: {recipe.batch_in_words}")
    network = open_network(graph, task.start, device)
    hooks = list(task.hooks(network, recipe, folder if ranks.first else None))
    if settings.prune_to is not None:
        hooks.append(_gradual(network, recipe, settings, ranks))
    stepper = Stepper(
        network=network,
        objective=task.objective(device, ranks),
        recipe=recipe,
        ranks=ranks,
        hooks=hooks,
        paths=data.images.paths,
    )
    trainer = make_trainer(stepper, data, folder, settings, task.identity)
    with locked(output) if ranks.first else nullcontext():
        if ranks.first:
            _prepare_folder(folder, task, settings.resume)
            _write_names(folder, task, settings, data)
        trainer.run()
    unreadable = _unreadable(trainer.outcome)
    _warn(unreadable)
    return _result(trainer, graph, (*warnings, *unreadable))


def make_trainer(
    stepper: Stepper, data: RunData, folder: RunFolder, settings: RunSettings, identity: Mapping[str, object]
) -> Trainer:
    """Connects what does the steps with images, files and measurements.

    Args:
        identity: what makes the run this one, besides recipe, cfg and images.
    """
    recipe, ranks, graph = stepper.recipe, stepper.ranks, stepper.network.graph
    if not settings.no_cache:
        data.images.keep_in_memory(int(CACHE_SHARE * (free_memory(torch.device("cpu")) or 0)))
    maker = ExampleMaker(data.images, recipe.augmentation, settings.strict)
    if not graph.heads:
        maker = CropMaker(data.images, recipe.augmentation, settings.strict, Crops.read(graph))
    workers = default_workers() if settings.workers is None else settings.workers
    at_a_time = max(1, min(16, recipe.part))
    validation: Validator | None = None
    if isinstance(data.validation, Dataset):
        validation = Validation(data.validation, batch=at_a_time, workers=max(1, workers))
    elif data.validation is not None:
        validation = replace(data.validation, batch=at_a_time)
    whole = {"cfg": hashlib.sha256(graph.cfg.encode()).hexdigest(), "images": data.digest, **identity}
    for hook in stepper.hooks:
        if isinstance(hook, GradualPruning):
            whole[hook.name] = hook.identity
    return Trainer(
        stepper=stepper,
        loader=BatchLoader(
            maker, recipe.batch_plan(ranks.rank, ranks.count), workers, pin=stepper.device.type == "cuda"
        ),
        folder=folder,
        settings=settings,
        validation=validation,
        identity=whole,
    )


def _check_folder(folder: RunFolder, inputs: Sequence[Path], settings: RunSettings) -> None:
    """Refuses a folder before any work is done.

    Raises:
        OutputError: it exists without `resume` or `overwrite`, holds an input, or cannot be written.
        TrainingError: there is no run to resume.
    """
    if not settings.resume:
        check_folder(folder.folder, inputs, settings.overwrite, in_use=True)
    elif not folder.state.is_file():
        raise TrainingError(f"{folder.folder}: has no {STATE} to resume from; leave out --resume to start")


def _prepare_folder(folder: RunFolder, task: Task, resume: bool) -> None:
    """Removes the files of an earlier run that is not resumed, and writes what this one reads."""
    if not resume:
        old = (folder.state, folder.folder / "log.csv", *(folder.weights(kind) for kind in WEIGHTS))
        try:
            for path in old:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{folder.folder}: cannot be written ({error.strerror})") from None
    read = {role: file_input(path) for role, path in task.inputs.items()}
    write_provenance(folder.folder, read, goes_on=resume)


def _write_names(folder: RunFolder, task: Task, settings: RunSettings, data: RunData) -> None:
    """Puts the names of the classes beside the cfg; those of the old network do not fit where the classes differ."""
    if settings.names is None and not data.class_names and task.start.graph is not None:
        return
    names = names_to_copy(task.graph, settings.names, data.class_names)
    if names is not None:
        folder.write_names(names)


def _within_memory(
    recipe: Recipe, graph: Graph, folder: RunFolder, ranks: Ranks, resume: bool, device: torch.device
) -> Recipe:
    """Divides steps into more parts where memory needs it; a resumed run keeps its parts."""
    parts = recipe.parts
    if ranks.first:
        if resume:
            with restoring(folder.state):
                before = folder.read_state()["identity"]["recipe"]
                parts = before["parts"] if before["batch"] == recipe.batch else parts
        else:
            parts = parts_that_fit(graph, recipe, device, ranks.count)
    return replace(recipe, parts=int(ranks.share(parts)))


def _small_parts(recipe: Recipe, settings: RunSettings, ranks: Ranks) -> list[str]:
    """Returns a warning where batch normalisation sees fewer images than it should, and nobody asked for that."""
    wanted = min(recipe.batch, FEWEST_IMAGES)
    if settings.subdivisions is not None or recipe.frozen_bn or recipe.part >= wanted:
        return []
    if recipe.part == recipe.batch // ranks.count:
        reason = f"{ranks.count} processes share the batch (a larger --batch would help)"
    else:
        reason = "memory is short (a smaller --size, or --precision bf16, would help)"
    return [f"batch normalisation sees {recipe.part} images at a time instead of {wanted}: {reason}"]


def _gradual(network: Network, recipe: Recipe, settings: RunSettings, ranks: Ranks) -> GradualPruning:
    """Makes the hook that prunes inside the run; frozen layers keep all their channels."""
    kept = replace(settings, prune_exclude=(*settings.prune_exclude, *range(settings.freeze)))
    return GradualPruning(network, kept, make_timetable(kept, recipe.epoch_steps, recipe.steps), ranks)


def _warn(warnings: Iterable[str]) -> None:
    for text in warnings:
        say(f"warning: {text}")


def _unreadable(outcome: Outcome) -> list[str]:
    """Returns which images could not be read."""
    found = list(map(str, outcome.unreadable.values()))
    if not found:
        return []
    return [*found[:SHOWN_UNREADABLE], f"{len(found)} images could not be read; others took their places"]


def _result(trainer: Trainer, before: Graph, warnings: tuple[str, ...]) -> TrainResult:
    outcome, folder, recipe = trainer.outcome, trainer.folder, trainer.recipe
    measured = outcome.best >= 0
    return TrainResult(
        output=folder.folder,
        cfg=folder.cfg,
        weights={kind: path for kind in WEIGHTS if (path := folder.weights(kind)).is_file()},
        steps=outcome.steps,
        stopped=outcome.stopped,
        measure=trainer.measure,
        measured=outcome.measured,
        best=outcome.best if measured else None,
        best_step=outcome.best_step if measured else None,
        batch=recipe.batch,
        part=recipe.part,
        figures=outcome.figures,
        images_per_second=outcome.images / outcome.seconds if outcome.seconds else 0.0,
        waited=outcome.waited / outcome.seconds if outcome.seconds else 0.0,
        unreadable=tuple(sorted(outcome.unreadable)),
        before=totals(before),
        after=totals(trainer.network.graph),
        cuts=tuple(cut for hook in trainer.hooks if isinstance(hook, GradualPruning) for cut in hook.cuts),
        warnings=warnings,
    )
