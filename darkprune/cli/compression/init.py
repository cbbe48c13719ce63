"""`darkprune init`: fresh weights."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.init import InitResult, InitSettings, init
from darkprune.api.pair import load
from darkprune.cli.console import add_json, megabytes, print_result
from darkprune.cli.flags import add_flags, read_flags


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("cfg", metavar="CFG", help="Darknet .cfg, or builtin:NAME")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .weights file to write")
    add_flags(parser, InitSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Writes the file."""
    pair = load(args.cfg)
    result = init(pair, args.output, read_flags(InitSettings, args))
    print_result(args, result.to_json(), result.warnings, lambda: _print(result, pair.cfg.name))
    return 0


def _print(result: InitResult, cfg: str) -> None:
    size = megabytes(result.bytes)
    print(f"{result.weights}: {size}, {result.params:,} floats for {cfg}, seed {result.seed}")
    if result.cfg is not None:
        print(f"{result.cfg}: the network for that number of classes")
