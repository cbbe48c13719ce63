"""`darkprune demo`: the main job from end to end, on drawn scenes and a checkpoint that comes with darkprune."""

from __future__ import annotations

import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from darkprune.api.detect import detect
from darkprune.api.evaluate import evaluate
from darkprune.api.pair import Pair, load
from darkprune.api.prune import PruneSettings, prune
from darkprune.api.report import REPORT, ReportSettings, report
from darkprune.api.train import distill, train
from darkprune.api.verify import verify
from darkprune.cli.console import add_json, count, megabytes, print_result, print_table
from darkprune.cli.flags import add_flags, read_flags
from darkprune.darknet.output import check_folder
from darkprune.data.scenes import write_scenes
from darkprune.errors import DarkpruneError
from darkprune.graph.stats import totals
from darkprune.settings import Settings, setting, words_of
from darkprune.training.result import TrainResult
from darkprune.training.settings import DistillSettings, TrainSettings

VALID_IMAGES = 150
CHECKPOINT = "builtin:scenes"
INSTALL = "pip install 'darkprune[train]'"


@dataclass(frozen=True)
class Size:
    """How long a demo is.

    Attributes:
        images: training scenes; few would be learnt by heart in a long run.
        ratio: fraction of the channels that is removed.
        steps: of distillation; 0 for none.
    """

    images: int
    ratio: float
    steps: int


#: by whether PyTorch is installed: without it nothing repairs what pruning costs, so less is removed
PLAIN, QUICK, FULL = Size(8, 0.08, 0), Size(400, 0.15, 120), Size(2000, 0.4, 400)
#: for short runs on data that is drawn at will: the cfg's own recipe takes an hour
_SHORT: dict[str, Any] = {"batch": 16, "policy": "cosine", "no_augment": True, "no_tensorboard": True}
_SPARSE: dict[str, Any] = {"adam": False, "lr": 0.002, "iterations": 1000, "sparsity": "dynamic"}


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """How long a demo is, and how much it removes."""

    ratio: float | None = setting(
        None, "fraction of the channels to remove", metavar="P",
        default_text=f"{QUICK.ratio}, {FULL.ratio} with --full, {PLAIN.ratio} without PyTorch",
    )  # fmt: skip
    steps: int | None = setting(None, "steps of distillation", default_text=f"{QUICK.steps}, {FULL.steps} with --full")
    full: bool = setting(False, "go through sparse training first (some ten minutes)")
    overwrite: bool = setting(False, "replace an earlier demo")


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "-o", "--output", default="darkprune-demo", metavar="DIR", help="folder (default darkprune-demo)"
    )
    add_flags(parser, DemoSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Runs the stages and prints the table."""
    folder, settings = Path(args.output), read_flags(DemoSettings, args)
    check_folder(folder, [], settings.overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    tell = partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    try:
        rows = _stages(folder, settings, tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder} keeps what is done; with --overwrite the demo begins anew") from None
    seconds = time.perf_counter() - began
    skipped = []
    if any(row["map"] is None for row in rows):
        skipped.append(f"mAP@0.5:0.95 is not measured: faster-coco-eval is not installed ({INSTALL})")
    if not _has_torch():
        skipped.append(f"not distilled: PyTorch is not installed ({INSTALL}); with it more can be removed")
    data = {"networks": rows, "seconds": round(seconds, 1), "folder": str(folder)}
    print_result(args, data, skipped, lambda: _print(rows, folder, seconds))
    return 0


def _print(rows: Sequence[dict[str, Any]], folder: Path, seconds: float) -> None:
    print()
    print_table(
        ("network", "mAP@0.5", "mAP@0.5:0.95", "parameters", "MACs", "weights"),
        [
            (r["name"], f"{100 * r['map50']:.1f} %", "-" if r["map"] is None else f"{100 * r['map']:.1f} %",
             count(r["params"]), count(r["macs"]), megabytes(r["bytes"]))
            for r in rows
        ],
    )  # fmt: skip
    print(f"\n{seconds:.0f} s; {folder}/before and {folder}/after show the same images with what each network finds")
    print(f"report: {folder / REPORT} (open it in a browser)")
    command = "compress CFG WEIGHTS --images DIR --target-macs 0.8 -o run/" if _has_torch() else "info CFG WEIGHTS"
    print(f"next, with a network of your own: darkprune {command}")


def _has_torch() -> bool:
    return find_spec("torch") is not None


def _stages(folder: Path, settings: DemoSettings, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Goes through the stages; returns a row per network."""
    size = FULL if settings.full else QUICK if _has_torch() else PLAIN
    ratio = size.ratio if settings.ratio is None else settings.ratio
    steps = size.steps if settings.steps is None else settings.steps
    tell(f"drawing {size.images} training and {VALID_IMAGES} test scenes")
    data, images = write_scenes(folder / "scenes", size.images, VALID_IMAGES), folder / "scenes" / "valid"
    rows: list[dict[str, Any]] = []

    def show(*words: object) -> None:
        tell(f"$ {shlex.join(['darkprune', *map(str, words)])}")

    def measure(name: str, pair: Pair) -> None:
        show("eval", *_files(pair), "--data", data)
        found = evaluate(pair, data)
        rows.append({"name": name, "map50": found.map50, "map": found.map, **totals(pair.graph).to_json()})

    network = load(CHECKPOINT, CHECKPOINT)
    if settings.full:
        output = folder / "sparse"
        sparse = TrainSettings(**_SHORT, **_SPARSE, ratio=ratio)
        show("train", *_files(network), "--data", data, "-o", output, *words_of(sparse))
        network = _trained(network, train(network, data, output, sparse))
    measure("trained sparsely" if settings.full else "as it comes", network)
    slim = load(folder / "slim" / "scenes.cfg", folder / "slim" / "scenes.weights")
    show("prune", *_files(network), "--ratio", ratio, "--force", "-o", folder / "slim")
    prune(network, PruneSettings(ratio=ratio, force=True, overwrite=True), output=folder / "slim").close()
    show("verify", *_files(network), *_files(slim))
    found = verify(slim, network)
    tell(f"{found.describe()} ({found.runner})")
    if not found.ok:
        raise DarkpruneError("darkprune verify says that the cut is wrong; run it by itself to see why")
    measure("pruned", slim)
    if steps:
        output = folder / "distilled"
        recipe = {**_SHORT, "adam": True, "lr": 0.001, "iterations": steps, "eval_every": steps}
        learning = DistillSettings(**recipe, data=str(data))
        show("distill", *_files(network), *_files(slim), "-o", output, *words_of(learning))
        slim = _trained(slim, distill(network, slim, output, learning))
        measure("distilled", slim)
    for name, pair in (("before", network), ("after", slim)):
        show("detect", *_files(pair), images, "-o", folder / name)
        detect(pair, images, output=folder / name)
    show("report", folder, "--data", data)
    report(folder, ReportSettings(data=data, overwrite=True))
    return rows


def _trained(pair: Pair, result: TrainResult) -> Pair:
    """Returns the pair after its training.

    Raises:
        KeyboardInterrupt: the training was stopped.
    """
    if result.stopped:
        raise KeyboardInterrupt
    return load(pair.cfg, result.weights["final"])


def _files(pair: Pair) -> tuple[object, object]:
    """Returns a pair as it is written on the command line."""
    own = load(CHECKPOINT, CHECKPOINT)
    return CHECKPOINT if pair.cfg == own.cfg else pair.cfg, CHECKPOINT if pair.weights == own.weights else pair.weights
