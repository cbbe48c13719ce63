"""`darkprune train`: train a network on labelled images."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace

from darkprune.api.pair import load
from darkprune.api.train import train
from darkprune.cli.console import INTERRUPTED, add_json, add_pair, print_result, print_totals
from darkprune.cli.flags import add_flags, read_flags
from darkprune.settings import PathLike
from darkprune.training.result import TrainResult
from darkprune.training.settings import RunSettings, TrainSettings

MEASURES = {"map50": "mAP@0.5", "top1": "accuracy"}


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser, weights_optional=True)
    parser.add_argument(
        "--data", required=True, metavar="F", help="a .data file, an image list, a Pascal VOC folder, or COCO JSON"
    )
    add_output(parser)
    add_flags(parser, TrainSettings)
    add_json(parser)


def add_output(parser: ArgumentParser) -> None:
    """Adds `-o`."""
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder for weights, state, log and curves"
    )


def run(args: Namespace) -> int:
    """Trains."""
    settings = read_flags(TrainSettings, args)
    result = train(load(args.cfg, args.weights), args.data, args.output, settings)
    return report(args, settings, result, args.data)


def report(args: Namespace, settings: RunSettings, result: TrainResult, data: PathLike | None) -> int:
    """Prints the result of a run, whose warnings were printed as they arose; returns the exit status."""
    print_result(
        args, result.to_json(), result.warnings if args.json else (), lambda: _print(result, settings.valid or data)
    )
    return INTERRUPTED if result.stopped else 0


def _print(result: TrainResult, valid: PathLike | None) -> None:
    if result.stopped:
        print(f"stopped after step {result.steps}; the same command with --resume continues")
    else:
        speed, waited = f"{result.images_per_second:.1f} images/s", f"{100 * result.waited:.0f} %"
        print(f"{result.steps} steps, {speed}, {waited} of the time waiting for data")
        print(f"batch {result.batch}, {result.part} images at a time (for batch normalisation)")
    if result.best is not None:
        print(f"best {MEASURES[result.measure]} {100 * result.best:.2f} % at step {result.best_step}")
    if result.after != result.before:
        print_totals(result.before, result.after)
    for kind, path in result.weights.items():
        print(f"{kind:6}{path}")
    chosen = result.weights.get("best") or result.weights.get("final")
    if chosen is not None and not result.stopped:
        pair = [str(result.cfg), str(chosen)]
        command = ["eval", *pair, "--data", str(valid)] if valid is not None else ["info", *pair]
        print("next: " + shlex.join(["darkprune", *command]))
