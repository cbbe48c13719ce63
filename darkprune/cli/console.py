"""What commands share on the terminal: tables, numbers, progress, JSON."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from darkprune.errors import one_line
from darkprune.graph.stats import Totals
from darkprune.graph.stats import change as change
from darkprune.graph.stats import count as count
from darkprune.graph.stats import megabytes as megabytes
from darkprune.progress import Progress, ProgressEvent, reporting, silent

LINE_SECONDS = 30.0  #: between two lines on where work stands, where stderr is no terminal
INTERRUPTED = 130  #: exit status after Ctrl-C, where what was done stays


def add_json(parser: ArgumentParser) -> None:
    """Adds `--json`, which every command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else there")


def add_pair(parser: ArgumentParser, weights_optional: bool = False) -> None:
    """Adds the two positional arguments that most commands begin with."""
    parser.add_argument("cfg", metavar="CFG", help="Darknet .cfg, or builtin:NAME for one that comes with darkprune")
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        nargs="?" if weights_optional else None,
        help="its .weights file, or builtin:NAME likewise",
    )


def print_json(data: object) -> None:
    """Prints one object on stdout."""
    json.dump(data, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """Prints columns; the first `left` are aligned left, numbers right."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for number, row in enumerate(cells):
        line = "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print(line.rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def print_totals(before: Totals, after: Totals) -> None:
    """Prints how much smaller a network became."""
    print_table(
        ("", "before", "after", "change"),
        [
            ("parameters", count(before.params), count(after.params), change(before.params, after.params)),
            ("MACs", count(before.macs), count(after.macs), change(before.macs, after.macs)),
            ("BFLOPs", f"{before.bflops:.3f}", f"{after.bflops:.3f}", change(before.bflops, after.bflops)),
            ("weights", megabytes(before.bytes), megabytes(after.bytes), change(before.bytes, after.bytes)),
        ],
    )


def warn(message: str) -> None:
    """Prints a warning on stderr."""
    print(f"warning: {one_line(message)}", file=sys.stderr)


class _Lines:
    """Prints messages, and a line on where long work stands every now and then."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if event.message:
            print(event.message, file=sys.stderr, flush=True)
        elif now - self._printed >= LINE_SECONDS:
            self._printed = now
            total = f" of {event.total:g}" if event.total else ""
            details = f" ({event.details})" if event.details else ""
            print(f"{event.task}: {event.unit} {event.done:g}{total}{details}", file=sys.stderr, flush=True)


@contextmanager
def lines_and_bars() -> Iterator[Progress]:
    """Shows progress: bars where a person can see them, elsewhere lines on stderr."""
    with reporting(None) as shown:
        yield _Lines() if shown is silent else shown
