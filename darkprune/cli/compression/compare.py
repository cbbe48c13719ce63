"""`darkprune compare`: methods side by side, on the same checkpoint, data and budget."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from darkprune.api.pair import load
from darkprune.cli.console import add_json, add_pair, count, megabytes, print_result, print_table
from darkprune.cli.flags import add_flags, read_flags
from darkprune.comparison.cells import TRAINED
from darkprune.comparison.settings import CompareSettings

if TYPE_CHECKING:  # these import torch, which --help can do without
    from darkprune.api.compare import CompareResult
    from darkprune.comparison.table import Row


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR",
        help="folder for table, pictures and cells; a repeated run goes on",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", nargs=2, metavar=("CFG", "WEIGHTS"),
        help="network that others learn from (default the given one, before any training)",
    )  # fmt: skip
    add_flags(parser, CompareSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Compares, and prints the table."""
    settings = read_flags(CompareSettings, args, teacher=None if args.teacher is None else tuple(args.teacher))
    from darkprune.api.compare import compare  # torch, which --help can do without

    result = compare(load(args.cfg, args.weights), args.output, settings)
    print_result(args, result.to_json(), result.warnings, lambda: _print(result, settings.cell))
    return 0


def _print(result: CompareResult, share: str | None) -> None:
    """Prints the table, what failed, and what training harmed."""
    if result.missing:
        print(
            f"{result.done} cells of share {share} are done; {result.missing} cells of other shares are not, "
            "so there is no table yet"
        )
        return
    rows = result.rows

    def percent(value: float | None, spread: float | None, seeds: int) -> str:
        if value is None:
            return "-"
        return f"{100 * value:.2f}" + (f" ±{100 * (spread or 0):.2f}" if seeds > 1 else "")

    def map50(row: Row) -> str:
        return percent(row.map50, row.map50_std, row.seeds)

    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("method", lambda row: row.method or row.kind),
        ("budget", lambda row: row.budget or f"{row.width}x{row.height}"),
        ("recovery", lambda row: row.recovery or "-"),
        ("mAP@0.5", lambda row: "failed" if row.failed and row.map50 is None else map50(row)),
        ("0.5:0.95", lambda row: percent(row.map, row.map_std, row.seeds)),
        ("parameters", lambda row: "-" if row.params is None else count(row.params)),
        ("MACs", lambda row: "-" if row.macs is None else count(row.macs)),
        ("file", lambda row: "-" if row.bytes is None else megabytes(row.bytes)),
        ("ms", lambda row: "-" if row.ms is None else f"{row.ms:.2f}"),
        ("took", lambda row: "-" if row.seconds is None else f"{row.seconds:.0f} s"),
        ("beats control", lambda row: {None: "-", True: "yes", False: "no"}[row.beats_control]),
    ]
    if any(row.published is not None for row in rows):
        columns.insert(4, ("published", lambda row: "-" if row.published is None else f"{100 * row.published:.1f}"))
    if any(row.sparsity not in ("", "none") for row in rows):
        columns.insert(0, ("sparsity", lambda row: row.sparsity or "-"))
    left = [name for name, _ in columns].index("mAP@0.5")
    print_table([name for name, _ in columns], [[show(row) for _, show in columns] for row in rows], left=left)
    failures: dict[str, list[str]] = {}
    for row in rows:
        if row.failed:
            failures.setdefault(row.failed, []).append(f"{row.method} at {row.budget}, {row.recovery}")
    for reason, cells in failures.items():
        print(f"{'; '.join(cells)}: {reason}")
    harmed = _harmed(rows)
    if harmed:
        print(f"training did harm: {'; '.join(harmed)}")
        print("train more gently (--adam --lr 0.001 --policy cosine) or for longer")
    print(f"\ncontrol: the unpruned network at a smaller input; {result.runner}")
    judged = [row for row in rows if row.beats_control is not None]
    if judged and not any(row.beats_control for row in judged):
        print(
            "NOTHING HERE BEATS THE SMALLER INPUT at equal operations: train after pruning, or take the smaller input"
        )
    print("written: " + ", ".join(map(str, result.outputs)))


def _harmed(rows: Sequence[Row]) -> list[str]:
    """Names the rows that are worse than the same network was before its training, where that is in the table."""
    before = {(row.sparsity, row.method, row.budget, row.recovery): row.map50 for row in rows}
    found = []
    for row in rows:
        first, _, last = row.recovery.rpartition("+")
        start = before.get((row.sparsity, row.method, row.budget, first or "none"))
        if last in TRAINED and row.map50 is not None and start is not None and row.map50 < start:
            found.append(
                f"{row.method} at {row.budget}, {row.recovery}, {100 * start:.2f} before, {100 * row.map50:.2f} after"
            )
    return found
