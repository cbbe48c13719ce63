"""`darkprune distill`: let a pruned network learn from the one that it was cut from."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.pair import load
from darkprune.api.train import distill
from darkprune.cli.compression.train import add_output, report
from darkprune.cli.console import add_json
from darkprune.cli.flags import add_flags, read_flags
from darkprune.training.settings import DistillSettings


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    for name, what in (("teacher", "the original"), ("student", "the pruned network")):
        parser.add_argument(f"{name}_cfg", metavar=f"{name.upper()}.cfg", help=f"Darknet .cfg of {what}")
        parser.add_argument(f"{name}_weights", metavar=f"{name.upper()}.weights", help="its .weights file")
    add_output(parser)
    add_flags(parser, DistillSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Distils."""
    settings = read_flags(DistillSettings, args)
    teacher, student = load(args.teacher_cfg, args.teacher_weights), load(args.student_cfg, args.student_weights)
    result = distill(teacher, student, args.output, settings)
    return report(args, settings, result, settings.data)
