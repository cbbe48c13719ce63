"""`darkprune factorize`: write convolutions as products of smaller ones."""

from __future__ import annotations

from argparse import Namespace

from darkprune.api.factorize import FactorizeSettings, factorize
from darkprune.api.pair import load
from darkprune.cli.compression.prune_output import print_surgery
from darkprune.cli.flags import from_pair, read_flags

configure = from_pair(FactorizeSettings, "DIR", "folder for the slim pair, plan.json and report.json")


def run(args: Namespace) -> int:
    """Factorises a pair."""
    settings = read_flags(FactorizeSettings, args)
    surgery = factorize(load(args.cfg, args.weights), settings, output=args.output)
    print_surgery(surgery, args)
    return 0
