"""What `darkprune prune` prints."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from darkprune.cli.console import count, print_table, print_totals
from darkprune.graph.stats import Totals
from darkprune.surgery.plan import PrunePlan

if TYPE_CHECKING:
    from darkprune.evaluation.control import Figure


def print_figures(figures: Sequence[Figure]) -> None:
    """Prints how the networks compare: original, slim, recovered, control."""
    print()
    rows = [
        (
            figure.name,
            f"{figure.width}x{figure.height}",
            count(figure.macs),
            "-" if figure.distance is None else f"{figure.distance:.4f}",
            *("-" if value is None else f"{100 * value:.2f} %" for value in (figure.map50, figure.control)),
        )
        for figure in figures
    ]
    print_table(("network", "input", "MACs", "output distance", "mAP@0.5", "control"), rows)


def print_plan(
    plan: PrunePlan,
    before: Totals,
    after: dict[str, Any],
    stages: list[dict[str, Any]],
    outputs: dict[str, str],
) -> None:
    """Prints what goes, group by group and stage by stage, and what is left."""
    rows = [
        (
            group.name,
            f"{group.first}-{group.last}",
            group.channels,
            f"{group.ratio:.3g}",
            "-" if group.threshold is None else f"{group.threshold:.4g}",
            group.marked,
            group.removed,
            f"{100 * group.removed / group.channels:.1f} %" if group.channels else "-",
        )
        for group in plan.groups
    ]
    if plan.units:
        cut_out = ", ".join(f"{unit.first}-{unit.last}" for unit in plan.units)
        print(f"residual units cut out: {cut_out}; layer numbers below are those of the network without them\n")
    print_table(("group", "layers", "channels", "ratio", "threshold", "marked", "removed", "share"), rows, left=2)
    print()
    print_totals(before, Totals(**after))
    if len(stages) > 1:
        print()
        for stage in stages:
            print(_stage(stage))
    print("\nwritten: " + ", ".join(outputs.values()))


def _stage(stage: dict[str, Any]) -> str:
    """Says what a stage removed."""
    left = f"{count(stage['after']['params'])} parameters and {count(stage['after']['macs'])} MACs are left"
    if stage["stage"] == "units":
        return f"layers: {len(stage['units'])} residual units of {stage['removed']} layers; {left}"
    if stage["stage"] == "channels":
        return f"importance: {stage['removed']} channels; {left}"
    error = stage["reconstruction_error"]
    return (
        f"similarity: {stage['removed']} channels ({stage['replaced']} replaced; unexplained variance "
        f"{100 * error['mean']:.1f} % on average, at most {100 * error['largest']:.1f} %); {left}"
    )


def print_next(args: Namespace, outputs: dict[str, str]) -> None:
    """Prints what was written, and the command that comes next."""
    if "weights" in outputs:
        # recovered weights are meant to differ from those of the cut: only widths and files can be checked
        verify = ["darkprune", "verify", *(["--static"] if args.recover != "none" else [])]
        print("next: " + shlex.join([*verify, args.cfg, args.weights, outputs["cfg"], outputs["weights"]]))
    else:
        replay_it = shlex.join(["darkprune", "prune", args.cfg, args.weights, "--plan", outputs["plan"], "-o", "DIR"])
        print(f"next: read or edit the plan, then {replay_it}")
