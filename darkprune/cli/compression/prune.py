"""`darkprune prune`: take channels out of a pair."""

from __future__ import annotations

from argparse import Namespace

from darkprune.api.pair import load
from darkprune.api.prune import PruneSettings, prune
from darkprune.cli.compression.prune_output import print_surgery
from darkprune.cli.flags import from_pair, read_flags

configure = from_pair(
    PruneSettings, "DIR", "folder for the slim pair, plan.json and report.json (with --plan-only: the plan file)"
)


def run(args: Namespace) -> int:
    """Prunes a pair, or plans to."""
    settings = read_flags(PruneSettings, args)
    surgery = prune(load(args.cfg, args.weights), settings, output=args.output)
    print_surgery(surgery, args)
    return 0
