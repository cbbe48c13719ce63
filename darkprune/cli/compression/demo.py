"""`darkprune demo`: the main job from end to end, on drawn scenes and a checkpoint that comes with darkprune."""

from __future__ import annotations

import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkprune.api.evaluate import EvaluateSettings, evaluate
from darkprune.api.pair import Pair, load
from darkprune.api.prune import PruneSettings, prune
from darkprune.api.train import distill, train
from darkprune.api.verify import VerifySettings, verify
from darkprune.cli.console import add_json, count, megabytes, print_json, print_table
from darkprune.compression.stages import command
from darkprune.darknet.output import check_folder
from darkprune.data.scenes import write_scenes
from darkprune.errors import DarkpruneError
from darkprune.graph.stats import totals
from darkprune.training.settings import DistillSettings, TrainSettings

VALID_IMAGES = 150
CHECKPOINT = "builtin:scenes"


@dataclass(frozen=True)
class Size:
    """How long a demo is.

    Attributes:
        images: training scenes; few would be learnt by heart in a long run.
        ratio: fraction of the channels that is removed.
        steps: of distillation.
    """

    images: int
    ratio: float
    steps: int


QUICK, FULL = Size(400, 0.15, 120), Size(2000, 0.4, 400)
#: for short runs on data that is drawn at will: the cfg's own recipe takes an hour
_SHORT: dict[str, Any] = {"batch": 16, "policy": "cosine", "no_augment": True, "no_tensorboard": True}
_SPARSE: dict[str, Any] = {"adam": False, "lr": 0.002, "iterations": 1000, "sparsity": "dynamic"}


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "-o", "--output", default="darkprune-demo", metavar="DIR", help="folder (default darkprune-demo)"
    )
    parser.add_argument(
        "--ratio", type=float, metavar="P",
        help=f"fraction of channels to remove (default {QUICK.ratio}, with --full {FULL.ratio})",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, metavar="N",
        help=f"steps of distillation (default {QUICK.steps}, with --full {FULL.steps})",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="go through sparse training first (some ten minutes)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    add_json(parser)


def run(args: Namespace) -> int:
    """Runs the stages and prints the table."""
    folder = Path(args.output)
    check_folder(folder, [], args.overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    rows, slim = _stages(folder, args, _teller(sys.stderr if args.json else sys.stdout))
    seconds = time.perf_counter() - began
    if args.json:
        print_json({"networks": rows, "seconds": round(seconds, 1), "folder": str(folder)})
        return 0
    print()
    print_table(
        ("network", "mAP@0.5", "mAP@0.5:0.95", "parameters", "MACs", "weights"),
        [
            (r["name"], f"{100 * r['map50']:.1f} %", "-" if r["map"] is None else f"{100 * r['map']:.1f} %",
             count(r["params"]), count(r["macs"]), megabytes(r["bytes"]))
            for r in rows
        ],
    )  # fmt: skip
    print(f"\n{seconds:.0f} s; everything is in {folder}/")
    print(f"next: darkprune detect {slim.cfg} {slim.weights} {folder / 'scenes' / 'valid'} -o boxes/")
    return 0


def _stages(folder: Path, args: Namespace, tell: Callable[[str], None]) -> tuple[list[dict[str, Any]], Pair]:
    """Goes through the stages; returns a row per network, and the last network."""
    size = FULL if args.full else QUICK
    ratio = size.ratio if args.ratio is None else args.ratio
    steps = size.steps if args.steps is None else args.steps
    tell(f"drawing {size.images} training and {VALID_IMAGES} test scenes")
    data = write_scenes(folder / "scenes", size.images, VALID_IMAGES)
    rows: list[dict[str, Any]] = []

    def show(name: str, words: list[object], settings: object, output: Path | None = None) -> None:
        tell(f"$ {shlex.join(command(name, words, settings, output))}")

    def measure(name: str, pair: Pair) -> None:
        show("eval", [pair.cfg, pair.weights_file, "--data", data], EvaluateSettings())
        found = evaluate(pair, data)
        rows.append({"name": name, "map50": found.map50, "map": found.map, **totals(pair.graph).to_json()})

    network = load(CHECKPOINT, CHECKPOINT)
    if args.full:
        sparse = TrainSettings(**_SHORT, **_SPARSE, target_ratio=ratio)
        show("train", [network.cfg, network.weights_file, "--data", data], sparse, folder / "sparse")
        network = load(network.cfg, train(network, data, folder / "sparse", sparse).weights["final"])
    measure("trained sparsely" if args.full else "as it comes", network)
    cut = PruneSettings(ratio=ratio, overwrite=True)
    show("prune", [network.cfg, network.weights_file], cut, folder / "slim")
    slim = load(folder / "slim" / "scenes.cfg", folder / "slim" / "scenes.weights")
    files: list[object] = [network.cfg, network.weights_file, slim.cfg, slim.weights_file]
    prune(network, cut, output=folder / "slim").close()
    show("verify", files, VerifySettings())
    if not verify(slim, network).ok:
        raise DarkpruneError("darkprune verify says that the cut is wrong; run it by itself to see why")
    measure("pruned", slim)
    recipe = DistillSettings(**_SHORT, adam=True, lr=0.001, data=str(data), iterations=steps, eval_every=steps)
    show("distill", files, recipe, folder / "distilled")
    result = distill(network, slim, folder / "distilled", recipe)
    slim = load(slim.cfg, result.weights["final"])
    measure("distilled", slim)
    return rows, slim


def _teller(stream: Any) -> Callable[[str], None]:
    return lambda line: print(line, file=stream, flush=True)
