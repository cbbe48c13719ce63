"""What `darkprune export` and `kit` have in common about lower precisions: arguments, ranges, the INT8 file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darkprune.cli.console import progress, say
from darkprune.data.loading import load_image
from darkprune.errors import ExportError, UsageError
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.graph import Graph
from darkprune.onnx.network import OnnxNetwork
from darkprune.onnx.options import ExportOptions
from darkprune.tensorrt.targets import target

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Precision:
    """What a file is written in, and how it gets there.

    Attributes:
        name: fp32, fp16 or int8.
        keep: layers of an FP16 file that stay FP32.
        calibrate: folder of images to measure ranges on.
        method: how ranges follow from values.
        images: largest number of images.
        left_out: what is not quantised, in words: first, heads, layer numbers.
        cache: where to write TensorRT's calibration cache, if anywhere.
    """

    name: str = "fp32"
    keep: tuple[int, ...] = ()
    calibrate: Path | None = None
    method: str = "minmax"
    images: int = 300
    left_out: tuple[str, ...] = ("first", "heads")
    cache: Path | None = None


def add_precision(parser: ArgumentParser) -> None:
    """Adds what `export` and `kit` have in common about lower precisions."""
    group = parser.add_argument_group("precision")
    which = group.add_mutually_exclusive_group()
    which.add_argument("--fp16", action="store_true", help="half precision")
    which.add_argument("--int8", action="store_true", help="8-bit integers; needs --calibrate")
    group.add_argument("--calibrate", metavar="DIR", help="images like those to come, to measure ranges on")
    group.add_argument("--calibration-cache", metavar="F", help="also write the ranges as TensorRT 8 to 10 read them")
    group.add_argument(
        "--calibration-method",
        choices=("minmax", "entropy", "percentile"),
        default="minmax",
        help="how a range follows from values (default minmax)",
    )
    group.add_argument("--calibration-images", type=int, default=300, metavar="N", help="most images (default 300)")
    group.add_argument(
        "--leave-out",
        default="first,heads",
        metavar="WHAT",
        help="not quantised: first, heads, layer numbers, or none (default first,heads)",
    )


def precision_of(args: Namespace) -> Precision:
    """Turns the arguments of `add_precision` into a value.

    Raises:
        UsageError: INT8 without images, or images without a use.
    """
    if args.int8 and not args.calibrate:
        raise UsageError("--int8 needs --calibrate DIR: a folder of images like those to come")
    if args.calibrate and not (args.int8 or args.calibration_cache):
        raise UsageError("--calibrate is for --int8, or for --calibration-cache F")
    if args.calibration_cache and not args.calibrate:
        raise UsageError("--calibration-cache needs --calibrate DIR: a folder of images like those to come")
    left_out = tuple(part.strip() for part in args.leave_out.split(",") if part.strip() not in ("", "none"))
    numbers("--leave-out", ",".join(part for part in left_out if part not in ("first", "heads")))
    return Precision(
        "fp16" if args.fp16 else "int8" if args.int8 else "fp32",
        (),
        Path(args.calibrate) if args.calibrate else None,
        args.calibration_method,
        max(1, args.calibration_images),
        left_out,
        Path(args.calibration_cache) if args.calibration_cache else None,
    )


def numbers(flag: str, text: str | None) -> tuple[int, ...]:
    """Reads layer numbers separated by commas.

    Raises:
        UsageError: something else stands there.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
        raise UsageError(f"{flag} {(text or '')[:60]}: give layer numbers separated by commas")
    return tuple(int(part) for part in parts)


def calibration_images(precision: Precision) -> list[Path]:
    """Lists the images to calibrate with; none where nothing is calibrated."""
    if precision.calibrate is None:
        return []
    from darkprune.onnx.calibration import calibration_files

    return calibration_files(precision.calibrate, precision.images)


def write_quantised(
    network: OnnxNetwork,
    graph: Graph,
    options: ExportOptions,
    precision: Precision,
    files: Sequence[Path],
    path: Path,
) -> list[str]:
    """Measures ranges and writes what is made of them: the file with Q/DQ pairs, the calibration cache."""
    from darkprune.onnx.calibration import calibration_batches, calibration_cache, measure_ranges, scales
    from darkprune.onnx.quantize import LeftOut, left_out_layers, quantised_share, quantize_onnx, write_model

    place, shape = target(options.target), input_shape(graph)
    chosen = frozenset(int(part) for part in precision.left_out if part not in ("first", "heads"))
    choice = LeftOut("first" in precision.left_out, "heads" in precision.left_out, chosen)
    left_out = left_out_layers(graph, choice)
    if precision.name == "int8" and "int8" not in place.precisions:
        raise ExportError(f"{place.name} does not compute in INT8; choose one of {', '.join(place.precisions)}")
    with progress(len(files), "calibrating", "image") as bar:

        def prepare(file: Path) -> Floats:
            bar.update()
            return load_image(file, shape)[0]

        batches = calibration_batches(files, prepare, options.batch or 1)
        ranges = measure_ranges(network, batches, precision.method)
    remarks = []
    if precision.cache is not None:
        precision.cache.write_text(calibration_cache(network, scales(ranges), left_out, place), encoding="ascii")
    if precision.name == "int8":
        say("quantising …")
        model = quantize_onnx(network, graph, ranges, choice, place)
        write_model(model, path)
        share, names = quantised_share(model), ", ".join(f"{layer.index} ({layer.name})" for layer in left_out)
        remarks.append(f"{100 * share:.0f} % of the convolutions are INT8; left out: {names or 'none'}")
    return remarks
