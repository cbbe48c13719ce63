"""`darkprune factorize`: write convolutions as products of smaller ones."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.factorize import FactorizeSettings, factorize
from darkprune.api.pair import load
from darkprune.cli.compression.prune_output import print_surgery
from darkprune.cli.console import add_json, add_pair
from darkprune.cli.flags import add_flags, read_flags


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
    print_surgery(surgery, args)
    return 0
