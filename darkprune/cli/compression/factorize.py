"""`darkprune factorize`: write convolutions as products of smaller ones."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace

from darkprune.api.factorize import FactorizeSettings, factorize
from darkprune.api.pair import load
from darkprune.cli.compression.prune_output import print_comparison
from darkprune.cli.console import add_json, add_pair, count, print_json, print_table, print_totals, warn
from darkprune.cli.flags import add_flags, read_flags
from darkprune.surgery.result import PruneResult


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder for the slim pair, plan.json and report.json"
    )
    add_flags(parser, FactorizeSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Factorises a pair."""
    settings = read_flags(FactorizeSettings, args)
    surgery = factorize(load(args.cfg, args.weights), settings, output=args.output)
    surgery.close()
    result = surgery.result
    assert result is not None
    if args.json:
        print_json(result.to_json())
        return 0
    _print(result, (args.cfg, args.weights))
    return 0


def _print(result: PruneResult, pair: tuple[str, str]) -> None:
    """Prints ranks, totals, what was measured, warnings, and the command that comes next."""
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
    outputs = {kind: str(record.path) for kind, record in result.outputs.items()}
    print("\nwritten: " + ", ".join(outputs.values()))
    if "comparison" in result.findings:
        print_comparison(result.findings["comparison"])
    for message in result.warnings:
        warn(message)
    print("next: " + shlex.join(["darkprune", "verify", *pair, outputs["cfg"], outputs["weights"]]))
