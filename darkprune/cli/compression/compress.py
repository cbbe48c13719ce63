"""`darkprune compress`: from a checkpoint to a slim one that is ready to use, stage by stage."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from darkprune.api.compress import CompressPreview, CompressResult, compress, preview
from darkprune.api.report import ReportSettings, report
from darkprune.cli.console import INTERRUPTED, add_json, add_pair, count, megabytes, print_result, print_table
from darkprune.cli.flags import add_flags
from darkprune.compression.settings import (
    STAGES,
    CompressSettings,
    Tables,
    read_assignment,
    read_settings,
    settings_from,
)
from darkprune.compression.summary import NetworkFigures
from darkprune.errors import DarkpruneError
from darkprune.progress import duration
from darkprune.settings import declared

MOST_REPORTED = 500  #: labelled images on which the report compares detections with labels


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run: made, or gone on with")
    parser.add_argument("--config", metavar="F.toml", help="settings, a section per stage; flags win over it")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help=f"one setting; stages: {', '.join(STAGES)}; keys: the flags of train, prune, distill, eval, export or kit",
    )
    add_flags(parser, CompressSettings)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    add_json(parser)


def run(args: Namespace) -> int:
    """Goes through the stages."""
    settings = _settings(args)
    if args.dry_run:
        _print_preview(args, preview(args.cfg, args.weights, settings, args.output))
        return 0
    try:
        result = compress(args.cfg, args.weights, settings, args.output)
        page, problem = _report(args, settings)
    except KeyboardInterrupt:
        print("darkprune: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    shown = None if page is None else os.path.relpath(page)
    data = {**result.to_json(), "report": shown}
    print_result(args, data, [*result.warnings, *problem], lambda: _print(result, shown))
    return 0


def _report(args: Namespace, settings: CompressSettings) -> tuple[Path | None, list[str]]:
    """Writes the report; where it cannot be written the run is done all the same, and there is a warning."""
    data = settings.valid or settings.data
    shown = ReportSettings(
        data=data,
        images=None if data else settings.images,
        names=settings.names,
        limit=MOST_REPORTED if data else None,
        overwrite=True,
    )
    try:
        return report(args.output, shown).report, []
    except (DarkpruneError, OSError) as error:
        return None, [f"no report: {error}"]


def _settings(args: Namespace) -> CompressSettings:
    """Puts the settings file, `--set` and the flags together."""
    tables: Tables = read_settings(Path(args.config)) if args.config else {}
    for text in args.set:
        section, key, value = read_assignment(text)
        tables.setdefault(section, {})[key] = value
    given = {name: getattr(args, name) for name in declared(CompressSettings) if hasattr(args, name)}
    return settings_from(tables, given)


def _print_preview(args: Namespace, found: CompressPreview) -> None:
    def show() -> None:
        print_table(("stage", ""), [(stage.name, status.why) for stage, status in found.stages], left=2)
        print()
        for stage, status in found.stages:
            if status.todo and stage.command:
                print(f"$ {shlex.join(stage.command)}")

    rows = [{"stage": stage.name, "todo": status.todo, "why": status.why} for stage, status in found.stages]
    print_result(args, {"run": args.output, "stages": rows}, found.advice, show)


def _print(result: CompressResult, page: str | None) -> None:
    title, measured = _quality(result.networks)

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f} %"

    rows = [
        (
            network.network + (" (result)" if network.result else ""),
            measured(network),
            percent(network.control),
            "" if network.ms is None else f"{network.ms:.1f}",
            count(network.params),
            count(network.macs),
            megabytes(network.bytes),
            "" if network.seconds is None else duration(network.seconds),
        )
        for network in result.networks
    ]
    print_table(("network", title, "control", "ms", "parameters", "MACs", "weights", "took"), rows)
    _print_times(result)
    if result.verdict:
        print(f"\nverify: {result.verdict}")
    print("written: " + ", ".join(os.path.relpath(path) for path in result.outputs))
    if page is not None:
        print(f"report: {page}")
    pair = [os.path.relpath(path) for path in (result.cfg, result.weights)]
    print("next: " + shlex.join(["darkprune", "detect", *pair, "IMAGES", "-o", "boxes/"]))


def _print_times(result: CompressResult) -> None:
    timed = result.figures
    if timed.ms is None or timed.control_ms is None:
        return
    runner, before = result.stages["time"]["runner"], result.networks[0].ms
    print(
        f"\none image in {runner}: {timed.ms:.1f} ms, the original {before:.1f} ms, and at a smaller input with as "
        f"many operations {timed.control_ms:.1f} ms"
    )


def _quality(networks: Sequence[NetworkFigures]) -> tuple[str, Callable[[NetworkFigures], str]]:
    """Returns what was measured, and how it is shown."""
    if any(network.map50 is not None for network in networks):
        return "mAP@0.5", lambda network: "-" if network.map50 is None else f"{100 * network.map50:.2f} %"
    if any(network.distance is not None for network in networks):
        return "output distance", lambda network: "-" if network.distance is None else f"{network.distance:.4f}"
    return "agreement", lambda network: "-" if network.agreement is None else f"{100 * network.agreement:.2f} %"
