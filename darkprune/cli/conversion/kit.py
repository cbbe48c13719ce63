"""`darkprune kit`: a folder to copy to a board."""

from __future__ import annotations

from argparse import Namespace

from darkprune.api.conversion.kit import KitResult, KitSettings, write_kit
from darkprune.api.pair import load
from darkprune.cli.console import megabytes, print_result, print_table
from darkprune.cli.conversion.export import comparison_line, print_plans
from darkprune.cli.flags import from_pair, read_flags
from darkprune.kit.schema import ONNX_NAME
from darkprune.targets import target

configure = from_pair(KitSettings, "DIR", "the folder to write")


def run(args: Namespace) -> int:
    """Writes the kit and prints what is in it."""
    result = write_kit(load(args.cfg, args.weights), args.output, read_flags(KitSettings, args))
    print_result(args, result.to_json(), result.warnings, lambda: _print(result))
    return 0


def _print(result: KitResult) -> None:
    print_table(
        ("file", "size"),
        [(name, _size(size)) for name, size in result.files.items() if not name.startswith("runtime/")],
    )
    place, file = target(result.target), result.onnx.file
    jetpack = f" (JetPack {place.jetpack})" if place.jetpack else ""
    print(f"\nfor {place.boards}{jetpack}: TensorRT {' or '.join(place.tensorrt)}")
    in_file, precision = file.facts["precision"].upper(), result.precision.upper()
    print(f"{ONNX_NAME}: opset {file.opset}, IR {file.ir}, {in_file}; the engine will be {precision}")
    print(comparison_line(result.onnx))
    print_plans(result.onnx.plans, place)
    print(f"\nwritten: {result.kit}")
    print(f"next: copy {result.kit} to the board and run there: python3 build_engine.py")


def _size(value: int) -> str:
    if value >= 100_000:
        return megabytes(value)
    return f"{value / 1e3:.1f} kB" if value >= 1000 else f"{value} B"
