"""`darkprune cliff`: how far a checkpoint can be pruned before it falls, beside the unpruned one at smaller inputs."""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from darkprune.commands.console import add_json, add_pair, count, follow, print_json, print_table, progress, warn
from darkprune.darknet.output import atomic_file
from darkprune.data import read_dataset
from darkprune.data.dataset import Dataset
from darkprune.data.reading import list_images
from darkprune.errors import DataError, UsageError
from darkprune.evaluation import evaluate
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.evaluation.sweep import DISTANCE, MAP, Point, Store, control_sizes, summarise
from darkprune.graph.graph import Graph, read_graph, with_input_size
from darkprune.graph.weights import NetworkWeights
from darkprune.pruning.allocation import ALLOCATIONS
from darkprune.pruning.apply import constants_of, write_slim
from darkprune.pruning.constants import CONSTANTS
from darkprune.pruning.importance import CRITERIA
from darkprune.pruning.merge import MERGES
from darkprune.pruning.plan import COMPENSATIONS, hash_file
from darkprune.pruning.prune import PruneSettings, Ranking, decide, prepare, rank
from darkprune.pruning.reduced import original_of
from darkprune.pruning.replacement import with_offsets
from darkprune.runners.base import FAST_FIRST, RUNNERS, LoadedNetwork, load_with_any
from darkprune.zoo import resolve

RATIOS = "0.05,0.1,0.2,0.3,0.4,0.5,0.6"
MOST_IMAGES = 64  #: without labels: the outputs of the unpruned network are kept in memory


#: measures a loaded network; the callback is called with (images done, images in all)
Measure = Callable[[LoadedNetwork, Callable[[int, int], None]], float]


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", metavar="F", help="labelled images: measures mAP (as eval takes them)")
    what.add_argument("--images", metavar="DIR", help="images without labels: measures the distance of the outputs")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for cliff.csv, .json and .png")
    parser.add_argument("--ratios", default=RATIOS, metavar="R1,R2,…", help=f"ratios to try (default {RATIOS})")
    parser.add_argument("--limit", type=int, metavar="N", help=f"first N images (without labels: {MOST_IMAGES})")
    parser.add_argument("--split", default="valid", help="which part of the data (default valid)")
    parser.add_argument("--names", metavar="F", help="names of the classes, in order")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default 8)")
    parser.add_argument("--runner", choices=tuple(RUNNERS), help="program to run the networks in")
    how = parser.add_argument_group("how to prune, as in darkprune prune")
    shared_out = tuple(name for name in ALLOCATIONS if name != "explicit")
    how.add_argument("--allocation", choices=shared_out, default="uniform")
    how.add_argument("--criterion", choices=CRITERIA, default="bn_gamma")
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
    ratios = _ratios(args.ratios)
    cfg, weights_path, folder = resolve(args.cfg), resolve(args.weights, "weights"), Path(args.output)
    graph = read_graph(cfg)
    heads_of(graph)  # without one there is nothing to measure
    settings = PruneSettings(**{name: getattr(args, name) for name in _SETTINGS})
    dataset, paths = _images(args)
    metric = MAP if dataset is not None else DISTANCE
    runner, network = load_with_any(graph, weights_path, args.runner, taps=False, order=FAST_FIRST)
    with NetworkWeights(graph, weights_path) as weights:
        ranking = rank(weights, settings)
        about = {
            "cfg": hash_file(cfg),
            "weights": hash_file(weights_path),
            "metric": metric,
            "images": sha256("\n".join(map(str, paths)).encode()).hexdigest(),
            "runner": runner,
            "settings": {**asdict(settings), "ratio": None},
        }
        store = Store(folder, json.loads(json.dumps(about)), args.overwrite)
        measure = _map_of(dataset, args.batch) if dataset else _distance_to(network, paths, args.batch)
        bench = _Bench(store, runner, measure, len(paths))
        base = bench.control(graph, weights_path, (graph.net.input.w, graph.net.input.h))
        pruned = [bench.pruned(ranking, replace(settings, ratio=ratio)) for ratio in ratios]
        controls = [base]
        for size in control_sizes(graph, [point.macs for point in pruned]):
            controls.append(bench.control(graph, weights_path, size))
    result = summarise(base, pruned, controls, metric)
    store.write_tables(result)
    drawn = _draw(folder / "cliff.png", result, cfg.stem)
    outputs = [str(folder / name) for name in ("cliff.csv", "cliff.json", *(["cliff.png"] if drawn else []))]
    if args.json:
        print_json({**result, "cfg": args.cfg, "weights": args.weights, "runner": runner, "outputs": outputs})
    else:
        _print(result, runner, len(paths), outputs)
    return 0


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


def _images(args: Namespace) -> tuple[Dataset | None, tuple[Path, ...]]:
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: must be at least 1")
    if args.data is None:
        if not Path(args.images).is_dir():
            raise DataError(f"{args.images}: no such folder; --images takes a folder of images")
        return None, list_images(Path(args.images))[: args.limit or MOST_IMAGES]
    dataset = read_dataset(args.data, args.split, args.names)
    dataset = replace(dataset, images=dataset.images[: args.limit])
    return dataset, tuple(record.path for record in dataset.images)


class _Bench:
    """Measures networks, unless the store has them already."""

    def __init__(self, store: Store, runner: str, measure: Measure, images: int) -> None:
        self._store, self._runner, self._measure, self._images = store, runner, measure, images

    def control(self, graph: Graph, weights: Path, size: tuple[int, int]) -> Point:
        """Measures the unpruned network at an input size."""
        resized = graph if size == (graph.net.input.w, graph.net.input.h) else with_input_size(graph, *size)
        return self._point("control", 0.0, resized, weights)

    def pruned(self, ranking: Ranking, settings: PruneSettings) -> Point:
        """Prunes and measures."""
        decision = decide(ranking, settings, ("", ""))
        cut, base = decision.cut, prepare(original_of(ranking.weights), decision.plan)
        with tempfile.TemporaryDirectory(prefix="darkprune-") as folder:
            path = Path(folder) / "slim.weights"
            with path.open("wb") as file:
                slim = write_slim(base, cut, with_offsets(base, constants_of(base, cut)), file)
            return self._point("pruned", settings.ratio, slim, path)

    def _point(self, kind: str, ratio: float, graph: Graph, weights: Path) -> Point:
        shape = graph.net.input
        point = Point(kind, ratio, shape.w, shape.h, graph.params, graph.macs, 0.0)
        known = self._store.points.get(point.key)
        if known is not None:
            return known
        what = f"ratio {ratio:g}" if kind == "pruned" else f"unpruned {shape.w}x{shape.h}"
        _, network = load_with_any(graph, weights, self._runner, taps=False)
        with progress(self._images, what, "image") as bar:
            value = self._measure(network, follow(bar))
        point = replace(point, value=round(value, 7))
        self._store.add(point)
        return point


def _map_of(dataset: Dataset, batch: int) -> Measure:
    def measure(network: LoadedNetwork, report: Callable[[int, int], None]) -> float:
        figures, _ = evaluate(
            network.head_maps,
            heads_of(network.graph),
            dataset,
            input_shape(network.graph),
            coco=False,
            batch=max(1, batch),
            progress=report,
        )
        return figures.map50

    return measure


def _distance_to(original: LoadedNetwork, paths: Sequence[Path], batch: int) -> Measure:
    graph = original.graph
    distance = OutputDistance(original.head_maps, heads_of(graph), paths, input_shape(graph), batch)
    return lambda network, report: distance.measure(network.head_maps, input_shape(network.graph), report)


def _draw(path: Path, result: dict[str, Any], name: str) -> bool:
    """Draws both curves over the operations removed; says why not where matplotlib is absent."""
    if find_spec("matplotlib") is None:
        warn(f"{path.name} is not drawn: matplotlib is not installed (pip install 'darkprune[report]')")
        return False
    from matplotlib.figure import Figure  # no pyplot: no window system is looked for

    percent = 100 if result["metric"] == MAP else 1
    base = {"macs_removed": 0.0, "value": result["unpruned"], "ratio": 0.0}
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.margins(x=0.1)
    for rows, style, label in (
        ([base, *result["pruned"]], "o-", "pruned"),
        (result["control"], "s--", "unpruned, smaller input"),
    ):
        x, y = [100 * row["macs_removed"] for row in rows], [percent * row["value"] for row in rows]
        axes.plot(x, y, style, label=label, color="black" if style == "o-" else "tab:blue")
    for row in result["pruned"]:
        place = (100 * row["macs_removed"], percent * row["value"])
        axes.annotate(f"{row['ratio']:g}", place, (4, 4), textcoords="offset points", fontsize=8)
    for row in result["control"][1:]:
        place = (100 * row["macs_removed"], percent * row["value"])
        axes.annotate(f"{row['width']}x{row['height']}", place, (4, -10), textcoords="offset points", fontsize=8)
    if result["cliff"]:
        ends = [row for row in [base, *result["pruned"]] if row["ratio"] in _ends(result["cliff"])]
        axes.axvspan(*(100 * row["macs_removed"] for row in ends), alpha=0.15, color="gray", label="cliff")
    axes.set(xlabel="operations removed, %", title=name)
    axes.set_ylabel("mAP@0.5, %" if percent == 100 else "distance to the unpruned outputs")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(path, overwrite=True) as file:
        figure.savefig(file, format="png", dpi=150)
    return True


def _ends(cliff: dict[str, Any]) -> tuple[float, float]:
    return cliff["from_ratio"], cliff["to_ratio"]


def _print(result: dict[str, Any], runner: str, images: int, outputs: list[str]) -> None:
    is_map = result["metric"] == MAP

    def show(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}" if is_map else f"{value:.4f}"

    rows = []
    for row in result["pruned"]:
        verdict = {None: "-", True: "yes", False: "no"}[row["beats_control"]]
        removed = f"{100 * row['macs_removed']:.1f} %"
        rows.append((f"{row['ratio']:g}", count(row["params"]), count(row["macs"]), removed, show(row["value"]),
                     show(row["control"]), verdict))  # fmt: skip
    first = result["control"][0]
    rows.insert(0, ("unpruned", count(first["params"]), count(first["macs"]), "0 %", show(first["value"]), "", ""))
    head = ("ratio", "parameters", "MACs", "removed", result["metric"], "control", "beats it")
    print_table(head, rows)
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
    cliff = result["cliff"]
    if cliff:
        print(
            f"cliff: between ratio {cliff['from_ratio']:g} and {cliff['to_ratio']:g} {result['metric']} goes from "
            f"{show(cliff['before'])} to {show(cliff['behind'])}"
        )
    beats = result["pruning_beats_control_at"]
    compared = sum(row["control"] is not None for row in result["pruned"])
    if not beats:
        print("PRUNING DOES NOT PAY HERE: at equal operations the unpruned network at a smaller input is better at")
        print("every ratio; retrain or distil after pruning, use a better criterion, or take the smaller input")
    elif len(beats) < compared:
        print("pruning beats the smaller input only at ratio " + ", ".join(f"{ratio:g}" for ratio in beats))
    print("written: " + ", ".join(outputs))
