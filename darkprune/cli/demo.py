"""`darkprune demo`: the main job from end to end, on drawn scenes and a checkpoint that comes with darkprune."""

from __future__ import annotations

import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkprune.cli.compose import call
from darkprune.cli.console import add_json, count, megabytes, print_json, print_table
from darkprune.darknet.output import check_folder
from darkprune.data.scenes import write_scenes
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import totals
from darkprune.zoo import resolve

VALID_IMAGES = 150


@dataclass(frozen=True)
class Size:
    """How long a demo is.

    Attributes:
        images: training scenes; few would be learnt by heart in a long run.
        ratio: fraction of the channels that is removed.
        steps: of distillation.
    """

    images: int
    ratio: str
    steps: str


QUICK, FULL = Size(400, "0.15", "120"), Size(2000, "0.4", "400")
#: for short runs on data that is drawn at will: the cfg's own recipe takes an hour
_SHORT = ("--batch", "16", "--policy", "cosine", "--no-augment", "--no-tensorboard")
RECIPE = (*_SHORT, "--adam", "--lr", "0.001")
SPARSE = (*_SHORT, "--no-adam", "--lr", "0.002", "--iterations", "1000", "--sparsity", "dynamic")


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "-o", "--output", default="darkprune-demo", metavar="DIR", help="folder (default darkprune-demo)"
    )
    parser.add_argument(
        "--ratio", metavar="P", help=f"fraction of channels to remove (default {QUICK.ratio}, with --full {FULL.ratio})"
    )
    parser.add_argument(
        "--steps", metavar="N", help=f"steps of distillation (default {QUICK.steps}, with --full {FULL.steps})"
    )
    parser.add_argument("--full", action="store_true", help="go through sparse training first (some ten minutes)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    add_json(parser)


def run(args: Namespace) -> int:
    """Runs the stages and prints the table."""
    folder = Path(args.output)
    check_folder(folder, [], args.overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    size = FULL if args.full else QUICK
    ratio, steps = args.ratio or size.ratio, args.steps or size.steps
    _tell(args, f"drawing {size.images} training and {VALID_IMAGES} test scenes")
    data = str(write_scenes(folder / "scenes", size.images, VALID_IMAGES))
    cfg = "builtin:scenes"
    weights = str(resolve("builtin:scenes", "weights"))
    rows = []
    if args.full:
        made = folder / "sparse"
        _step(args, "train", cfg, weights, "--data", data, "-o", str(made), *SPARSE, "--target-ratio", ratio)
        weights = str(made / "scenes_final.weights")
    rows.append(_row(args, "trained sparsely" if args.full else "as it comes", cfg, weights, data))
    slim = folder / "slim"
    _step(args, "prune", cfg, weights, "--ratio", ratio, "-o", str(slim), "--overwrite")
    slim_cfg, slim_weights = str(slim / "scenes.cfg"), str(slim / "scenes.weights")
    _step(args, "verify", cfg, weights, slim_cfg, slim_weights)
    rows.append(_row(args, "pruned", slim_cfg, slim_weights, data))
    runs = folder / "distilled"
    recovered = str(runs / "scenes_final.weights")
    _step(args, "distill", cfg, weights, slim_cfg, slim_weights, "--data", data, "-o", str(runs), *RECIPE,
          "--iterations", steps, "--eval-every", steps)  # fmt: skip
    rows.append(_row(args, "distilled", slim_cfg, recovered, data))
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
    print(f"next: darkprune detect {slim_cfg} {recovered} {folder / 'scenes' / 'valid'} -o boxes/")
    return 0


def _row(args: Namespace, name: str, cfg: str, weights: str, data: str) -> dict[str, Any]:
    figures = _step(args, "eval", cfg, weights, "--data", data)
    total = totals(read_graph(resolve(cfg)))
    return {"name": name, "map50": figures["map50"], "map": figures["map"], **total.to_json()}


def _step(args: Namespace, name: str, *arguments: str) -> Any:
    """Runs a command as its own command line would, and returns its JSON."""
    _tell(args, f"$ darkprune {shlex.join([name, *arguments])}")
    return call(name, arguments, quiet=not sys.stderr.isatty())


def _tell(args: Namespace, line: str) -> None:
    print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
