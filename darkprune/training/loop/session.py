"""Putting a run together: network, data, checks and folder, from what the user gave."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from darkprune.darknet.output import check_folder
from darkprune.darknet.weights import WeightsFile
from darkprune.data.dataset import Dataset
from darkprune.errors import OutputError, TrainingError, UsageError, WeightsError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights, stored_tensors
from darkprune.layers.heads import Detection
from darkprune.network import Network, initialise, load_weights, tensor_of
from darkprune.training.data.batches import BatchLoader, BatchPlan, default_workers
from darkprune.training.data.classifier import ClassifierObjective, CropMaker, Crops
from darkprune.training.data.examples import ExampleMaker
from darkprune.training.data.run_data import RunData
from darkprune.training.loop.checkpoint import STATE, RunFolder
from darkprune.training.loop.distributed import Ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.loop import Trainer
from darkprune.training.loop.objective import DetectionObjective, Objective
from darkprune.training.loop.outcome import RunOptions
from darkprune.training.loop.validation import Measure, Validation
from darkprune.training.recipe.recipe import Changes, Precision, Recipe, read_recipe

CACHE_SHARE = 0.1  #: of the memory, for decoded images
FEWEST_STEPS_BETWEEN_MEASUREMENTS = 100


@dataclass(frozen=True)
class RunRequest:
    """How the run is to go.

    Attributes:
        output: its folder.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        precision: of the forward pass; None: fp16 on GPUs, full elsewhere.
        workers: processes that make batches; None: one per core.
        seed: of everything random.
        freeze: number of first layers that stay as they are.
        resume, overwrite: what to do with a folder that holds a run.
        save_every, keep_every, eval_every: see `RunOptions`; None for defaults.
        cache: keep decoded images in memory where they fit.
        board: write TensorBoard events where it is installed.
        quiet: show nothing.
    """

    output: Path
    device: str = "auto"
    precision: Precision | None = None
    workers: int | None = None
    seed: int = 0
    freeze: int = 0
    resume: bool = False
    overwrite: bool = False
    save_every: int = 100
    keep_every: int | None = None
    eval_every: int | None = None
    cache: bool = True
    board: bool = True
    quiet: bool = False


def choose_device(text: str, local: int = 0) -> torch.device:
    """Returns the device to train on.

    Raises:
        UsageError: it does not exist here.
    """
    if text == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(text)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {text[:40]}: {(str(error).splitlines() or ['?'])[0][:100]}") from None
    return device


def open_network(
    graph: Graph, weights: Path | None, device: torch.device, seed: int, backbone: Path | None = None
) -> Network:
    """Makes a network with the weights of a file, or fresh ones.

    Args:
        graph: the network.
        weights: a whole file; None for fresh weights.
        device: where to put it.
        seed: of fresh weights.
        backbone: a file of the first layers alone (`darknet partial`, such as yolov4.conv.137); the others are fresh.

    Raises:
        WeightsError: a file does not fit.
        TrainingError: a layer that cannot be trained here, or weights that are no numbers.
    """
    network = Network(graph, channels_last=device.type == "cuda" and graph.net.input.is_map)
    initialise(network, seed)  # also what `dontload` keeps out of a file
    if weights is not None:
        with NetworkWeights(graph, weights) as stored:
            load_weights(network, stored)
            bad = stored.non_finite()
        if bad:
            raise TrainingError(f"{weights}: {bad[0]}; training cannot start from it")
    elif backbone is not None:
        _load_backbone(network, backbone)
    return network.to(device)


def _load_backbone(network: Network, path: Path) -> None:
    """Loads the layers that a partial file holds: it has to end where a layer ends."""
    tensors = stored_tensors(network.graph)
    with WeightsFile(path, tensors) as file:
        ends = [blob.offset + 4 * blob.floats for blob in file.blobs.values()]
        held = [place for place, end in zip(tensors, ends, strict=True) if end <= file.size]
        whole = len(held) == len(tensors) or (bool(held) and tensors[len(held)][0] != held[-1][0])
        if not held or not whole or ends[len(held) - 1] != file.size:
            layer = tensors[min(len(held), len(tensors) - 1)][0]
            raise WeightsError(
                f"{path}: {file.size} bytes end inside layer {layer} of {network.graph.cfg.source}; "
                "a partial file has to hold whole layers of the same network"
            )
        with torch.no_grad():
            for layer, name, _ in held:
                tensor_of(network, layer, name).copy_(torch.from_numpy(file.read(layer, name)))


def objective_of(graph: Graph) -> Objective:
    """Returns the loss that a network asks for: of its detection heads, or of its [softmax].

    Raises:
        TrainingError: it has neither.
        CfgError: a training key that makes no sense.
    """
    if graph.heads or any(isinstance(layer.kind, Detection) for layer in graph):
        return DetectionObjective(graph)
    return ClassifierObjective(graph)


def open_folder(request: RunRequest, stem: str, inputs: Sequence[Path]) -> RunFolder:
    """Makes the run's folder, or finds the one to go on with.

    Raises:
        OutputError: it exists without `resume` or `overwrite`, holds an input, or cannot be written.
        TrainingError: there is no run to resume.
    """
    folder = RunFolder(request.output, stem)
    if request.resume:
        if not folder.state.is_file():
            raise TrainingError(f"{request.output}: has no {STATE} to go on from; leave out --resume to start")
        return folder
    check_folder(request.output, inputs, request.overwrite)
    try:
        request.output.mkdir(parents=True, exist_ok=True)
        for name in (STATE, "log.csv"):
            (request.output / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{request.output}: cannot be written ({error.strerror})") from None
    return folder


def make_recipe(
    graph: Graph, data: RunData, changes: Changes, request: RunRequest, ranks: Ranks, device: torch.device
) -> Recipe:
    """Puts cfg and wishes together; see `read_recipe`."""
    recipe = read_recipe(graph, len(data.images), changes, ranks=ranks.count, seed=request.seed, freeze=request.freeze)
    precision = request.precision or ("fp16" if device.type == "cuda" else "full")
    if precision == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 needs a GPU; the CPU can do bf16")
    return replace(recipe, precision=precision)


def make_trainer(
    network: Network,
    objective: Objective,
    data: RunData,
    recipe: Recipe,
    request: RunRequest,
    folder: RunFolder,
    ranks: Ranks,
    *,
    hooks: Sequence[Hook] = (),
    identity: dict[str, Any] | None = None,
    strict: bool = False,
) -> Trainer:
    """Makes the trainer.

    Args:
        network: on its device.
        objective: what to minimise.
        data: images.
        recipe: what decides the result.
        request: how the user wants it carried out.
        folder: of the run.
        ranks: processes.
        hooks: what else happens.
        identity: what makes the run this one, besides recipe, cfg and images.
        strict: stop at the first image that cannot be read.
    """
    device = next(network.parameters()).device
    if request.cache:
        data.images.keep_in_memory(int(CACHE_SHARE * _memory()))
    maker = ExampleMaker(data.images, recipe.augmentation, strict)
    if not network.graph.heads:
        maker = CropMaker(data.images, recipe.augmentation, strict, Crops.read(network.graph))
    plan = BatchPlan(recipe.batch, recipe.parts, recipe.steps, recipe.seed, recipe.sizes, ranks.rank, ranks.count)
    workers = default_workers() if request.workers is None else request.workers
    loader = BatchLoader(maker, plan, workers, pin=device.type == "cuda")
    validation: Measure | None = None
    if isinstance(data.validation, Dataset):
        validation = Validation(data.validation, batch=max(1, min(16, plan.part)), workers=max(1, workers))
    elif data.validation is not None:
        validation = replace(data.validation, batch=max(1, min(16, plan.part)))
    every = request.eval_every or -(-FEWEST_STEPS_BETWEEN_MEASUREMENTS // recipe.epoch_steps) * recipe.epoch_steps
    keep = request.keep_every or (1000 if recipe.steps < 10_000 else 10_000)
    options = RunOptions(
        folder, request.save_every, keep, every, request.resume, request.board, request.quiet or not ranks.first
    )
    whole = {
        "cfg": hashlib.sha256(network.graph.cfg.encode()).hexdigest(),
        "images": data.digest,
        **(identity or {}),
    }
    return Trainer(
        network,
        objective,
        loader,
        recipe,
        options,
        ranks=ranks,
        validation=validation,
        hooks=hooks,
        identity=whole,
        sparse=any(hook.name == "sparsity" for hook in hooks),
    )


def _memory() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
