"""`darkprune verify`: does the slim pair compute what it should?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkprune.cli.console import add_json, print_json, print_table, say, warn
from darkprune.errors import RunnerError
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.runners.base import RUNNERS
from darkprune.runners.verify import TOLERANCE, Difference, NumericCheck, check_numbers, static_problems
from darkprune.runs.digests import digest_of_file
from darkprune.surgery.apply import Cut
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("cfg", metavar="CFG", help="the original .cfg")
    parser.add_argument("weights", metavar="WEIGHTS", help="its .weights")
    parser.add_argument("slim_cfg", metavar="SLIM.cfg", help="the pruned .cfg")
    parser.add_argument("slim_weights", metavar="SLIM.weights", help="its .weights")
    parser.add_argument("--plan", metavar="FILE", help="the plan (default: plan.json beside SLIM.cfg)")
    parser.add_argument("--static", action="store_true", help="compare the files only, run nothing")
    parser.add_argument("--image", action="append", metavar="FILE", help="an image to run (default: one of noise)")
    parser.add_argument("--runner", choices=tuple(RUNNERS), help="program to run the networks in")
    parser.add_argument("--layers", action="store_true", help="show every layer, not only the outputs")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints what was found; exit status 1 if the pair is not what it should be."""
    original_graph, slim_graph = read_graph(resolve(args.cfg)), read_graph(resolve(args.slim_cfg))
    with (
        NetworkWeights(original_graph, resolve(args.weights, "weights")) as original,
        NetworkWeights(slim_graph, resolve(args.slim_weights, "weights")) as slim,
    ):
        before, cut = _cut(args, original)
        report = Path(args.slim_cfg).parent / "report.json"
        problems = static_problems(before, slim, cut, report if report.exists() else None)
        check: NumericCheck | None = None
        skipped = _reason_to_skip(args, cut, problems)
        if skipped is None and cut is not None:
            images = _images(args.image, original_graph)
            try:
                check = check_numbers(before, slim, cut, images, args.runner, lambda what: say(f"running {what} …"))
            except RunnerError as error:
                if args.runner:
                    raise
                skipped = f"no program at hand runs this network: {error}"
    ok = not problems and (check is None or check.ok)
    if args.json:
        print_json(_to_json(ok, problems, check, skipped))
    else:
        _print(problems, check, skipped, args.layers)
    return 0 if ok else 1


def _cut(args: Namespace, original: NetworkWeights) -> tuple[NetworkWeights, Cut | None]:
    """Returns what the plan says, and the network that it says it of: the original, without the units cut out."""
    path = Path(args.plan) if args.plan else Path(args.slim_cfg).parent / "plan.json"
    if not args.plan and not path.exists():
        return original, None
    plan = read_plan(path)
    hashes = digest_of_file(Path(original.graph.cfg.source)), digest_of_file(original.file.path)
    surgery = replay(original, plan, hashes)
    return surgery.base, surgery.cut


def _reason_to_skip(args: Namespace, cut: Cut | None, problems: list[str]) -> str | None:
    if args.static:
        return "--static was given"
    if cut is None:
        return "there is no plan.json beside the slim cfg, so that it is not known which channels went; give --plan"
    if problems:
        return "the files are not what they should be"
    return None


def _images(paths: list[str] | None, graph: Graph) -> list[NDArray[np.float32]]:
    shape = graph.net.input
    if not shape.is_map:
        raise RunnerError("the network reads no image; use --static")
    if not paths:
        # smooth noise: neighbouring pixels of a photograph are alike
        random = np.random.default_rng(0)
        coarse = random.random((shape.c, -(-shape.h // 8), -(-shape.w // 8)), np.float32)
        noise = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, : shape.h, : shape.w]
        return [np.ascontiguousarray(noise)]
    from darkprune.data.images import read_image, resize

    return [resize(read_image(Path(path), shape.c), shape.w, shape.h) for path in paths]


def _to_json(ok: bool, problems: list[str], check: NumericCheck | None, skipped: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {"ok": ok, "static": {"ok": not problems, "problems": problems}, "numeric": None}
    if check is None:
        return {**data, "skipped": skipped}
    worst = check.worst_cut
    data["numeric"] = {
        "ok": check.ok,
        "runner": check.runner,
        "images": check.images,
        "tolerance": TOLERANCE,
        "worst_layer": _difference(worst) if worst else None,
        "cut": [_difference(difference) for difference in check.cut],
        "compensation": [_difference(difference) for difference in check.compensation],
        "outputs": list(check.outputs),
    }
    return data


def _difference(difference: Difference) -> dict[str, Any]:
    """Returns the fields; null where a network gives NaN or infinite values, which JSON does not have."""
    return {key: value if isfinite(value) else None for key, value in asdict(difference).items()}


def _print(problems: list[str], check: NumericCheck | None, skipped: str | None, every: bool) -> None:
    print("files: " + ("as the plan says" if not problems else f"{len(problems)} problems"))
    for problem in problems:
        print(f"  {problem}")
    if check is None:
        warn(f"nothing was run: {skipped}")
        return
    worst = check.worst_cut
    if worst is None:
        warn(f"runner {check.runner} shows no layer to compare")
        return
    verdict = "the cut is right" if check.ok else "THE CUT IS WRONG"
    print(
        f"numbers ({check.runner}, {check.images} image{'s' if check.images > 1 else ''}): {verdict}: largest relative "
        f"difference from the masked original {worst.relative:.1e} (layer {worst.layer}; tolerance {TOLERANCE:g})"
    )
    shown = check.compensation if every else [d for d in check.compensation if d.layer in check.outputs]
    print("\nwhat the compensation leaves, against the original with the removed channels held at their constants")
    print_table(("layer", "absolute", "relative", "at borders", "inside"), [_row(difference) for difference in shown])


def _row(d: Difference) -> tuple[object, ...]:
    return d.layer, f"{d.absolute:.3g}", f"{d.relative:.1e}", f"{d.border:.1e}", f"{d.interior:.1e}"
