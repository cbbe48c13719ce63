"""`darkprune compress`: from a checkpoint to a slim one that is ready to use, stage by stage."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

from darkprune.api.prune import PruneSettings, refuse_early
from darkprune.cli import compose
from darkprune.cli.console import (
    INTERRUPTED,
    add_json,
    add_pair,
    count,
    duration,
    follow,
    megabytes,
    print_json,
    print_table,
    progress,
    warn,
)
from darkprune.cli.flags import read_flags
from darkprune.compression.defaults import COMMANDS, STAGES
from darkprune.compression.given import Asked, look_at
from darkprune.compression.manifest import open_manifest
from darkprune.compression.settings import Flag, Tables, as_flags, read_assignment, read_settings
from darkprune.compression.stages import Compression, Pair, Wish, arguments
from darkprune.compression.summary import advice_for, best_of, rows_of, verdict_on
from darkprune.darknet.output import atomic_file, check_folder
from darkprune.data.class_names import names_file
from darkprune.errors import UsageError
from darkprune.graph.graph import read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.progress import reporting
from darkprune.runs.digests import digest_of_file
from darkprune.runs.lock import locked
from darkprune.runs.record_file import RecordFile
from darkprune.runs.stages import FileSource, Stage, Status, look_ahead, run_stages
from darkprune.tensorrt.targets import target, targets
from darkprune.zoo import resolve

BUDGETS = ("target-macs", "target-params", "target-size", "ratio")
#: keys of [compress], all of them flags of the command line too
RUN_KEYS = ("data", "valid", "images", "names", *BUDGETS, "target", "skip", "device", "workers")
#: flags of the stages' commands that compress gives itself
_OURS = "compress gives that itself"
KEPT = {
    **dict.fromkeys(("output", "resume", "overwrite", "json", "plan", "help", "unlabelled"), _OURS),
    **dict.fromkeys(("data", "valid", "images", "names"), "say it once, in [compress] or on the command line"),
    "plan-only": "write a plan with darkprune prune --plan-only",
    "recover": "that is a stage of its own: [recover]",
}


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
    what = parser.add_argument_group("what there is to work with (more is better; nothing is needed)")
    what.add_argument("--data", metavar="F", help="labelled images to train on: .data, VOC folder, COCO JSON, list")
    what.add_argument("--valid", metavar="F", help="another labelled set to measure mAP on (default: the data's own)")
    what.add_argument("--images", metavar="DIR", help="images without labels: a folder or a list")
    what.add_argument("--names", metavar="F", help="names of the classes, in order")
    how_much = parser.add_mutually_exclusive_group()
    for kind, example in (("macs", "0.5 or 12G"), ("params", "0.5 or 24M"), ("size", "0.5 or 90MB")):
        how_much.add_argument(f"--target-{kind}", metavar="V", help=f"what shall remain: {example}")
    how_much.add_argument("--ratio", metavar="P", help="fraction of the channels to remove instead")
    parser.add_argument("--target", choices=tuple(targets()), help="what it will run on; a board gets a kit")
    run_ = parser.add_argument_group("the run")
    run_.add_argument("--skip", action="append", choices=STAGES, help="leave a stage out (may be repeated)")
    run_.add_argument("--from", dest="begin", choices=STAGES, help="do this stage and those behind it again")
    run_.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    run_.add_argument("--device", help="to train on: cpu, cuda, cuda:1 (default: a GPU if there is one)")
    run_.add_argument("--workers", help="processes that prepare images (default: one per core)")
    run_.add_argument("--overwrite", action="store_true", help="forget what an earlier run in RUN has done")
    add_json(parser)


def run(args: Namespace) -> int:
    """Goes through the stages."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("compress is one process; for several, run darkprune train and distill with torchrun")
    cfg, weights = resolve(args.cfg), resolve(args.weights, "weights")
    room = Path(args.output)
    check_folder(room, [cfg, weights], overwrite=True)  # what may lie in it is for the manifest to say
    plan = _plan(args, Pair("original", cfg, weights), room)
    manifest = open_manifest(room, {"cfg": digest_of_file(cfg), "weights": digest_of_file(weights)}, args.overwrite)
    if args.begin:
        again = (*STAGES[STAGES.index(args.begin) :], "result")
        manifest.drop({name for name in manifest.records if name.partition(":")[0] in again})
    if args.dry_run:
        return _dry_run(args, plan, manifest)
    advice = advice_for(plan)
    for line in advice:
        warn(line)
    with locked(room):
        for source in plan.given.to_write():
            with reporting(None) as report:
                source.write(report)
        try:
            run_stages(plan.stages, manifest, partial(_do, plan, manifest, quiet=args.json), _tell)
        except KeyboardInterrupt:
            print("darkprune: stopped; the same command goes on from here", file=sys.stderr)
            return INTERRUPTED
    rows = rows_of(plan, manifest)
    verdict = verdict_on(rows)
    if args.json:
        data = {"run": str(room), "networks": rows, "outputs": _outputs(plan), "advice": [*advice, *verdict]}
        print_json({**data, "stages": {stage.name: manifest.records[stage.name].result for stage in plan.stages}})
        return 0
    _print(rows, plan)
    for line in verdict:
        warn(line)
    print("next: " + shlex.join(["darkprune", "report", args.output]))
    print("      " + shlex.join(["darkprune", "detect", *_outputs(plan)[:2], "IMAGES", "-o", "boxes/"]))
    return 0


def _plan(args: Namespace, original: Pair, room: Path) -> Compression:
    """Reads settings and images, and checks every command line before any is carried out."""
    tables = read_settings(Path(args.config)) if args.config else {}
    for text in args.set:
        section, key, value = read_assignment(text)
        tables.setdefault(section, {})[key] = value
    how_much = {name: value for name in BUDGETS if (value := getattr(args, name.replace("-", "_"))) is not None}
    stages = _into(args, tables, how_much)
    graph = read_graph(original.cfg)
    asked = Asked(args.data, args.valid, args.images, args.names, names_file(graph))
    wish = Wish(
        how_much,
        args.target,
        args.target is not None and bool(target(args.target).tensorrt),
        frozenset(args.skip or ()),
        stages,
        {name: value for name in ("device", "workers") if (value := getattr(args, name)) is not None},
    )
    plan = Compression(original, room, look_at(asked, graph, room), wish)
    for stage in plan.stages:
        if stage.command:
            checked = compose.check(stage.command[1], stage.command[2:])
            if stage.name == "prune":
                _check_budget(checked, original)
    return plan


def _check_budget(args: Namespace, original: Pair) -> None:
    """Refuses a budget that cannot be met, before anything is drawn, trained or scored."""
    graph = read_graph(original.cfg)
    with NetworkWeights(graph, original.weights) as weights:
        refuse_early(weights, read_flags(PruneSettings, args))


def _into(args: Namespace, tables: Tables, how_much: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Takes [compress] into the arguments, where the command line leaves it room; returns the stages' settings."""
    chosen = args.target or tables.get("compress", {}).get("target")
    board = isinstance(chosen, str) and chosen in targets() and bool(target(chosen).tensorrt)
    known: dict[str, dict[str, Flag]] = {"compress": {name: Flag() for name in RUN_KEYS}}
    for stage, command in COMMANDS.items():
        flags = compose.flags_of("kit" if stage == "export" and board else command)
        known[stage] = {name: flag for name, flag in flags.items() if name not in KEPT}
    known["recover"] = {"recover": Flag()}
    known["export"].pop("target")
    found = as_flags(tables, known, KEPT)
    given = found.pop("compress", {})
    for name, value in given.items():
        if name in BUDGETS:
            if not how_much:
                how_much[name] = value
                if sum(each in BUDGETS for each in given) > 1:
                    raise UsageError(f"settings: [compress] holds more than one of {', '.join(BUDGETS)}")
        elif getattr(args, name) is None:
            setattr(args, name, str(value).split(",") if name == "skip" else value)
    for name, choices in (("skip", STAGES), ("target", tuple(targets()))):
        values = getattr(args, name) or ()
        for value in [values] if isinstance(values, str) else values:
            if value not in choices:
                raise UsageError(f"settings: {name} = {value[:40]} in [compress]; there are {', '.join(choices)}")
    return found


def _do(plan: Compression, manifest: RecordFile, stage: Stage, resume: bool, quiet: bool) -> dict[str, Any]:
    """Carries a stage out and returns what it reports."""
    if stage.command:
        more = ["--resume"] if resume else []
        made = compose.call(stage.command[1], [*stage.command[2:], *more], quiet and not sys.stderr.isatty())
        for line in made.get("warnings", []):
            warn(line)
        return made
    paths = {source.role: source.path for source in stage.sources}
    if stage.step == "result":
        return _put_result(stage, paths, best_of(plan, manifest))
    if stage.step == "distance":
        from darkprune.compression.measure import distance_of

        before, after = (paths["original cfg"], paths["original weights"]), (paths["cfg"], paths["weights"])
        with progress(0, "output distance", "image") as bar:
            return {"distance": distance_of(before, after, paths["held out"], follow(bar))}
    return _measure_control(plan, paths, manifest, quiet)


def _measure_control(plan: Compression, paths: dict[str, Path], manifest: RecordFile, quiet: bool) -> dict[str, Any]:
    """Measures the unpruned network at the input sizes around the slim one's operations, and interpolates."""
    from darkprune.compression.measure import control_for
    from darkprune.evaluation.control import control_at

    macs, networks = control_for(paths["cfg"], paths["slim cfg"])
    pair = (FileSource("cfg", paths["cfg"]), FileSource("weights", paths["weights"]))
    line = arguments(pair, plan.measuring, None)
    sizes = [f"{network.net.input.w}x{network.net.input.h}" for network in networks]
    known = manifest.records.get("evaluate: original")
    values = [float(known.result["map50"])] if known is not None and known.done else []
    values += [compose.call("eval", [*line, "--size", size], quiet)["map50"] for size in sizes[len(values) :]]
    points = [(network.macs, value) for network, value in zip(networks, values, strict=True)]
    map50 = control_at(points, macs)
    if map50 is None or len(networks) == 1:
        return {}
    between = f"{sizes[-2]} to {sizes[-1]}" if networks[-1].macs < macs else sizes[-1]
    return {"network": f"original at {between}", "map50": map50, "macs": macs}


def _put_result(stage: Stage, paths: dict[str, Path], best: Pair) -> dict[str, Any]:
    """Copies the best network to the top of the run's folder."""
    given = {".cfg": best.cfg, ".weights": best.weights}
    for path in stage.files:
        source = given.get(path.suffix) or paths[path.suffix[1:]]
        with atomic_file(path, overwrite=True) as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)
    return {"network": best.name}


def _tell(stage: Stage, status: Status) -> None:
    line = f"[{stage.name}] {status.why}"
    if status.todo and stage.command:
        line += f"\n{_command(stage)}"
    print(line, file=sys.stderr, flush=True)


def _command(stage: Stage) -> str:
    return f"$ {shlex.join(stage.command)}"


def _dry_run(args: Namespace, plan: Compression, manifest: RecordFile) -> int:
    found = look_ahead(plan.stages, manifest)
    if args.json:
        rows = [{"stage": stage.name, "todo": status.todo, "why": status.why} for stage, status in found]
        print_json({"run": str(plan.folder), "stages": rows, "advice": advice_for(plan)})
        return 0
    for line in advice_for(plan):
        warn(line)
    print_table(("stage", ""), [(stage.name, status.why) for stage, status in found], left=2)
    print()
    for stage, status in found:
        if status.todo and stage.command:
            print(_command(stage))
    return 0


def _outputs(plan: Compression) -> list[str]:
    made = [path for stage in plan.stages if stage.kind in ("result", "export") for path in stage.files]
    return [os.path.relpath(path) for path in made]


def _print(rows: list[dict[str, Any]], plan: Compression) -> None:
    def quality(row: dict[str, Any]) -> str:
        if plan.given.valid is not None:
            return "-" if row["map50"] is None else f"{100 * row['map50']:.2f} %"
        return "-" if row["distance"] is None else f"{row['distance']:.4f}"

    title = "output distance" if plan.given.valid is None else "mAP@0.5"
    print_table(
        ("network", title, "parameters", "MACs", "weights", "time"),
        [
            (row["network"] + (" (result)" if row["result"] else ""), quality(row),
             count(row["params"]), count(row["macs"]), megabytes(row["bytes"]),
             "" if row["seconds"] is None else duration(row["seconds"]))
            for row in rows
        ],
    )  # fmt: skip
    print("\nwritten: " + ", ".join(_outputs(plan)))
