"""`darkprune partial`: a file of the first layers alone, from which darknet trains other networks."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from darkprune.api.pair import load
from darkprune.cli.console import add_json, add_pair, megabytes, print_result
from darkprune.darknet.output import atomic_file
from darkprune.graph.partial import write_partial


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "--layers", type=int, required=True, metavar="N", help="how many, counted as darknet does: 137 for yolov4.cfg"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write: yolov4.conv.137")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_json(parser)


def run(args: Namespace) -> int:
    """Writes the file."""
    pair = load(args.cfg, args.weights)
    with pair.open() as weights, atomic_file(Path(args.output), [pair.cfg, weights.path], args.overwrite) as file:
        size = write_partial(weights, file, args.layers)

    def show() -> None:
        print(f"{args.output}: {megabytes(size)}, layers 0 to {args.layers - 1} of {pair.cfg.name}")
        print(f"next: darkprune train NEW.cfg --backbone {args.output} --data F -o DIR, or darknet's detector train")

    data = {"weights": args.output, "bytes": size, "layers": args.layers}
    print_result(args, data, pair.graph.warnings, show)
    return 0
