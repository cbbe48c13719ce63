"""`darkprune init`: fresh weights."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.init import InitSettings, init
from darkprune.api.pair import load
from darkprune.cli.console import add_json, megabytes, print_json, warn
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
    for message in result.warnings:
        warn(message)
    if args.json:
        print_json(result.to_json())
    else:
        size = megabytes(result.bytes)
        print(f"{result.weights}: {size}, {result.params:,} floats for {pair.cfg.name}, seed {result.seed}")
        if result.cfg is not None:
            print(f"{result.cfg}: the network for that number of classes")
    return 0
