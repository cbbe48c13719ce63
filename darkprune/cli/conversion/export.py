"""`darkprune export`: a pair as an ONNX file, checked before it is called done."""

from __future__ import annotations

import shlex
from argparse import Namespace

import numpy as np

from darkprune.api.conversion.export import ExportResult, ExportSettings, export
from darkprune.api.pair import load
from darkprune.cli.console import megabytes, print_result, print_table
from darkprune.cli.flags import from_pair, read_flags
from darkprune.targets import target
from darkprune.tensorrt.plans import Plans

configure = from_pair(ExportSettings, "F.onnx", "the file to write")


def run(args: Namespace) -> int:
    """Writes the file and prints what is in it."""
    settings = read_flags(ExportSettings, args)
    result = export(load(args.cfg, args.weights), args.output, settings)
    print_result(args, result.to_json(), result.warnings, lambda: _print(args, settings, result))
    return 0


def comparison_line(result: ExportResult) -> str:
    """Returns how far a file is off, or why that is not known."""
    comparison = result.comparison
    if comparison.skipped:
        return f"not compared: {comparison.skipped}"
    allowed = comparison.allowed
    rest = f"{allowed:.0e} is allowed" if np.isfinite(allowed) else "what that costs only --data tells"
    off = f"off by {comparison.worst[1]:.1e} of an output's range at most ({rest})"
    return f"onnxruntime agrees with {comparison.program}: {off}"


def print_plans(plans: Plans | None) -> None:
    """Prints what TensorRT for RTX plans for a network, beside what it is compared with."""
    if plans is None:
        return
    plan = plans.network
    if plan.skipped:
        print(f"\nnot planned: {plan.skipped}")
        return
    named = {"original": "before pruning", "rounded": f"rounded up to {plans.multiple}", "fp16": "in FP16"}
    rows = [("this network", plan), *((named[name], other) for name, other in plans.others.items())]
    what = f"TensorRT for RTX {plan.version}, {plan.precision.upper()}"
    print(f"\n{what}: parsed and built on the processor, never run")
    print_table(
        ("", "kernels", "copies", "MB written per image"),
        [(name, len(p.kernels), p.copies, f"{p.bytes_written / 1e6:.1f}") for name, p in rows],
    )


def _print(args: Namespace, settings: ExportSettings, result: ExportResult) -> None:
    file = result.file
    rows = [
        (kind, name, "x".join(map(str, sizes)))
        for kind, tensors in (("input", file.inputs), ("output", file.outputs))
        for name, sizes in tensors.items()
    ]
    print_table(("", "tensor", "shape"), rows, left=2)
    print("\noperators: " + ", ".join(f"{name} {count}" for name, count in file.operators.items()))
    boards = target(file.facts["target"]).boards
    print(f"for {boards}: opset {file.opset}, IR {file.ir}, {file.facts['precision'].upper()}")
    print(comparison_line(result))
    print_plans(result.plans)
    print(f"\nwritten: {result.onnx} ({megabytes(file.bytes)})")
    if result.accuracy is not None:
        print(f"{file.facts['precision'].upper()}: {result.accuracy.text}")
    _print_next(args, settings, result)


def _print_next(args: Namespace, settings: ExportSettings, result: ExportResult) -> None:
    place = target(settings.target)
    size = ["--size", settings.size] if settings.size else []
    names = ["--names", str(settings.names)] if settings.names else []
    if place.jetson:
        command = ["kit", args.cfg, args.weights, "--target", place.name, *size, *names, "-o", "kit/"]
    elif place.tensorrt:
        command = ["engine", str(result.onnx), "-o", str(result.onnx.with_suffix(".engine"))]
    elif settings.outputs == "heads":
        command = ["bench", args.cfg, str(result.onnx), "--runner", "onnxruntime", *size]
    else:
        return
    print("next: " + shlex.join(["darkprune", *command]))
