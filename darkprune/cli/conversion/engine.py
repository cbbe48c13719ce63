"""`darkprune engine`: a TensorRT engine of an ONNX file, built and compared on this machine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.conversion.engine import EngineResult, EngineSettings, build_engine
from darkprune.cli.console import add_json, megabytes, print_result
from darkprune.cli.flags import add_flags, read_flags


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("onnx", metavar="F.onnx", help="a file that `darkprune export` wrote")
    parser.add_argument("-o", "--output", required=True, metavar="F.engine", help="the engine to write")
    add_flags(parser, EngineSettings)
    add_json(parser)


def run(args: Namespace) -> int:
    """Builds the engine and prints what is in it."""
    result = build_engine(args.onnx, args.output, read_flags(EngineSettings, args))
    print_result(args, result.to_json(), result.warnings, lambda: _print(result))
    return 0


def _print(result: EngineResult) -> None:
    facts = result.facts
    print("layers by type, and what they write:")
    for line in result.summary:
        print(line)
    where = "for RTX {} for {}" if facts.get("portable") else "{} on {}"
    built = "TensorRT " + where.format(facts["tensorrt"], facts["gpu"])
    in_file, precision = (str(facts[key]).upper() for key in ("file_precision", "precision"))
    print(f"\n{built}, {in_file} file, {precision}, {result.seconds:.0f} s")
    if result.comparison.skipped:
        print(f"not compared: {result.comparison.skipped}")
    for name, value in result.comparison.deviations.items():
        print(f"{name}: off from onnxruntime by {value:.1e} of its range")
    print(f"written: {result.engine} ({megabytes(result.engine.stat().st_size)}), {result.engine}.json")
    where = " on a machine with such a GPU" if result.comparison.skipped and facts.get("portable") else ""
    print(f"next{where}: darkprune bench CFG {result.engine} --runner tensorrt")
