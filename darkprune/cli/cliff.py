"""`darkprune cliff`: how far a checkpoint can be pruned before it falls, beside the unpruned one at smaller inputs."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprune.cli.console import (
    INTERRUPTED,
    add_json,
    add_pair,
    count,
    following,
    print_json,
    print_table,
    warn,
)
from darkprune.comparison.cliff import Point, Store, summarise
from darkprune.comparison.cliff_drawing import can_draw, draw_sweep
from darkprune.comparison.cliff_measure import Bench
from darkprune.data import read_dataset
from darkprune.data.dataset import Dataset
from darkprune.data.image_files import images_of
from darkprune.errors import OutputError, UsageError
from darkprune.evaluation.control import control_networks
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.progress import Progress, reporting
from darkprune.runners.base import FAST_FIRST, RUNNERS, load_with_any
from darkprune.runners.measure import DISTANCE, MAP, distance_to, map_of
from darkprune.runs.digests import digest_of_file
from darkprune.runs.provenance import write_provenance
from darkprune.runs.record import file_input
from darkprune.search.group_curves import with_curves
from darkprune.selection.allocation import ALLOCATIONS
from darkprune.selection.decide import rank
from darkprune.selection.importance import CRITERIA, GLOBAL_CRITERIA, IMAGE_CRITERIA
from darkprune.selection.settings import RECOVERIES, Selection
from darkprune.selection.voting import MERGES
from darkprune.surgery.constants import CONSTANTS
from darkprune.surgery.plan import COMPENSATIONS
from darkprune.zoo import resolve

if TYPE_CHECKING:  # torch is imported only where images are scored or fitted on
    from darkprune.search.session import Session

RATIOS = "0.05,0.1,0.2,0.3,0.4,0.5,0.6"
MOST_IMAGES = 64  #: without labels: the outputs of the unpruned network are kept in memory


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument("--data", metavar="F", help="labelled images: measures mAP (as eval takes them)")
    parser.add_argument(
        "--images", metavar="DIR", help="unlabelled images: to score and recover, and without --data to measure on"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder for cliff.csv and .json, and the curve"
    )
    parser.add_argument("--ratios", default=RATIOS, metavar="R1,R2,…", help=f"ratios to try (default {RATIOS})")
    parser.add_argument("--limit", type=int, metavar="N", help=f"first N images (without labels: {MOST_IMAGES})")
    parser.add_argument("--split", default="valid", help="which part of the data (default valid)")
    parser.add_argument("--names", metavar="F", help="names of the classes, in order")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default 8)")
    parser.add_argument("--runner", choices=tuple(RUNNERS), help="program to run the networks in")
    how = parser.add_argument_group("how to prune, as in darkprune prune")
    shared_out = tuple(name for name in ALLOCATIONS if name != "explicit")
    how.add_argument("--allocation", choices=shared_out, help="default uniform; global where scores allow it")
    how.add_argument("--criterion", choices=(*CRITERIA, *IMAGE_CRITERIA), default="bn_gamma")
    how.add_argument("--recover", choices=RECOVERIES, default="none", help="draws a second curve (default none)")
    how.add_argument("--groups", default="auto")
    how.add_argument("--merge", choices=MERGES, default="vote")
    how.add_argument("--compensate", choices=COMPENSATIONS, default="fold")
    how.add_argument("--constant", choices=CONSTANTS, default="mean")
    how.add_argument("--round-to", type=int, default=1, metavar="N")
    how.add_argument("--min-channels", type=int, default=8, metavar="N")
    how.add_argument("--similarity", type=float, default=0.0, metavar="T")
    how.add_argument("--units", type=int, default=0, metavar="N", help="residual units cut out at every ratio")
    parser.add_argument("--overwrite", action="store_true", help="forget what DIR holds of other settings")
    add_json(parser)


def run(args: Namespace) -> int:
    """Sweeps the ratio."""
    with reporting(None) as report:
        return _run(args, report)


def _run(args: Namespace, report: Progress) -> int:
    ratios = _ratios(args.ratios)
    cfg, weights_path, folder = resolve(args.cfg), resolve(args.weights, "weights"), Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: exists and is not a folder; choose another -o")
    graph = read_graph(cfg)
    heads_of(graph)  # without one there is nothing to measure
    args.allocation = args.allocation or ("global" if args.criterion in GLOBAL_CRITERIA else "uniform")
    settings = Selection(**{name: getattr(args, name) for name in _SETTINGS})
    dataset, paths, session = _images(args, graph, report)
    metric = MAP if dataset is not None else DISTANCE
    runner, network = load_with_any(graph, weights_path, args.runner, taps=False, order=FAST_FIRST)
    with NetworkWeights(graph, weights_path) as weights:
        by_images = session.scorer(settings.criterion) if session and settings.criterion in IMAGE_CRITERIA else None
        ranking = rank(weights, settings, by_images=by_images)
        if settings.allocation == "sensitivity":
            ranking = with_curves(ranking, settings, dataset, args.images, args.runner, following).ranking
        about = {
            "cfg": digest_of_file(cfg),
            "weights": digest_of_file(weights_path),
            "metric": metric,
            "images": sha256("\n".join(map(os.path.abspath, [*paths, args.images or ""])).encode()).hexdigest(),
            "runner": runner,
            "recover": args.recover,
            "settings": {**asdict(settings), "ratio": None},
        }
        store = Store(folder, json.loads(json.dumps(about)), args.overwrite)
        inputs = {"cfg": file_input(cfg), "weights": file_input(weights_path)}
        write_provenance(folder, inputs, goes_on=bool(store.points))
        measure = map_of(dataset, args.batch) if dataset else distance_to(network, paths, args.batch)
        bench = Bench(store, runner, measure, len(paths), following)
        recover = None
        if session is not None and args.recover != "none":
            recover = session.recover_file
        try:
            curves = [bench.pruned(ranking, replace(settings, ratio=ratio), recover) for ratio in ratios]
            controls = _controls(bench, graph, weights_path, [points[0] for points in curves])
        except KeyboardInterrupt:
            print(f"darkprune: interrupted; {len(store.points)} networks are measured, and the same command goes on",
                  file=sys.stderr)  # fmt: skip
            return INTERRUPTED
    pruned, recovered = [points[0] for points in curves], [point for points in curves for point in points[1:]]
    result = summarise(controls[0], pruned, controls, metric, recovered)
    store.write_tables(result)
    drawn: list[str] = []
    if can_draw():
        drawn = draw_sweep(folder, result, cfg.stem)
    else:
        warn("cliff.png is not drawn: matplotlib is not installed (pip install 'darkprune[report]')")
    outputs = [str(folder / name) for name in ("cliff.csv", "cliff.json", *drawn)]
    if args.json:
        print_json({**result, "cfg": args.cfg, "weights": args.weights, "runner": runner, "outputs": outputs})
    else:
        _print(result, runner, len(paths), outputs)
    return 0


def _controls(bench: Bench, graph: Graph, weights: Path, pruned: Sequence[Point]) -> list[Point]:
    """Measures the unpruned network, at its own size first, then at those that cost what the pruned ones do."""
    return [bench.control(each, weights) for each in control_networks(graph, [point.macs for point in pruned])]


_SETTINGS = (
    "allocation", "criterion", "groups", "merge", "compensate", "constant", "round_to", "min_channels", "units",
    "similarity",
)  # fmt: skip


def _ratios(text: str) -> list[float]:
    try:
        ratios = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(f"--ratios {text[:60]}: give numbers separated by commas") from None
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise UsageError(f"--ratios {text[:60]}: each must be above 0 and below 1 (0, unpruned, is always measured)")
    return ratios


def _images(args: Namespace, graph: Graph, report: Progress) -> tuple[Dataset | None, tuple[Path, ...], Session | None]:
    """Reads the labels, lists the images that are measured on, and opens those that are scored and fitted on."""
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: must be at least 1")
    if args.data is None and args.images is None:
        raise UsageError("give --data F (labelled images: mAP) or --images DIR (unlabelled: distance of the outputs)")
    by_images = args.criterion in IMAGE_CRITERIA or args.recover != "none"
    if by_images and args.images is None:
        flag = f"--recover {args.recover}" if args.recover != "none" else f"--criterion {args.criterion}"
        raise UsageError(f"{flag} looks at images: give some with --images DIR (labels are not needed)")
    session = None
    if by_images:
        from darkprune.search.session import Session

        session = Session(Path(args.images), graph, args.recover, report)
    if args.data is None:
        held_out = session.samples.held_out.paths if session else images_of(Path(args.images))
        return None, held_out[: args.limit or MOST_IMAGES], session
    dataset = read_dataset(args.data, args.split, args.names)
    dataset = replace(dataset, images=dataset.images[: args.limit])
    return dataset, tuple(record.path for record in dataset.images), session


def _print(result: dict[str, Any], runner: str, images: int, outputs: list[str]) -> None:
    is_map = result["metric"] == MAP

    def show(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}" if is_map else f"{value:.4f}"

    last = result.get("recovered", result["pruned"])
    has_recovery = "recovered" in result
    rows: list[tuple[object, ...]] = []
    for row, final in zip(result["pruned"], last, strict=True):
        verdict = {None: "-", True: "yes", False: "no"}[final["beats_control"]]
        more = [show(final["value"])] if has_recovery else []
        rows.append(
            (f"{row['ratio']:g}", count(row["params"]), count(row["macs"]), f"{100 * row['macs_removed']:.1f} %",
             show(row["value"]), *more, show(row["control"]), verdict)
        )  # fmt: skip
    first = result["control"][0]
    value = show(first["value"])
    blank = [""] * (3 if has_recovery else 2)
    rows.insert(0, ("unpruned", count(first["params"]), count(first["macs"]), "0 %", value, *blank))
    more = ["recovered"] if has_recovery else []
    print_table(("ratio", "parameters", "MACs", "removed", result["metric"], *more, "control", "beats it"), rows)
    print("\ncontrol: the unpruned network at a smaller input")
    print_table(
        ("input", "MACs", "removed", result["metric"]),
        [
            (f"{r['width']}x{r['height']}", count(r["macs"]), f"{100 * r['macs_removed']:.1f} %", show(r["value"]))
            for r in result["control"]
        ],
    )
    print(f"\n{images} images, {runner}")
    if not is_map:
        print("distance: 0 is the same output, 1 as far as none at all; maps of another size are interpolated, which")
        print("counts against the control")
    for kind, cliff in (("pruned", result["cliff"]), ("recovered", result.get("recovered_cliff"))):
        if cliff:
            print(
                f"cliff, {kind}: between ratio {cliff['from_ratio']:g} and {cliff['to_ratio']:g} {result['metric']} "
                f"goes from {show(cliff['before'])} to {show(cliff['behind'])}"
            )
    beats = result.get("recovery_beats_control_at", result["pruning_beats_control_at"])
    compared = sum(row["control"] is not None for row in result["pruned"])
    if not beats:
        print("PRUNING DOES NOT PAY HERE: at equal operations the unpruned network at a smaller input is better at")
        print("every ratio; retrain or distil after pruning, use a better criterion, or take the smaller input")
    elif len(beats) < compared:
        print("pruning beats the smaller input only at ratio " + ", ".join(f"{ratio:g}" for ratio in beats))
    print("written: " + ", ".join(outputs))
