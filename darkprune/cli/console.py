"""What commands share on the terminal: tables, numbers, progress, JSON."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from shutil import get_terminal_size
from textwrap import wrap

from darkprune.errors import one_line
from darkprune.graph.stats import Totals
from darkprune.graph.stats import change as change
from darkprune.graph.stats import count as count
from darkprune.graph.stats import megabytes as megabytes
from darkprune.progress import ProgressEvent

LINE_SECONDS = 30.0  #: between two lines on where work stands, where stderr is no terminal
LEAST_WIDTH = 40  #: columns of a terminal that tables are made for at least
LEAST_TEXT = 10  #: characters that a column of text keeps
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


def print_result(
    args: Namespace, data: Mapping[str, object], warnings: Iterable[str], show: Callable[[], object]
) -> None:
    """Prints the result of a command on stdout, then its warnings on stderr.

    Args:
        data: what is printed with `--json`; the warnings are added to it.
        show: prints the result as text, without `--json`.
    """
    messages = [one_line(message) for message in warnings]
    if args.json:
        json.dump({**data, "warnings": messages}, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        show()
    sys.stdout.flush()  # so that the warnings follow in a file that takes both
    for message in messages:
        warn(message)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """Prints columns within the terminal's width, or 80 characters where there is no terminal.

    Args:
        left: the first so many columns are text and aligned left, the others are numbers.
    """
    for line in table_lines(head, rows, left, max(LEAST_WIDTH, get_terminal_size().columns)):
        print(line)


def table_lines(head: Sequence[str], rows: Sequence[Sequence[object]], left: int, width: int) -> Iterator[str]:
    """Yields the lines of a table, none longer than `width`.

    Where that is too narrow headings are written on several lines, then text; columns that do not fit even so follow
    below in a table of their own, after the same text columns. Nothing is left out.
    """
    cells = [[one_line(str(cell)) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if _total(widths) > width:
        bodies = [max(map(len, column[1:]), default=0) for column in zip(*cells, strict=True)]
        words = [max(map(len, text.split()), default=0) for text in cells[0]]
        widths = list(map(max, bodies, words))
    for place in sorted(range(left), key=lambda place: -widths[place]):
        widths[place] = max(min(widths[place], LEAST_TEXT), widths[place] - max(0, _total(widths) - width))
    blocks: list[list[int]] = [[]]
    for place in range(left, len(head)):
        if blocks[-1] and _total([widths[n] for n in (*range(left), *blocks[-1], place)]) > width:
            blocks.append([])
        blocks[-1].append(place)
    for number, block in enumerate(blocks):
        if number:
            yield ""
        yield from _block_lines(cells, widths, left, [*range(left), *block])


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * max(0, len(widths) - 1)


def _block_lines(
    cells: Sequence[Sequence[str]], widths: Sequence[int], left: int, columns: Sequence[int]
) -> Iterator[str]:
    """Yields the lines of some columns."""
    for number, row in enumerate(cells):
        parts = [wrap(row[place], max(1, widths[place]), break_on_hyphens=False) or [""] for place in columns]
        high = max(map(len, parts))
        for place, part in enumerate(parts):
            blank = [""] * (high - len(part))
            parts[place] = [*blank, *part] if number == 0 else [*part, *blank]  # headings stand on the line below them
        for line in zip(*parts, strict=True):
            shown = (
                text.ljust(widths[place]) if place < left else text.rjust(widths[place])
                for place, text in zip(columns, line, strict=True)
            )
            yield "  ".join(shown).rstrip()
        if number == 0:
            yield "  ".join("-" * widths[place] for place in columns)


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


class Lines:
    """Prints messages on stderr, and a line on where long work stands every now and then."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, event: ProgressEvent) -> None:
        """Prints a message, or where the work stands if the last line is half a minute old."""
        now = time.monotonic()
        if event.message:
            print(event.message, file=sys.stderr, flush=True)
        elif now - self._printed >= LINE_SECONDS:
            self._printed = now
            total = f" of {event.total:g}" if event.total else ""
            details = f" ({event.details})" if event.details else ""
            print(f"{event.task}: {event.unit} {event.done:g}{total}{details}", file=sys.stderr, flush=True)
