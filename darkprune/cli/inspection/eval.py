"""`darkprune eval`: mAP of a pair on labelled images."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.evaluate import EvaluateSettings, evaluate
from darkprune.api.pair import load
from darkprune.cli.console import add_json, add_pair, print_result, print_table
from darkprune.cli.flags import add_flags, read_flags
from darkprune.evaluation.metrics.results import EvaluateResult


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument(
        "--data", required=True, metavar="F", help="a .data file, an image list, a Pascal VOC folder, or COCO JSON"
    )
    add_flags(parser, EvaluateSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints the figures."""
    result = evaluate(load(args.cfg, args.weights), args.data, read_flags(EvaluateSettings, args))
    print_result(args, result.to_json(), result.warnings, lambda: _print(result))
    return 0


def _print(result: EvaluateResult) -> None:
    rows = [
        (c.name, f"{100 * c.ap:.2f}", c.truths, c.true_positives, c.false_positives)
        for c in result.per_class
    ]  # fmt: skip
    print_table(("class", f"AP@{result.iou:g}", "objects", "found", "false"), rows)
    counts = f"{result.images} images, {result.truths} objects, {result.detections} detections"
    print(f"\n{result.data}: {counts} ({result.runner})")
    print(f"mAP@0.5   {100 * result.map50:.2f} %")
    print(f"mAP@0.75  {100 * result.map75:.2f} %")
    if result.map is not None:
        print(f"mAP@0.5:0.95 (COCO)  {100 * result.map:.2f} %")
    print(
        f"at score {result.confidence:g}: precision {result.precision:.3f}, recall {result.recall:.3f}, "
        f"F1 {result.f1:.3f}, average IoU {result.average_iou:.3f}"
    )
