"""`darkprune prune`: take channels out of a pair."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprune.cli.console import (
    add_json,
    add_pair,
    following,
    print_json,
    progress,
    warn,
)
from darkprune.cli.image_flags import add_arguments, labelled, open_session, unit_scorer
from darkprune.cli.measured import Measured, add_latency, print_measured
from darkprune.cli.prune_budget import budget_of, refuse_early
from darkprune.cli.prune_output import print_figures, print_next, print_plan
from darkprune.darknet.output import atomic_file, check_folder, result_folder
from darkprune.errors import UsageError
from darkprune.graph.graph import build_graph, read_graph
from darkprune.graph.groups import PRESETS as GROUP_PRESETS
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.runs.digests import digest_of_file
from darkprune.runs.provenance import provenance
from darkprune.search.choice import Effort, choose
from darkprune.selection.allocation import ALLOCATIONS, PRESETS, WIDTH_PRESETS
from darkprune.selection.budget import UNITS
from darkprune.selection.importance import CRITERIA, GLOBAL_CRITERIA, IMAGE_CRITERIA
from darkprune.selection.settings import PruneSettings
from darkprune.selection.voting import MERGES
from darkprune.surgery.apply import slim_cfg
from darkprune.surgery.constants import CONSTANTS
from darkprune.surgery.plan import COMPENSATIONS
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import prepare, recounted, replay
from darkprune.surgery.result import ResultNames, write_result
from darkprune.zoo import resolve

if TYPE_CHECKING:  # torch, and the evaluation, are imported only where images or labels are given
    from darkprune.evaluation.control import Figure
    from darkprune.search.session import Bar

#: flags that say how much to remove; one of them is given
HOW_MUCH = ("ratio", "ratios", "preset", "target_latency", *(f"target_{kind}" for kind in UNITS))
#: flags that remove something by themselves, before or after what `HOW_MUCH` says
BESIDES = ("units", "unit_ratio", "similarity")
#: flags that become fields of `PruneSettings`
_SETTINGS = (
    "ratio",
    "ratios",
    "preset",
    "groups",
    "allocation",
    "merge",
    "criterion",
    "compensate",
    "constant",
    "round_to",
    "min_channels",
    "exclude",
    "units",
    "unit_ratio",
    "similarity",
)


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="folder for the slim pair, plan.json and report.json (with --plan-only: the plan file)",
    )
    how_much = parser.add_argument_group("how much to remove")
    how_much.add_argument("--ratio", type=float, metavar="P", help="fraction of the prunable channels, 0 to below 1")
    how_much.add_argument("--ratios", metavar="R1,R2,…", help="one fraction per group")
    how_much.add_argument("--preset", choices=PRESETS, help="a published setting, groups included")
    how_much.add_argument("--plan", metavar="FILE", help="replay a plan instead of making one")
    for kind, what in (
        ("params", "stored floats, 24M"),
        ("macs", "multiply-adds, 12G"),
        ("size", "weights file, 90MB"),
    ):
        how_much.add_argument(
            f"--target-{kind}", metavar="V", help=f"what shall remain: a fraction (0.65) or a value ({what})"
        )
    units = how_much.add_mutually_exclusive_group()
    units.add_argument(
        "--units", type=int, metavar="N", help="cut out the N residual units of lowest mean |γ| first, whole"
    )
    units.add_argument("--unit-ratio", type=float, metavar="U", help="the same as a fraction of all units, 0 to 1")
    how_much.add_argument(
        "--similarity",
        type=float,
        metavar="T",
        help="then replace channels by others of |correlation| T or more (on --images, else by filters)",
    )
    which = parser.add_argument_group("which channels")
    which.add_argument("--groups", help=f"auto (default), {', '.join(GROUP_PRESETS)}, or ranges 0-55,56-85,…")
    which.add_argument("--allocation", choices=ALLOCATIONS, help="how a total ratio is shared out (default uniform)")
    which.add_argument(
        "--criterion",
        choices=(*CRITERIA, *IMAGE_CRITERIA),
        help="score of a channel (default bn_gamma); on --images: sensitivity, its effect on the outputs (first-order; "
        "with --recover lsq what the refit leaves of it: surgeon); thinet",
    )
    which.add_argument("--merge", choices=MERGES, help="public mask of coupled convolutions (default vote)")
    which.add_argument("--exclude", metavar="L1,L2,…", help="layers whose channels all stay")
    which.add_argument("--round-to", type=int, metavar="N", help="widths in multiples of N where possible (default 1)")
    which.add_argument("--min-channels", type=int, metavar="N", help="fewest channels of a convolution (default 8)")
    rest = parser.add_argument_group("what takes their place")
    rest.add_argument(
        "--compensate",
        choices=COMPENSATIONS,
        help="fold: constants into biases (default); carrier: exact at padded borders too; none",
    )
    rest.add_argument(
        "--constant", choices=CONSTANTS, help="mean: E[act(γz+β)] (default); beta: act(β), as the papers have it"
    )
    add_latency(parser)
    add_arguments(parser)
    parser.add_argument("--plan-only", action="store_true", help="write the plan, cut nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prunes a pair, or plans to."""
    cfg, weights_path, output = resolve(args.cfg), resolve(args.weights, "weights"), Path(args.output)
    settings = settings_of(args) if args.plan is None else None
    inputs = [cfg, weights_path, *([Path(args.plan)] if args.plan else [])]
    if args.plan and any(getattr(args, name) is not None for name in {*_SETTINGS, *HOW_MUCH}):
        raise UsageError("--plan holds the whole decision; leave out --ratio, --merge and the like, or edit the plan")
    if not args.plan_only:
        check_folder(output, inputs, args.overwrite)
    graph = read_graph(cfg)
    session = open_session(args, graph, _bar)
    measured = Measured(args, lambda: labelled(args))
    budget = budget_of(args, graph)
    with NetworkWeights(graph, weights_path) as weights, ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(lambda: (digest_of_file(cfg), digest_of_file(weights_path)))
        warnings = [*graph.warnings, *(session.warnings() if session else ())]
        figures: list[Figure] = []
        if settings is None:
            plan = read_plan(Path(args.plan))
            cut = replay(weights, plan, hashing.result())
            plan, base = recounted(plan, cut), prepare(weights, plan)
        else:
            if session is not None:
                refuse_early(args, weights, settings, budget)
            effort = Effort(args.candidates or 0, args.rounds, args.search_minutes, jobs=args.jobs)
            by_unit = unit_scorer(args, _bar)
            names_of_pair = (cfg.name, weights_path.name)
            decision = choose(
                weights, settings, names_of_pair, session, budget, effort, by_unit, adjust=measured.adjust
            )
            plan, cut, base = decision.plan, decision.cut, prepare(weights, decision.plan)
            warnings += [*decision.warnings, *measured.warnings]
        before = totals(graph, weights.file.header.size)
        if args.plan_only:
            plan = plan.with_hashes(*hashing.result())
            target = output if output.suffix == ".json" else output / "plan.json"
            with atomic_file(target, inputs, args.overwrite) as file:
                file.write(plan.dumps().encode())
            after = totals(build_graph(slim_cfg(cut)), weights.file.header.size).to_json()
            groups = [group.to_json() for group in plan.groups]
            data: dict[str, Any] = {"before": before.to_json(), "after": after, "groups": groups, **measured.report}
            outputs = {"plan": str(target)}
        else:
            names = ResultNames.of(cfg.stem)
            with result_folder(output, inputs, args.overwrite) as folder:
                with progress(len(graph), "pruning", "layer") as bar:
                    found, made_by = measured.report, provenance()
                    data = write_result(
                        folder, names, base, plan, cut, hashing.result, warnings, bar.update, found, made_by
                    )
                if session or args.data:
                    from darkprune.search.figures import compare

                    recovery = session.recover(weights, plan, cut, folder, names) if session else None
                    figures, more = compare(weights, folder, names, recovery, labelled(args), following)
                    data.update(recovery=recovery.to_json() if recovery else None)
                    data.update(search=session.found.to_json() if session and session.found else None)
                    data.update(comparison=[figure.to_json() for figure in figures])
                    warnings += more
            after = data["after"]
            outputs = {kind: str(output / name) for kind, name in asdict(names).items()}
    if args.json:
        print_json({**data, "outputs": outputs, "warnings": warnings})
        return 0
    print_plan(plan, before, after, data.get("stages", []), outputs)
    print_measured(data)
    if figures:
        print_figures(figures)
    for message in warnings:
        warn(message)
    print_next(args, outputs)
    return 0


def settings_of(args: Namespace) -> PruneSettings:
    """Turns arguments into settings.

    Raises:
        UsageError: not exactly one way of saying how much; a list that cannot be read.
    """
    given = [name for name in HOW_MUCH if getattr(args, name) is not None]
    besides = any(getattr(args, name) is not None for name in BESIDES)
    if len(given) > 1 or not (given or besides):
        raise UsageError(
            "say how much to remove with one of --ratio 0.4, --ratios 0.1,0.2,…, --preset NAME, --target-macs 0.6, "
            "--target-params, --target-size, --target-latency or --plan FILE; --units N and --similarity T go with "
            "any of them, or alone"
        )
    chosen = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    chosen["exclude"] = tuple(_numbers("--exclude", args.exclude, int)) if args.exclude else ()
    if args.preset is not None:
        decided = ("allocation", *(("exclude", "round_to", "min_channels") if args.preset in WIDTH_PRESETS else ()))
        for name in decided:
            if getattr(args, name) is not None:
                raise UsageError(f"--preset {args.preset} decides that itself; leave out --{name.replace('_', '-')}")
    if args.ratios is not None:
        if args.allocation not in (None, "explicit"):
            raise UsageError(
                f"--ratios gives every group its ratio; --allocation {args.allocation} does not go with it"
            )
        chosen.update(ratios=tuple(_numbers("--ratios", args.ratios, float)), allocation="explicit")
    elif args.allocation == "explicit":
        raise UsageError("--allocation explicit needs --ratios, one per group")
    elif args.criterion in GLOBAL_CRITERIA and args.preset is None:
        chosen.setdefault("allocation", "global")  # its scores are comparable over the whole network
    return PruneSettings(**chosen)


def _bar(what: str, steps: int) -> AbstractContextManager[Bar]:
    return progress(steps, what, "step")


def _numbers(flag: str, text: str, kind: type[Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text[:60]}: give numbers separated by commas") from None
