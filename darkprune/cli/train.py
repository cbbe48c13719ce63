"""`darkprune train`: train a network on labelled images."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprune.cli.console import INTERRUPTED, add_json, add_pair, print_json, print_totals
from darkprune.cli.training_flags import (
    add_data,
    add_pruning,
    add_run,
    changes_of,
    pruning_of,
    requests_of,
)
from darkprune.errors import UsageError
from darkprune.graph.graph import Graph, read_graph, resized
from darkprune.graph.groups import PRESETS as GROUP_PRESETS
from darkprune.graph.groups import divide
from darkprune.graph.stats import totals
from darkprune.runs.provenance import write_provenance
from darkprune.runs.record import file_input
from darkprune.zoo import resolve

if TYPE_CHECKING:
    import torch

    from darkprune.network import Network
    from darkprune.training.loop.checkpoint import RunFolder
    from darkprune.training.loop.hooks import Hook
    from darkprune.training.loop.loop import Trainer
    from darkprune.training.loop.objective import Objective
    from darkprune.training.loop.outcome import Outcome
    from darkprune.training.recipe.recipe import Changes, Recipe


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser, weights_optional=True)
    parser.add_argument(
        "--backbone", metavar="F", help="start from a file of the first layers alone, such as yolov4.conv.137"
    )
    add_data(parser, required=True)
    add_run(parser)
    sparse = parser.add_argument_group("sparse training")
    sparse.add_argument(
        "--sparsity",
        choices=("constant", "dynamic"),
        help="draw γ to zero: for all channels (constant), or from --switch on less for those with the largest γ",
    )
    sparse.add_argument("--s", type=float, help="weight of Σ|γ| per step of the optimiser (default 0.00075)")
    sparse.add_argument("--switch", type=float, help="part of the run at which dynamic chooses (default 0.5)")
    sparse.add_argument("--keep-fraction", type=float, help="channels that are spared then (default 0.3)")
    sparse.add_argument("--reselect", action="store_true", help="choose them again after every epoch")
    sparse.add_argument("--no-coupled", action="store_true", help="leave convolutions joined by shortcuts alone")
    sparse.add_argument(
        "--sparsity-preset",
        choices=("yolov4", "yolov3", "mobilenet-yolov3"),
        help="published setting: s, batch, 416 pixels, 200 epochs of cosine from 0.002",
    )
    sparse.add_argument(
        "--target-ratio", type=float, help="ratio to be pruned later, for the progress line (default 0.65)"
    )
    add_pruning(parser)
    parser.add_argument(
        "--groups", default="auto", help=f"auto, {', '.join(GROUP_PRESETS)}, or ranges (histograms, --prune-to)"
    )
    add_json(parser)


def run(args: Namespace) -> int:
    """Trains."""
    from darkprune.training.loop.session import objective_of
    from darkprune.training.sparsity.sparsity import PRESETS

    preset = PRESETS[args.sparsity_preset] if args.sparsity_preset else None
    size = args.size or (str(preset.size) if preset else None)
    cfg = resolve(args.cfg)
    graph = resized(read_graph(cfg), size)
    changes = changes_of(args)
    if preset is not None:
        changes = replace(
            changes,
            batch=changes.batch or preset.batch,
            rate=changes.rate if changes.rate is not None else preset.rate,
            policy=changes.policy or "cosine",
            epochs=changes.epochs if changes.steps or changes.epochs else float(preset.epochs),
        )
    objective = objective_of(graph)
    weights = resolve(args.weights, "weights") if args.weights else None
    if args.weights and args.backbone:
        raise UsageError("give WEIGHTS or --backbone, not both")
    inputs = [cfg, *(resolve(file, "weights") for file in (args.weights, args.backbone) if file)]
    return carry_out(args, graph, weights, inputs, lambda device: objective, changes, sparsity=_sparsity(args))


def carry_out(
    args: Namespace,
    graph: Graph,
    weights: Path | None,
    inputs: list[Path],
    objective: Callable[[torch.device], Objective],
    changes: Changes,
    *,
    sparsity: Any = None,
    identity: dict[str, Any] | None = None,
) -> int:
    """Trains a network and reports.

    Args:
        args: the command line.
        graph: the network.
        weights: its starting weights; None for fresh ones.
        inputs: files that the run's folder must not hold.
        objective: makes what to minimise, for a device.
        changes: what the user wants otherwise than the cfg.
        sparsity: settings of sparse training.
        identity: what makes the run this one, besides recipe, cfg and images.

    Returns:
        The exit status.
    """
    from darkprune.training.loop import job

    def hooks(network: Network, recipe: Recipe, folder: RunFolder | None) -> list[Hook]:
        if sparsity is None:
            return []
        from darkprune.training.sparsity.sparsity import Sparsity

        return [Sparsity(network, divide(graph, args.groups), sparsity, recipe.steps, folder)]

    data, request = requests_of(args)

    def finished(trainer: Trainer, outcome: Outcome) -> None:
        read = {path.suffix[1:]: file_input(path) for path in inputs}  # of a distillation the student's
        write_provenance(trainer.options.folder.folder, read, goes_on=args.resume)
        report(args, graph, trainer, outcome)

    backbone = Path(args.backbone) if getattr(args, "backbone", None) else None
    outcome = job.carry_out(
        job.Job(graph, weights, objective, data, changes, request, inputs, backbone, hooks, identity, pruning_of(args)),
        _say,
        finished,
    )
    return INTERRUPTED if outcome.stopped else 0


def report(args: Namespace, graph: Graph, trainer: Trainer, outcome: Outcome) -> None:
    """Prints what came of a run that began with a graph."""
    from darkprune.training.gradual.gradual import GradualPruning

    before, after = totals(graph), totals(trainer.network.graph)
    folder = trainer.options.folder
    kinds = ("last", "best", "final")
    files = {kind: str(folder.weights(kind)) for kind in kinds if folder.weights(kind).is_file()}
    speed = outcome.images / outcome.seconds if outcome.seconds else 0.0
    waited = outcome.waited / outcome.seconds if outcome.seconds else 0.0
    if args.json:
        print_json(
            {
                "output": str(folder.folder),
                "cfg": str(folder.cfg),
                "weights": files,
                "steps": outcome.steps,
                "stopped": outcome.stopped,
                trainer.measured: outcome.measured,
                f"best_{trainer.measured}": outcome.best if outcome.best >= 0 else None,
                "best_step": outcome.best_step if outcome.best >= 0 else None,
                "figures": outcome.figures,
                "images_per_second": speed,
                "waited": waited,
                "unreadable": sorted(outcome.unreadable),
                "before": before.to_json(),
                "after": after.to_json(),
                "cuts": [cut for hook in trainer.hooks if isinstance(hook, GradualPruning) for cut in hook.cuts],
            }
        )
        return
    for problem in list(outcome.unreadable.values())[:20]:
        _say(f"warning: {problem}")
    if outcome.unreadable:
        _say(f"warning: {len(outcome.unreadable)} images could not be read; others took their places")
    if outcome.stopped:
        print(f"stopped after step {outcome.steps}; the same command with --resume goes on from there")
    else:
        print(f"{outcome.steps} steps, {speed:.1f} images/s, {100 * waited:.0f} % of the time waiting for data")
    if outcome.best >= 0:
        title = trainer.validation.title if trainer.validation is not None else ""
        print(f"best {title} {100 * outcome.best:.2f} % at step {outcome.best_step}")
    if after != before:
        print_totals(before, after)
    for kind, path in files.items():
        print(f"{kind:6}{path}")
    chosen = files.get("best") or files.get("final")
    if chosen is not None and not outcome.stopped:
        valid = args.valid or args.data
        on = ["eval", str(folder.cfg), chosen, "--data", valid] if valid else ["info", str(folder.cfg), chosen]
        print("next: " + shlex.join(["darkprune", *on]))


def _sparsity(args: Namespace) -> Any:
    from darkprune.training.sparsity.sparsity import PRESETS, SparsitySettings

    given = {"s": args.s, "switch": args.switch, "keep_fraction": args.keep_fraction, "ratio": args.target_ratio}
    chosen = {name: value for name, value in given.items() if value is not None}
    if args.sparsity_preset and "s" not in chosen:
        chosen["s"] = PRESETS[args.sparsity_preset].s
    if args.sparsity is None and not args.sparsity_preset:
        if chosen:
            raise UsageError(f"--{next(iter(chosen)).replace('_', '-')} belongs to --sparsity constant or dynamic")
        return None
    return SparsitySettings(
        mode=args.sparsity or "dynamic", reselect=args.reselect, coupled=not args.no_coupled, **chosen
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr)
