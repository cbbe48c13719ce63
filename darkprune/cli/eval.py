"""`darkprune eval`: mAP of a pair on labelled images."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from darkprune.cli.console import add_json, add_pair, follow, print_json, print_table, progress, warn
from darkprune.data import read_dataset
from darkprune.evaluation import Evaluation, evaluate
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.graph.graph import read_graph
from darkprune.graph.graph import resized as resized
from darkprune.runners.base import FAST_FIRST, RUNNERS, load_with_any
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "--data", required=True, metavar="F", help="a .data file, an image list, a Pascal VOC folder, or COCO JSON"
    )
    parser.add_argument("--split", default="valid", help="which part of the data (default valid)")
    parser.add_argument("--names", metavar="F", help="names of the classes, in order")
    parser.add_argument("--points", type=int, default=0, choices=(0, 11, 101), help="recall points (default 0: area)")
    parser.add_argument("--iou", type=float, default=0.5, help="overlap that counts as found (default 0.5)")
    parser.add_argument("--thresh", type=float, default=0.25, help="score for precision and recall (default 0.25)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default 8)")
    parser.add_argument("--size", metavar="WxH", help="another input size than the cfg's")
    parser.add_argument("--runner", choices=tuple(RUNNERS), help="program to run the network in")
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints the figures."""
    graph = resized(read_graph(resolve(args.cfg)), args.size)
    heads = heads_of(graph)
    dataset = read_dataset(args.data, args.split, args.names)
    runner, network = load_with_any(graph, resolve(args.weights, "weights"), args.runner, taps=False, order=FAST_FIRST)
    with progress(len(dataset), "evaluating", "image") as bar:
        figures, found = evaluate(
            network.head_maps,
            heads,
            dataset,
            input_shape(graph),
            points=args.points,
            iou=args.iou,
            confidence=args.thresh,
            batch=max(1, args.batch),
            strict=args.strict,
            progress=follow(bar),
        )
    if args.json:
        print_json({"cfg": args.cfg, "weights": args.weights, "runner": runner, **json.loads(figures.to_json())})
    else:
        _print(figures, runner, str(dataset.source))
    for problem in found.problems[:20]:
        warn(str(problem))
    if len(found.problems) > 20:
        warn(f"… and {len(found.problems) - 20} more")
    if found.problems:
        warn(f"{len(found.problems)} of {len(dataset)} images were skipped")
    return 0


def _print(figures: Evaluation, runner: str, source: str) -> None:
    rows = [
        (c.name, f"{100 * c.ap:.2f}", c.truths, c.true_positives, c.false_positives)
        for c in figures.per_class
    ]  # fmt: skip
    print_table(("class", f"AP@{figures.iou:g}", "objects", "found", "false"), rows)
    print(f"\n{source}: {figures.images} images, {figures.truths} objects, {figures.detections} detections ({runner})")
    print(f"mAP@0.5   {100 * figures.map50:.2f} %")
    print(f"mAP@0.75  {100 * figures.map75:.2f} %")
    if figures.map is not None:
        print(f"mAP@0.5:0.95 (COCO)  {100 * figures.map:.2f} %")
    print(
        f"at score {figures.confidence:g}: precision {figures.precision:.3f}, recall {figures.recall:.3f}, "
        f"F1 {figures.f1:.3f}, average IoU {figures.average_iou:.3f}"
    )
