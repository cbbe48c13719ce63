"""Adds the stages of a run that train: sparsely, by distillation, by fine-tuning."""

from __future__ import annotations

from darkprune.compression import stages
from darkprune.compression.estimate import cost_of_training
from darkprune.compression.network import RunNetwork
from darkprune.compression.run import CHOSEN, Compression
from darkprune.compression.settings import (
    RECIPE,
    SPARSE_EPOCHS,
    TUNE_EPOCHS,
    UNLABELLED_EPOCHS,
    UNLABELLED_RATE,
    steps_for,
)
from darkprune.errors import UsageError
from darkprune.runs.stages import FileSource
from darkprune.selection.reach import uniform_ratio
from darkprune.training.settings import DistillSettings, TrainSettings


def add_sparse_training(run: Compression) -> RunNetwork:
    """Adds training that prepares the original for pruning."""
    length = steps_for(SPARSE_EPOCHS, run.available.train_count)
    defaults = {**RECIPE, "iterations": length, "sparsity": "dynamic", **_target(run)}
    return _train(run, "sparse", run.original, "sparse", defaults)


def add_finetuning(run: Compression, before: RunNetwork, way: str = "") -> None:
    """Adds training of a slim network on labels."""
    length = steps_for(TUNE_EPOCHS, run.available.train_count)
    _train(run, "finetune", before, "finetuned", {**RECIPE, "iterations": length}, way)


def _train(
    run: Compression, stage: str, before: RunNetwork, name: str, defaults: dict[str, object], way: str = ""
) -> RunNetwork:
    """Adds training on labels."""
    data = run.available.train
    assert data is not None
    read, paths = _labels(run)
    settings = run.settings.of_stage(stage, TrainSettings, defaults, **paths)
    cost = cost_of_training(settings, run.available.train_count, run.share(before))
    made = run.new_network(before, name, stage, "_final", way)
    run.add(stages.training(before, made, data, read, settings), cost)
    return made


def _target(run: Compression) -> dict[str, object]:
    """Returns what sparse training prepares for: the share of channels that will go, and the layers that stay."""
    cut, budget = run.prune_settings, run.budget
    found: dict[str, object] = {"exclude": list(cut.exclude)} if cut.exclude else {}
    if cut.ratio is not None:
        found["ratio"] = cut.ratio
    elif budget is not None:
        with run.original.pair().open() as weights:
            found["ratio"] = round(uniform_ratio(weights, cut.selection(), budget), 3)
    return found


def add_distillation(run: Compression, student: RunNetwork, way: str = "") -> None:
    """Adds learning of a slim network from the original."""
    available, teacher = run.available, run.original
    read, paths = _labels(run)
    defaults: dict[str, object] = dict(RECIPE)
    images: FileSource
    if available.train is not None:
        images, role, count = available.train, "data", available.train_count
        defaults["iterations"] = steps_for(TUNE_EPOCHS, count)
    elif available.learn is not None:
        images, role, count = available.learn, "unlabelled", len(available.learn.lines)
        defaults |= {"iterations": steps_for(UNLABELLED_EPOCHS, count), "lr": UNLABELLED_RATE}
        read, paths = (read, paths) if available.valid is not None else ([], {})
    else:
        raise UsageError("[distill] learns from images: give some with --images DIR or --data F")
    if student.name == CHOSEN:  # may be one that was not pruned
        plan = FileSource("plan", student.cfg.with_name("plan.json"))
    else:
        plan = FileSource("plan", run.folder / f"pruned {way}".rstrip().replace(" ", "-") / "plan.json")
        read.append(plan)
    paths = {**paths, "plan": str(plan.path), role: str(images.path)}
    settings = run.settings.of_stage("distill", DistillSettings, defaults, **paths)
    made = run.new_network(student, "distilled", "distill", "_final", way)
    cost = cost_of_training(settings, count, run.share(student), True)
    run.add(stages.distillation(teacher, student, made, [images, *read], settings), cost)


def _labels(run: Compression) -> tuple[list[FileSource], dict[str, str]]:
    """Returns the labelled images to measure on and the names as sources, and as settings of training."""
    available = run.available
    valid = None if available.valid is available.train else available.valid
    found = [source for source in (available.names, valid) if source is not None]
    return list(found), {source.role: str(source.path) for source in found}
