"""`darkprune kit`: a folder to copy to a board."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from darkprune.cli.console import add_json, add_pair, megabytes, print_json, print_table, warn
from darkprune.cli.export_pair import Exported, agreement_line, export_pair, plan_hash, summary
from darkprune.cli.export_precision import Precision, add_precision, precision_of
from darkprune.darknet.output import check_folder
from darkprune.data.class_names import class_names
from darkprune.errors import ExportError, UsageError
from darkprune.graph.graph import Graph, read_graph, resized
from darkprune.graph.weights import NetworkWeights
from darkprune.kit import KitReport, describe, write_kit
from darkprune.layers.heads import Head
from darkprune.onnx.options import ExportOptions
from darkprune.tensorrt.targets import Target, target, targets
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    boards = tuple(name for name, place in targets().items() if place.tensorrt)
    parser.add_argument("--target", required=True, choices=boards, help="the board")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--names", metavar="F", help="names of the classes (default: the cfg's own .names beside it)")
    parser.add_argument("--size", metavar="WxH", help="another input size than the cfg's")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX opset (default 13, or what the target reads)")
    parser.add_argument("--thresh", type=float, default=0.25, help="lowest score of a detection (default 0.25)")
    parser.add_argument("--nms", type=float, default=0.45, help="overlap threshold (default 0.45)")
    parser.add_argument("--fp32", action="store_true", help="single precision (default: half where the board has it)")
    add_precision(parser)
    parser.add_argument("--no-deepstream", action="store_true", help="leave out what DeepStream needs")
    parser.add_argument("--static", action="store_true", help="run nothing here")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier kit; an engine in it stays")
    add_json(parser)


def run(args: Namespace) -> int:
    """Writes the kit and says what is in it."""
    cfg, weights, output = resolve(args.cfg), resolve(args.weights, "weights"), Path(args.output)
    if args.fp32 and (args.fp16 or args.int8):
        raise UsageError("--fp32 does not go with --fp16 or --int8")
    if args.calibration_cache:
        raise UsageError("a kit holds its calibration cache itself: give --int8 --calibrate DIR")
    place = target(args.target)
    wanted, in_file = _precisions(args, place)
    check_folder(output, [cfg, weights], args.overwrite)
    graph = resized(read_graph(cfg), args.size)
    names = _names(args, graph)
    options = ExportOptions(place.name, args.opset, 1, "heads", names, plan_hash=plan_hash(cfg))
    with tempfile.TemporaryDirectory(prefix="darkprune-") as room_name, NetworkWeights(graph, weights) as pair:
        room = Path(room_name)
        cache = room / "calibration.cache" if wanted == "int8" and in_file.name == "fp32" else None
        in_file = replace(in_file, cache=cache)
        made = export_pair(pair, options, in_file, room / "model.onnx", static=args.static)
        remarks = list(made.remarks)
        description = describe(
            graph,
            names,
            list(summary(made)["outputs"]),
            cfg.stem,
            threshold=args.thresh,
            nms_threshold=args.nms,
            precision=wanted,
            file_precision=in_file.name,
        )
        deepstream = None
        if not args.no_deepstream:
            deepstream = room / "deepstream.onnx"
            single = in_file if in_file.name == "fp16" else Precision()
            try:
                export_pair(pair, replace(options, outputs="deepstream"), single, deepstream, static=args.static)
            except ExportError as error:
                deepstream = None
                remarks.append(f"no ONNX file for DeepStream: {error}")
        text = room / "model.cfg"
        text.write_bytes(graph.cfg.encode())
        report = write_kit(
            output,
            room / "model.onnx",
            description,
            place,
            cache,
            cfg=None if args.no_deepstream else text,
            weights=None if args.no_deepstream else weights,
            deepstream_onnx=deepstream,
            reference=not args.static,
            overwrite=args.overwrite,
        )
    remarks += report.remarks
    if args.json:
        print_json(_to_json(report, made, place, wanted, remarks))
        return 0
    _print(report, made, place, wanted)
    for remark in remarks:
        warn(remark)
    return 0


def _precisions(args: Namespace, place: Target) -> tuple[str, Precision]:
    """Returns what the engine is built in, and what the ONNX file is written in.

    TensorRT before 11 chooses half precision while it builds, so one FP32 file serves all; 11 builds what the file
    says. INT8 comes from Q/DQ pairs in the file; where every TensorRT is older than 10, from a calibration cache: it
    leaves TensorRT the choice of FP16 for a layer that is faster so, and DeepStream reads it too.
    """
    asked = precision_of(args)
    wanted = asked.name
    if not (args.fp16 or args.int8 or args.fp32):
        wanted = "fp16" if "fp16" in place.precisions else "fp32"
    if wanted not in place.precisions:
        choices = ", ".join(place.precisions)
        raise ExportError(f"{place.name} does not compute in {wanted.upper()}; choose one of {choices}")
    generations = [int(version.split(".")[0]) for version in place.tensorrt]
    if wanted == "fp16":
        return wanted, replace(asked, name="fp16" if max(generations) >= 11 else "fp32")
    if wanted == "int8" and max(generations) < 10:
        return wanted, replace(asked, name="fp32")
    return wanted, asked


def _names(args: Namespace, graph: Graph) -> tuple[str, ...]:
    """Returns the class names, which a kit cannot do without.

    Raises:
        ExportError: there are none.
    """
    names = class_names(args.names, graph)
    counts = sorted({layer.kind.classes for layer in graph.heads if isinstance(layer.kind, Head)})
    if not counts:
        raise ExportError(
            f"{graph.cfg.source}: has no detection head, and a kit is for detectors; use darkprune export"
        )
    if not names:
        raise ExportError(
            f"{graph.cfg.source}: no .names file beside it; give --names F with {'/'.join(map(str, counts))} names, "
            "one per line"
        )
    return names


def _to_json(report: KitReport, made: Exported, place: Target, wanted: str, remarks: list[str]) -> dict[str, Any]:
    return {
        "kit": str(report.folder),
        "target": place.name,
        "precision": wanted,
        "files": {name: (report.folder / name).stat().st_size for name in report.files},
        "onnx": summary(made),
        "remarks": remarks,
    }


def _print(report: KitReport, made: Exported, place: Target, wanted: str) -> None:
    files = [name for name in report.files if not name.startswith("runtime/")]
    rows = [(name, _size((report.folder / name).stat().st_size)) for name in files]
    print_table(("file", "size"), rows)
    facts = summary(made)
    jetpack = f" (JetPack {place.jetpack})" if place.jetpack else ""
    print(
        f"\n{place.boards}{jetpack}: TensorRT {' or '.join(place.tensorrt)}, opset {facts['opset']}, "
        f"IR {facts['ir']}; the file is {facts['precision'].upper()}, the engine will be {wanted.upper()}"
    )
    print(agreement_line(made))
    print(f"\nwritten: {report.folder}")
    print(f"next: copy {report.folder} to the board and run there: python3 build_engine.py")


def _size(value: int) -> str:
    return megabytes(value) if value >= 100_000 else f"{value / 1e3:.1f} kB"
