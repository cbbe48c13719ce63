"""What `darkprune prune` and `factorize` print."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence

from darkprune.cli.console import count, print_result, print_table, print_totals
from darkprune.json_types import JsonMapping
from darkprune.surgery.plan import Plan
from darkprune.surgery.result import PruneResult
from darkprune.surgery.surgery import Surgery
from darkprune.targets import ROUND_TO


def print_surgery(surgery: Surgery, args: Namespace) -> None:
    """Closes a surgery that is saved, and prints what it did: as JSON with `--json`."""
    surgery.close()
    assert surgery.result is not None
    result = surgery.result
    pair = (args.cfg, args.weights)
    print_result(args, result.to_json(), result.warnings, lambda: _print_result(surgery.plan, result, pair))


def _print_result(plan: Plan, result: PruneResult, pair: tuple[str, str]) -> None:
    """Prints what went and what is left, what was measured, and the command that comes next.

    Args:
        pair: the original's cfg and weights, as the user gave them.
    """
    outputs = {kind: str(record.path) for kind, record in result.outputs.items()}
    if "factors" in result.findings:
        _print_factors(result)
    else:
        _print_plan(plan, result)
    print("\nwritten: " + ", ".join(outputs.values()))
    _print_measured(result.findings)
    if "comparison" in result.findings:
        _print_comparison(result.findings["comparison"])
    if "weights" in outputs:
        print("next: " + shlex.join(["darkprune", "verify", *pair, outputs["cfg"], outputs["weights"]]))
    else:
        replay_it = shlex.join(["darkprune", "prune", *pair, "--plan", outputs["plan"], "-o", "DIR"])
        print(f"next: read or edit the plan, then {replay_it}")


def _print_plan(plan: Plan, result: PruneResult) -> None:
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
    print_totals(result.before, result.after)
    _print_odd_widths(plan)
    if len(result.stages) > 1:
        print()
        for stage in result.stages:
            print(_describe_stage(stage))


def _print_odd_widths(plan: Plan) -> None:
    """Says how many widths do not suit the hardware, where none were asked for."""
    widths = [len(keep) + len(carriers) for channels, keep, carriers in plan.layers.values() if len(keep) < channels]
    odd = sum(width % ROUND_TO > 0 for width in widths)
    if odd and plan.settings.get("round_to") == 1:
        print(
            f"\n{odd} of the {len(widths)} layers that lost channels have widths that are no multiples of {ROUND_TO}, "
            f"which most\nprograms compute slower: --round-to {ROUND_TO}"
        )


def _print_factors(result: PruneResult) -> None:
    """Prints the ranks of every factorised convolution, and what is left."""
    rows = [
        (
            f"{row['layer']}: {row['size']}x{row['size']} {row['channels']} → {row['filters']}",
            "-" if row["inputs"] is None else row["inputs"],
            "-" if row["outputs"] is None else row["outputs"],
            count(row["macs_before"]),
            count(row["macs_after"]),
            f"{100 * row['lost']:.2f} %",
        )
        for row in result.findings["factors"]
    ]
    print_table(("layer", "rank of inputs", "of outputs", "MACs before", "after", "lost"), rows, left=1)
    print()
    print_totals(result.before, result.after)


def _describe_stage(stage: JsonMapping) -> str:
    """Describes what a stage removed."""
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


def _print_measured(findings: JsonMapping) -> None:
    """Prints what was measured for the decision."""
    if "curves" in findings:
        curves = findings["curves"]
        print(f"\nsensitivity of the groups ({curves['metric']}), kept in {curves['kept_in']}")
    if "latency" in findings:
        found = findings["latency"]
        expected = found["predicted_ms"]
        predicted = "" if expected is None else f"predicted: {expected:.2f}; "
        print(
            f"\nlatency on {found['runner']}, batch {found['batch']}: {found['reached_ms']:.2f} ms of "
            f"{found['original_ms']:.2f} (asked for: {found['target_ms']:.2f}; {predicted}"
            f"{len(found['trials'])} measurements, uncertain by {100 * found['noise']:.1f} %)"
        )


def _print_comparison(networks: Sequence[JsonMapping]) -> None:
    """Prints how original, slim network and control compare."""
    measure, title = ("agreement", "agreement") if networks[0]["map50"] is None else ("map50", "mAP@0.5")
    print()
    rows = [
        (
            network["name"],
            f"{network['width']}x{network['height']}",
            count(network["macs"]),
            "-" if network["distance"] is None else f"{network['distance']:.4f}",
            *("-" if value is None else f"{100 * value:.2f} %" for value in (network[measure], network["control"])),
        )
        for network in networks
    ]
    print_table(("network", "input", "MACs", "output distance", title, "control"), rows)
    if networks[0]["agreement"] is not None:
        print("agreement: mAP@0.5 against what the original detects (score above 0.05), on average over its own input")
        print("size and the control's")
