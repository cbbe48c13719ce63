"""`darkprune prune`: take channels out of a pair."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.pair import load
from darkprune.api.prune import PruneSettings, prune
from darkprune.cli.compression.prune_output import print_surgery
from darkprune.cli.console import add_json, add_pair
from darkprune.cli.flags import add_flags, read_flags


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="folder for the slim pair, plan.json and report.json (with --plan-only: the plan file)",
    )
    add_flags(parser, PruneSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Prunes a pair, or plans to."""
    settings = read_flags(PruneSettings, args)
    surgery = prune(load(args.cfg, args.weights), settings, output=args.output)
    print_surgery(surgery, args)
    return 0
