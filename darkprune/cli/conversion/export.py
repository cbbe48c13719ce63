"""`darkprune export`: a pair as an ONNX file, checked before it is called done."""

from __future__ import annotations

import shlex
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import numpy as np

from darkprune.api.conversion.export import ConversionSettings, ExportResult, ExportSettings, export
from darkprune.api.pair import load
from darkprune.cli.console import megabytes, print_result, print_table
from darkprune.cli.flags import from_pair, read_flags
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.settings import words_of
from darkprune.targets import ROUND_TO, Target, target
from darkprune.tensorrt.plans import Plans
from darkprune.tensorrt.trtexec import trtexec_command

#: settings that `darkprune kit` has too, for the command that comes next
_SHARED = {field.name for field in fields(ConversionSettings)} - {"overwrite", "static", "check"}

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
    worst, program = f"{comparison.worst[1]:.1e}", comparison.program
    if np.isfinite(comparison.allowed):
        allowed = f"{comparison.allowed:.0e} is allowed"
        return f"onnxruntime agrees with {program}: off by {worst} of an output's range at most ({allowed})"
    return f"onnxruntime differs from {program} by {worst} of an output's range; `export --data F` measures the cost"


def print_plans(plans: Plans | None, place: Target) -> None:
    """Prints what TensorRT for RTX plans for a network, beside what it is compared with."""
    if plans is None:
        return
    plan = plans.network
    if plan.skipped:
        print(f"\nnot planned: {plan.skipped}")
        return
    named = {"original": "before pruning", "rounded": f"rounded up to {ROUND_TO}", "fp16": "in FP16"}
    rows = [("this network", plan), *((named[name], other) for name, other in plans.others.items())]
    print(f"\nplan of TensorRT for RTX {plan.version} in {plan.precision.upper()}, made on the processor, never run:")
    print_table(
        ("", "kernels", "copies", "MB written per image"),
        [(name, len(p.kernels), p.copies, f"{p.bytes_written / 1e6:.1f}") for name, p in rows],
    )
    if place.name != "rtx":
        print("copies move values without computing any; TensorRT itself may plan otherwise")


def _print(args: Namespace, settings: ExportSettings, result: ExportResult) -> None:
    file = result.file
    rows = [
        (kind, name, "x".join(map(str, sizes)))
        for kind, tensors in (("input", file.inputs), ("output", file.outputs))
        for name, sizes in tensors.items()
    ]
    print_table(("", "tensor", "shape"), rows, left=2)
    print("\noperators: " + ", ".join(f"{name} {count}" for name, count in file.operators.items()))
    place = target(file.facts["target"])
    print(f"for {place.boards}: opset {file.opset}, IR {file.ir}, {file.facts['precision'].upper()}")
    print(comparison_line(result))
    print_plans(result.plans, place)
    print(f"\nwritten: {result.onnx} ({megabytes(file.bytes)})")
    if result.accuracy is not None:
        print(f"{file.facts['precision'].upper()}: {result.accuracy.text}")
    _print_next(args, settings, result)


def _print_next(args: Namespace, settings: ExportSettings, result: ExportResult) -> None:
    place = target(settings.target)
    size = ["--size", settings.size] if settings.size else []
    if place.jetson and settings.outputs not in ("heads", "deepstream"):
        precision = "fp16" if settings.file_precision == "fp32" else settings.file_precision
        how = BuildOptions(precision, workspace_mb=place.workspace_mb)
        path = Path(result.onnx.name)
        on_board = trtexec_command(place, path, path.with_suffix(".engine"), how)
        print(f"next: copy {result.onnx} to the board and run there: {on_board}")
        return
    if place.jetson:
        unused = {field.name for field in fields(settings)} - _SHARED
        if not settings.int8:
            unused.add("calibrate")
        command = ["kit", args.cfg, args.weights, *words_of(settings, unused), "-o", "kit/"]
    elif place.tensorrt:
        command = ["engine", str(result.onnx), "-o", str(result.onnx.with_suffix(".engine"))]
    elif settings.outputs == "heads":
        command = ["bench", args.cfg, str(result.onnx), "--runner", "onnxruntime", *size]
    else:
        return
    print("next: " + shlex.join(["darkprune", *command]))
