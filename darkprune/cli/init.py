"""`darkprune init`: fresh weights."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from darkprune.cli.console import add_json, megabytes, print_json, warn
from darkprune.darknet.output import atomic_file
from darkprune.errors import UsageError
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import read_graph
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("cfg", metavar="CFG", help="Darknet .cfg, or builtin:NAME")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .weights file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random generator (default 0)")
    parser.add_argument(
        "--vary", action="store_true", help="draw γ, β, μ, σ² around 1, 0, 0, 1 as in a trained network"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_json(parser)


def run(args: Namespace) -> int:
    """Writes the file."""
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: a seed is 0 or more")
    path = resolve(args.cfg)
    graph = read_graph(path)
    target = Path(args.output)
    with atomic_file(target, [path], args.overwrite) as file:
        size = write_fresh(graph, file, args.seed, args.vary)
    for message in graph.warnings:
        warn(message)
    if args.json:
        print_json({"weights": str(target), "bytes": size, "params": graph.params, "seed": args.seed})
    else:
        print(f"{target}: {megabytes(size)}, {graph.params:,} floats for {path.name}, seed {args.seed}")
    return 0
