"""`darkprune export`: a pair as an ONNX file, checked before it is called done."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from darkprune.cli.console import add_json, add_pair, megabytes, print_json, print_table, warn
from darkprune.cli.export_accuracy import what_it_costs
from darkprune.cli.export_pair import Exported, agreement_line, export_pair, plan_hash, summary
from darkprune.cli.export_precision import Precision, add_precision, numbers, precision_of
from darkprune.darknet.output import checked_file
from darkprune.data import read_dataset
from darkprune.data.class_names import class_names
from darkprune.errors import UsageError
from darkprune.graph.graph import read_graph, resized
from darkprune.graph.weights import NetworkWeights
from darkprune.onnx.emit.outputs import FORMS, Suppression
from darkprune.onnx.options import ExportOptions
from darkprune.tensorrt.targets import target, targets
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument("-o", "--output", required=True, metavar="F.onnx", help="the file to write")
    parser.add_argument(
        "--target", choices=tuple(targets()), default="onnxruntime", help="what will read it (default onnxruntime)"
    )
    parser.add_argument("--outputs", choices=FORMS, default="heads", help="what it gives (default heads: raw maps)")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX opset (default 13, or what the target reads)")
    parser.add_argument("--batch", default="1", metavar="N|dynamic", help="images per call (default 1)")
    parser.add_argument("--size", metavar="WxH", help="another input size than the cfg's")
    parser.add_argument("--names", metavar="F", help="names of the classes (default: the cfg's own .names beside it)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    limits = parser.add_argument_group("suppression inside the file (--outputs nms, efficientnms)")
    limits.add_argument("--thresh", type=float, default=0.25, help="lowest score (default 0.25)")
    limits.add_argument("--nms", type=float, default=0.45, help="overlap threshold (default 0.45)")
    limits.add_argument("--most", type=int, default=100, metavar="N", help="most detections (default 100)")
    add_precision(parser)
    parser.add_argument("--keep-fp32", metavar="L1,L2,…", help="with --fp16: layers that stay FP32")
    checks = parser.add_argument_group("checks")
    checks.add_argument("--static", action="store_true", help="check structure and shapes only, run nothing")
    checks.add_argument("--image", action="append", metavar="F", help="an image to compare with (default: noise)")
    checks.add_argument("--data", metavar="F", help="labelled images: measure what --fp16 or --int8 costs")
    checks.add_argument("--split", default="valid", help="which part of the data (default valid)")
    add_json(parser)


def run(args: Namespace) -> int:
    """Writes the file and says what is in it."""
    cfg, weights, output = resolve(args.cfg), resolve(args.weights, "weights"), Path(args.output)
    precision = replace(precision_of(args), keep=numbers("--keep-fp32", args.keep_fp32))
    _check_usage(args, precision)
    graph = resized(read_graph(cfg), args.size)
    names = class_names(args.names, graph)
    options = ExportOptions(
        target=args.target,
        opset=args.opset,
        batch=_batch(args.batch),
        outputs=args.outputs,
        names=names,
        limits=Suppression(args.thresh, args.nms, args.most),
        plan_hash=plan_hash(cfg),
    )
    images = [Path(image) for image in args.image or ()]
    dataset = read_dataset(args.data, args.split, args.names) if args.data else None
    accuracy = None
    with ExitStack() as stack:
        path = stack.enter_context(checked_file(output, [cfg, weights], args.overwrite))
        if precision.cache is not None:
            cache = stack.enter_context(checked_file(precision.cache, [cfg, weights, output], args.overwrite))
            precision = replace(precision, cache=cache)
        with NetworkWeights(graph, weights) as pair:
            made = export_pair(pair, options, precision, path, images, static=args.static)
        if dataset is not None:
            accuracy = what_it_costs(graph, weights, path, dataset)
    if args.json:
        print_json(_to_json(output, made, accuracy))
        return 0
    _print(output, made)
    if accuracy is not None:
        print(f"{precision.name.upper()}: {accuracy['text']}")
    for remark in made.remarks:
        warn(remark)
    _print_next(args, output)
    return 0


def _check_usage(args: Namespace, precision: Precision) -> None:
    if args.data and precision.name == "fp32":
        raise UsageError("--data measures what a lower precision costs: give --fp16 or --int8 too")
    if args.data and args.outputs != "heads":
        raise UsageError(f"--data measures files with raw heads, not --outputs {args.outputs}")
    if args.keep_fp32 and precision.name != "fp16":
        raise UsageError("--keep-fp32 goes with --fp16; for INT8 there is --leave-out")
    if not (0 <= args.thresh <= 1 and 0 <= args.nms <= 1 and args.most > 0):
        raise UsageError("--thresh and --nms are 0 to 1, --most is 1 or more")


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise UsageError(f"--batch {text[:40]}: give a number of images, or dynamic")
    return int(text)


def _to_json(output: Path, made: Exported, accuracy: dict[str, Any] | None) -> dict[str, Any]:
    return {"onnx": str(output), **summary(made), "accuracy": accuracy}


def _print(output: Path, made: Exported) -> None:
    facts = summary(made)
    rows = [("input", name, "x".join(map(str, sizes))) for name, sizes in facts["inputs"].items()]
    rows += [("output", name, "x".join(map(str, sizes))) for name, sizes in facts["outputs"].items()]
    print_table(("", "tensor", "shape"), rows, left=2)
    operators = ", ".join(f"{name} {count}" for name, count in facts["operators"].items())
    print(f"\noperators: {operators}")
    print(
        f"for {target(facts['target']).boards}: opset {facts['opset']}, IR {facts['ir']}, {facts['precision'].upper()}"
    )
    print(agreement_line(made))
    print(f"\nwritten: {output} ({megabytes(made.size)})")


def _print_next(args: Namespace, output: Path) -> None:
    place = target(args.target)
    size = ["--size", args.size] if args.size else []
    names = ["--names", args.names] if args.names else []
    if place.jetson:
        command = ["kit", args.cfg, args.weights, "--target", place.name, *size, *names, "-o", "kit/"]
    elif place.tensorrt:
        command = ["engine", str(output), "-o", str(output.with_suffix(".engine"))]
    elif args.outputs == "heads":
        command = ["bench", args.cfg, str(output), "--runner", "onnxruntime", *size]
    else:
        return
    print("next: " + shlex.join(["darkprune", *command]))
