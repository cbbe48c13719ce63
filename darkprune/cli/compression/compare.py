"""`darkprune compare`: methods side by side, on the same checkpoint, data and budget."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.pair import load
from darkprune.cli.compression.compare_output import print_comparison
from darkprune.cli.console import add_json, add_pair, print_json, warn
from darkprune.cli.flags import add_flags, read_flags
from darkprune.comparison.settings import CompareSettings


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR",
        help="folder for table, pictures and cells; a repeated run goes on",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", nargs=2, metavar=("CFG", "WEIGHTS"),
        help="network that others learn from (default: the given one, before any training)",
    )  # fmt: skip
    add_flags(parser, CompareSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Compares, and prints the table."""
    settings = read_flags(CompareSettings, args, teacher=None if args.teacher is None else tuple(args.teacher))
    from darkprune.api.compare import compare  # torch, which --help can do without

    result = compare(load(args.cfg, args.weights), args.output, settings)
    for message in result.warnings:
        warn(message)
    if args.json:
        print_json(result.to_json())
    elif result.missing:
        print(
            f"{result.done} cells of share {settings.cell} are done; {result.missing} cells of other shares are not, "
            "so there is no table yet"
        )
    else:
        print_comparison(result)
    return 0
