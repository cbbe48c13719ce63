"""`darkprune distill`: let a pruned network learn from the one that it was cut from."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.cli.console import add_json
from darkprune.cli.train import carry_out
from darkprune.cli.training_flags import add_data, add_pruning, add_run, changes_of
from darkprune.errors import UsageError
from darkprune.graph.graph import read_graph, resized
from darkprune.graph.groups import PRESETS as GROUP_PRESETS
from darkprune.graph.groups import divide
from darkprune.surgery.plan_file import read_plan
from darkprune.zoo import resolve

if TYPE_CHECKING:
    from darkprune.training.distillation.distillation import DistillationSettings


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    for name, what in (("teacher", "the original"), ("student", "the pruned network")):
        parser.add_argument(f"{name}_cfg", metavar=f"{name.upper()}.cfg", help=f"Darknet .cfg of {what}")
        parser.add_argument(f"{name}_weights", metavar=f"{name.upper()}.weights", help="its .weights file")
    soft = parser.add_argument_group("what is compared")
    soft.add_argument(
        "--preset",
        choices=("paper", "chu2022", "objectness"),
        default="objectness",
        help="all predictions, scaled by the teacher's objectness (default); the paper's losses and weights; those of "
        "its program",
    )
    soft.add_argument("--taps", metavar="L:W,…", help="the teacher's layers whose maps are compared, with weights")
    soft.add_argument("--attention-weight", type=float, default=1.0, metavar="W", help="factor on all these weights")
    soft.add_argument("--temperature", type=float, help="T of the class scores (default 3)")
    soft.add_argument("--class-weight", type=float, metavar="W", help="of the soft class scores")
    soft.add_argument("--box-weight", type=float, metavar="W", help="of the soft boxes")
    soft.add_argument("--box-threshold", type=float, metavar="I", help="overlap of a prior that takes part (0.2)")
    soft.add_argument("--hard-weight", type=float, metavar="W", help="of the loss against labels (1; 0 leaves it out)")
    soft.add_argument("--plan", metavar="FILE", help="plan.json that the student was cut by; needed after --units")
    soft.add_argument("--groups", default="auto", help=f"auto, {', '.join(GROUP_PRESETS)}, or ranges: taps, --prune-to")
    parser.add_argument(
        "--unlabelled",
        metavar="DIR",
        help="learn from images without labels, a folder or a list (and measure on --data or --valid)",
    )
    add_data(parser, required=False)
    add_run(parser)
    add_pruning(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    """Distils."""
    from darkprune.training.distillation.taps import choose_taps, match_taps, parse_taps
    from darkprune.training.distillation.teacher import Teacher
    from darkprune.training.loop.objective import DetectionObjective

    teacher_cfg, student_cfg = resolve(args.teacher_cfg), resolve(args.student_cfg)
    teacher_weights, student_weights = (
        resolve(args.teacher_weights, "weights"),
        resolve(args.student_weights, "weights"),
    )
    student = resized(read_graph(student_cfg), args.size)
    size = f"{student.net.input.w}x{student.net.input.h}"
    teacher = resized(read_graph(teacher_cfg), size)
    plan = read_plan(Path(args.plan)) if args.plan else None
    if args.taps:
        chosen = parse_taps(args.taps, len(teacher))
    else:
        chosen = choose_taps(teacher, divide(teacher, args.groups), args.preset)
    taps = match_taps(chosen, teacher, student, plan)
    taps = tuple(replace(tap, weight=tap.weight * args.attention_weight) for tap in taps)
    settings = _settings(args)
    guide = Teacher(teacher, teacher_weights, taps, settings, labelled=not args.unlabelled)
    if guide.labelled:
        DetectionObjective(student)  # refuses before a folder is made
    inputs = [teacher_cfg, teacher_weights, student_cfg, student_weights]
    objective = partial(guide.objective, student)
    return carry_out(args, student, student_weights, inputs, objective, changes_of(args), identity=guide.identity())


def _settings(args: Namespace) -> DistillationSettings:
    from darkprune.training.distillation.distillation import PRESETS

    names = ("temperature", "class_weight", "box_weight", "box_threshold", "hard_weight")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    for name, value in given.items():
        if value < 0 or (name == "temperature" and value == 0):
            raise UsageError(f"--{name.replace('_', '-')} {value:g} makes no sense")
    return replace(PRESETS[args.preset], **given)
