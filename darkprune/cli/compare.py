"""`darkprune compare`: methods side by side, on the same checkpoint, data and budget."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprune.cli.compare_output import show, write
from darkprune.cli.console import INTERRUPTED, add_json, add_pair, print_json, progress
from darkprune.cli.flags import add_flags, read_flags
from darkprune.comparison.cells import RECOVERIES, Cell, grid, share
from darkprune.comparison.methods import DEFAULT, METHODS
from darkprune.errors import UsageError
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import totals
from darkprune.runners.base import FAST_FIRST, RUNNERS, load_with_any
from darkprune.runs.provenance import write_provenance
from darkprune.runs.record import file_input
from darkprune.selection.budget import UNITS, parse_budget
from darkprune.surgery.plan import COMPENSATIONS
from darkprune.training.settings import TrainingKeys
from darkprune.zoo import resolve

if TYPE_CHECKING:  # these import torch, which --help can do without
    from darkprune.comparison.setup import Setup
    from darkprune.comparison.table import Row
    from darkprune.runs.stages import FileSource

CANDIDATES = 30
_COMMON = ("compensate", "round_to", "min_channels")


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "--data", required=True, metavar="F", help="labelled images to measure on, and to train on if a recovery does"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="folder for table, pictures and cells; a repeated run goes on",
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--methods",
        default=",".join(DEFAULT),
        metavar="M1,M2,…",
        help=f"of {', '.join(METHODS)}, and layer+NAME: units first, then channels (default {','.join(DEFAULT)})",
    )
    what.add_argument(
        "--budgets", default="0.8,0.6,0.4", metavar="B1,B2,…", help="what shall remain: fractions, or values with units"
    )
    what.add_argument("--budget-of", choices=tuple(UNITS), default="macs", help="what budgets are about (default macs)")
    what.add_argument(
        "--recoveries",
        default="none",
        metavar="R1,R2,…",
        help=f"of {', '.join(RECOVERIES)}, or two joined: lsq+distill (default none: only what belongs to a method)",
    )
    what.add_argument("--seeds", default="0", metavar="S1,S2,…", help="of all that is drawn (default 0)")
    what.add_argument(
        "--candidates", type=int, default=CANDIDATES, metavar="N", help="that EagleEye tries (default 30)"
    )
    data = parser.add_argument_group("images")
    data.add_argument(
        "--images",
        metavar="DIR",
        help="unlabelled images for the methods and recoveries that look "
        "at some (default: the training images of --data)",
    )
    data.add_argument("--split", default="valid", help="which part of the data is measured on (default valid)")
    data.add_argument("--names", metavar="F", help="names of the classes, in order")
    how = parser.add_argument_group("how to prune, as in darkprune prune")
    how.add_argument("--compensate", choices=COMPENSATIONS)
    how.add_argument("--round-to", type=int, metavar="N")
    how.add_argument("--min-channels", type=int, metavar="N")
    run = parser.add_argument_group("the run")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time, each in a process (default 1)")
    run.add_argument(
        "--cell", metavar="i/n", help="do only the i-th of n shares; who finds all shares done draws the table"
    )
    run.add_argument("--runner", choices=tuple(RUNNERS), help="program to measure and time in")
    run.add_argument("--device", default="auto", help="to train on: cpu, cuda, cuda:1 (default: a GPU if there is one)")
    run.add_argument("--no-times", action="store_true", help="leave out milliseconds")
    run.add_argument("--overwrite", action="store_true", help="take a folder that holds another network's comparison")
    add_flags(parser, TrainingKeys)
    add_json(parser)


def run(args: Namespace) -> int:
    """Compares."""
    from darkprune.cli.compare_images import images_for
    from darkprune.comparison.run import carry_out, collect, open_folder
    from darkprune.compression.sources import Written

    methods, budgets, recoveries = (_words(args, name) for name in ("methods", "budgets", "recoveries"))
    cells = grid(methods, budgets, recoveries, _seeds(args.seeds))
    mine = share(cells, args.cell) if args.cell else cells
    if args.jobs < 1 or args.candidates < 1:
        raise UsageError("--jobs and --candidates must be at least 1")
    images = images_for(args, cells)
    setup = _setup(args, cells, images)
    goes_on = open_folder(setup, args.overwrite, alone=args.cell is None)
    inputs = {"cfg": file_input(setup.cfg), "weights": file_input(setup.weights)}
    write_provenance(setup.folder, inputs, goes_on)
    if isinstance(images, Written):
        images.write()
    with ExitStack() as stack:
        tell = _teller(stack)
        try:
            carry_out(setup, mine, args.jobs, tell)
        except KeyboardInterrupt:
            done = len(collect(setup, cells))
            print(f"darkprune: interrupted; {done} of {len(cells)} cells are done, and the same command goes on",
                  file=sys.stderr)  # fmt: skip
            return INTERRUPTED
        missing = len(cells) - len(collect(setup, cells))
        if missing:
            _report_share(args, len(mine), missing)
            return 0
        rows = _rows(setup, cells, args, tell)
    outputs = write(setup, cells, rows)
    if args.json:
        print_json({"rows": [row.to_json() for row in rows], "runner": setup.runner, "outputs": outputs})
    else:
        show(rows, setup, outputs)
    return 0


def _words(args: Namespace, name: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in getattr(args, name).split(",") if word.strip()))
    if not words:
        raise UsageError(f"--{name}: give at least one")
    return words


def _seeds(text: str) -> list[int]:
    try:
        seeds = list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise UsageError(f"--seeds {text[:60]}: give whole numbers from 0 on, separated by commas")
    return seeds


def _setup(args: Namespace, cells: Sequence[Cell], images: FileSource | None) -> Setup:
    """Checks what all cells have in common before any of them begins."""
    from darkprune.cli.compare_images import shared, splits
    from darkprune.comparison.setup import Setup
    from darkprune.compression.sources import Labelled
    from darkprune.evaluation.of_graph import heads_of
    from darkprune.runs.digests import digest_of_file

    cfg, weights = resolve(args.cfg), resolve(args.weights, "weights")
    graph = read_graph(cfg)
    heads_of(graph)  # without one there is nothing to measure
    for cell in cells:
        parse_budget(args.budget_of, cell.budget, totals(graph))
    runner, _ = load_with_any(graph, weights, args.runner, taps=False, order=FAST_FIRST)
    names = Path(args.names) if args.names else None
    digests = {"cfg": digest_of_file(cfg), "weights": digest_of_file(weights)}
    digests["valid"] = Labelled("data", Path(args.data), names, (args.split,)).digest()
    if any(cell.training not in (None, "distill-unlabelled") for cell in cells):
        train, valid = splits(args)
        if count := shared(train, valid):
            raise UsageError(
                f"{train.source}: {count} of its training images are measured on too; recoveries that train need a "
                "set with two splits (or take distill-unlabelled with --images)"
            )
        digests["train"] = Labelled("data", Path(args.data), names, ("train",)).digest()
    if images is not None:
        digests["images"] = images.digest()
    return Setup(
        cfg,
        weights,
        Path(args.output),
        args.budget_of,
        args.data,
        args.split,
        args.names,
        images.path if images else None,
        runner,
        args.candidates,
        {name: getattr(args, name) for name in _COMMON if getattr(args, name) is not None},
        read_flags(TrainingKeys, args),
        args.device,
        max(1, (os.cpu_count() or 1) // args.jobs) if args.jobs > 1 else None,
        digests=digests,
    )


def _teller(stack: ExitStack) -> Callable[[str, int, int], None]:
    """Shows one bar after the other."""
    open_bars: dict[str, Any] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in open_bars:
            stack.close()
            open_bars[what] = stack.enter_context(progress(total, what, "cell"))
        if done:
            open_bars[what].update()

    return tell


def _report_share(args: Namespace, mine: int, missing: int) -> None:
    if args.json:
        print_json({"done": mine, "missing": missing, "rows": None, "outputs": {}})
    else:
        print(
            f"{mine} cells of share {args.cell} are done; {missing} cells of other shares are not, so nothing is drawn"
        )


def _rows(setup: Setup, cells: Sequence[Cell], args: Namespace, tell: Callable[[str, int, int], None]) -> list[Row]:
    from darkprune.comparison.run import collect, controls, times
    from darkprune.comparison.steps import unpruned_at
    from darkprune.comparison.table import make_rows

    records = collect(setup, cells)
    unpruned = controls(setup, records.values(), args.jobs, tell)
    networks = [(unpruned_at(setup, (r.result["width"], r.result["height"])), setup.weights) for r in unpruned]
    for record in records.values():
        if record.error is None:
            pair = [setup.folder / record.result[name] for name in ("cfg", "weights")]
            networks.append((read_graph(pair[0]), pair[1]))
    return make_rows(cells, records, unpruned, {} if args.no_times else times(setup, networks, tell))
