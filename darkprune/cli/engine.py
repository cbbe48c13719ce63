"""`darkprune engine`: a TensorRT engine of an ONNX file, built and compared on this machine."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from darkprune.cli.console import add_json, megabytes, print_json, warn
from darkprune.data.loading import InputShape, load_image
from darkprune.errors import ExportError, UsageError
from darkprune.onnx.check import facts_of_file
from darkprune.tensorrt.engine import EngineOptions, EngineReport, build_engine
from darkprune.tensorrt.run import Comparison, Floats, compare_engine
from darkprune.tensorrt.targets import target, targets


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("onnx", metavar="F.onnx", help="a file that `darkprune export` wrote")
    parser.add_argument("-o", "--output", required=True, metavar="F.engine", help="the engine to write")
    parser.add_argument(
        "--target", choices=tuple(targets()), help="the machine this is (default: what the file was made for)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fp16", action="store_true", help="half precision where it is faster")
    which.add_argument("--int8", action="store_true", help="8-bit integers and half precision where they are faster")
    parser.add_argument("--calibrate", metavar="DIR", help="with --int8: images to measure ranges on")
    parser.add_argument(
        "--calibration-cache", metavar="F", help="with --int8: ranges, read; or written, with --calibrate"
    )
    parser.add_argument("--workspace", type=int, metavar="MB", help="scratch memory (default: what suits the target)")
    parser.add_argument("--timing-cache", metavar="F", help="timings of earlier builds: read if there, then written")
    parser.add_argument("--batch", metavar="MIN,USUAL,MAX", help="batch sizes, for a file that leaves them open")
    parser.add_argument("--no-tf32", action="store_true", help="exact FP32 on GPUs that would round factors")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing engine")
    add_json(parser)


def run(args: Namespace) -> int:
    """Builds the engine and says what is in it; exit status 1 if its numbers are off."""
    source, output = Path(args.onnx), Path(args.output)
    facts = _facts(source)
    options = _options(args, facts)
    where = args.target or _place(facts)
    report = build_engine(source, output, options, where=where, overwrite=args.overwrite, say=_say)
    comparison = compare_engine(output, source)
    if args.json:
        print_json(_to_json(report, comparison))
    else:
        _print(report, comparison)
    if not comparison.agrees:
        worst = max(comparison.deviations.values())
        raise ExportError(
            f"{output}: its numbers are off from onnxruntime's by {worst:.1e} of their range, "
            f"{comparison.allowed:.0e} is allowed: build it again with --no-tf32"
        )
    return 0


def _facts(source: Path) -> dict[str, Any]:
    """What the file says about itself; nothing for one of another tool, which `build_engine` refuses."""
    try:
        return facts_of_file(source)
    except ExportError:
        return {}


def _place(facts: dict[str, Any]) -> str:
    """The target that the file was made for, if it has TensorRT."""
    name = facts.get("target", "")
    return name if name in targets() and target(name).tensorrt else "workstation"


def _options(args: Namespace, facts: dict[str, Any]) -> EngineOptions:
    if (args.calibrate or args.calibration_cache) and not args.int8:
        raise UsageError("--calibrate and --calibration-cache go with --int8")
    if args.workspace is not None and args.workspace < 1:
        raise UsageError(f"--workspace {args.workspace}: give MiB, 1 or more")
    if args.int8 and facts and facts["precision"] != "int8" and not (args.calibrate or args.calibration_cache):
        raise UsageError("--int8: the file has no Q/DQ nodes, so give --calibrate DIR or --calibration-cache F")
    if args.calibrate:
        from darkprune.onnx.calibration import calibration_files

        calibration_files(Path(args.calibrate))  # refuses an empty folder before anything is built
    cache = Path(args.calibration_cache) if args.calibration_cache else None
    if cache is not None and not args.calibrate and not cache.is_file():
        raise ExportError(f"{cache}: no such calibration cache; give --calibrate DIR to write it")
    return EngineOptions(
        precision="int8" if args.int8 else "fp16" if args.fp16 else "fp32",
        workspace_mb=args.workspace,
        tf32=not args.no_tf32,
        batch=_batch(args.batch),
        timing_cache=Path(args.timing_cache) if args.timing_cache else None,
        calibration_cache=cache,
        calibration_images=Path(args.calibrate) if args.calibrate else None,
        preprocess=_preprocess(facts),
    )


def _preprocess(facts: dict[str, Any]) -> Any:
    """Pictures become the network's input as the file's metadata say."""
    image = facts.get("input")
    if not isinstance(image, dict):
        return None
    shape = InputShape(image["width"], image["height"], image["channels"], bool(image["letterbox"]))

    def prepare(path: Path) -> Floats:
        return load_image(path, shape)[0]

    return prepare


def _batch(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts) or len(parts) not in (1, 3):
        raise UsageError(f"--batch {text[:40]}: give the smallest, usual and largest number, such as 1,4,8")
    low, usual, high = (int(parts[place % len(parts)]) for place in range(3))
    if not 1 <= low <= usual <= high:
        raise UsageError(f"--batch {text[:40]}: the numbers have to ascend from 1 or more")
    return low, usual, high


def _say(line: str) -> None:
    """Progress of a build that takes minutes: on stderr, so that --json stays alone on stdout."""
    print(line, file=sys.stderr, flush=True)


def _to_json(report: EngineReport, comparison: Comparison) -> dict[str, Any]:
    finite = comparison.allowed != float("inf")
    return {
        "engine": str(report.path),
        "facts": dict(report.facts),
        "summary": report.summary(),
        "seconds": round(report.seconds, 1),
        "deviations": dict(comparison.deviations),
        "allowed": comparison.allowed if finite else None,
        "skipped": comparison.skipped or None,
        "remarks": list(report.remarks),
    }


def _print(report: EngineReport, comparison: Comparison) -> None:
    facts = report.facts
    for line in report.summary():
        print(line)
    print(f"\nTensorRT {facts['tensorrt']} on {facts['gpu']}, {facts['precision'].upper()}, {report.seconds:.0f} s")
    if comparison.skipped:
        print(f"not compared: {comparison.skipped}")
    for name, value in comparison.deviations.items():
        print(f"{name}: off from onnxruntime by {value:.1e} of its range")
    print(f"written: {report.path} ({megabytes(report.path.stat().st_size)}), {report.path}.json")
    for remark in report.remarks:
        warn(remark)
    print(f"next: darkprune bench CFG {report.path} --runner tensorrt")
