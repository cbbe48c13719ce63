"""`darkprune report`: one HTML page about a run."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace

from darkprune.api.pair import load
from darkprune.api.report import ReportResult, ReportSettings, report
from darkprune.cli.console import add_json, megabytes, print_result, print_table
from darkprune.cli.flags import add_flags, read_flags


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "run_folder",
        metavar="RUN",
        help="folder that prune, train, distill, cliff, compare or compress wrote, or a folder of such folders",
    )
    parser.add_argument("-o", "--output", metavar="F", help="the HTML file (default RUN/report.html)")
    parser.add_argument(
        "--original", nargs=2, metavar=("CFG", "WEIGHTS"), help="the pair before (default looked for near RUN)"
    )
    add_flags(parser, ReportSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Writes the report."""
    original = load(*args.original) if args.original else None
    settings = read_flags(ReportSettings, args, original=original)
    result = report(args.run_folder, settings, output=args.output)
    print_result(args, result.to_json(), result.warnings, lambda: _print(result))
    return 0


def _print(result: ReportResult) -> None:
    present = [(title, "yes") for title in result.sections]
    print_table(("section", "in the report"), [*present, *((part.what, "no") for part in result.missing)])
    for part in result.missing:
        print(f"{part.what}: {part.how}")
    plots = f", {result.plots}/" if result.plots else ""
    print(f"\nwritten: {result.report} ({megabytes(result.bytes)}){plots}")
    print(f"next: open {shlex.quote(str(result.report))} in a browser")
