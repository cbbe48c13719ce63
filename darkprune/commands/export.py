"""`darkprune export`: a pair as an ONNX file, checked before it is called done."""

from __future__ import annotations

import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from darkprune.commands.console import (
    add_json,
    add_pair,
    follow,
    megabytes,
    print_json,
    print_table,
    progress,
    say,
    warn,
)
from darkprune.commands.eval import resized
from darkprune.data import read_dataset
from darkprune.data.darknet_data import read_names
from darkprune.data.loading import load_image
from darkprune.errors import ExportError, OutputError, RunnerError, UsageError
from darkprune.evaluation import evaluate
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.export.heads_outputs import FORMS, Suppression
from darkprune.export.onnx_check import Agreement, check_structure, facts_of_file, verify_onnx
from darkprune.export.onnx_expect import expected_outputs
from darkprune.export.onnx_file import write_onnx
from darkprune.export.onnx_model import build_onnx
from darkprune.export.onnx_network import OnnxNetwork
from darkprune.export.onnx_options import ExportOptions
from darkprune.export.tensorrt_targets import target, targets
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.heads import Head
from darkprune.pruning.plan import hash_file, read_plan
from darkprune.runners.base import get_runner, load_with_any
from darkprune.zoo import PREFIX, folder, resolve

Floats = NDArray[np.float32]
#: what a file is compared with: programs that read the pair by themselves
REFERENCES = ("torch", "opencv")
#: OpenCV's batch normalisation has another epsilon, so FP32 agrees with it only so far
OPENCV_TOLERANCE = 5e-3
_WORTH = 1.0  #: points of mAP that a lower precision may cost before the advice is to leave it
_OPEN_BATCH = 2  #: images that a file with an open batch size is tried with


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


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        facts: what the file says about itself.
        model: the file without its weights.
        size: bytes, with those of a file of weights beside it.
        reference: the program it was compared with; empty where it was not.
        agreement: how far its outputs are off.
        skipped: why nothing was compared.
        remarks: for the user.
    """

    facts: dict[str, Any]
    model: onnx.ModelProto
    size: int
    reference: str
    agreement: Agreement | None
    skipped: str
    remarks: tuple[str, ...]


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


def run(args: Namespace) -> int:
    """Writes the file and says what is in it."""
    cfg, weights, output = resolve(args.cfg), resolve(args.weights, "weights"), Path(args.output)
    precision = replace(precision_of(args), keep=numbers("--keep-fp32", args.keep_fp32))
    _check_usage(args, precision)
    graph = resized(read_graph(cfg), args.size)
    names = names_of(args, graph)
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
    accuracy = None
    with ExitStack() as stack:
        path = stack.enter_context(new_file(output, [cfg, weights], args.overwrite))
        if precision.cache is not None:
            cache = stack.enter_context(new_file(precision.cache, [cfg, weights, output], args.overwrite))
            precision = replace(precision, cache=cache)
        with NetworkWeights(graph, weights) as pair:
            made = export_pair(pair, options, precision, path, images, static=args.static)
        if args.data:
            accuracy = _accuracy(args, graph, weights, path, names)
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


def export_pair(
    pair: NetworkWeights,
    options: ExportOptions,
    precision: Precision,
    path: Path,
    images: Sequence[Path] = (),
    *,
    static: bool = False,
) -> Exported:
    """Builds, checks, writes and compares a file.

    Args:
        pair: the open pair.
        options: what the file is made for.
        precision: what it is written in.
        path: the file to be, in a folder where it may lie unfinished.
        images: to compare with; calibration images or noise by default.
        static: run nothing.

    Raises:
        ExportError: options that do not fit, a layer that ONNX cannot say, or numbers that are off.
        DataError: images that cannot be used.
        RunnerError: onnxruntime is missing where it is needed.
    """
    graph = pair.graph
    files = _calibration_files(precision)
    network = build_onnx(pair, options)
    check_structure(network, graph)
    remarks = list(network.remarks)
    if precision.name == "fp16":
        from darkprune.export.precision import to_half

        if "fp16" not in target(options.target).precisions:
            raise ExportError(f"{options.target} does not compute in FP16; write FP32")
        network = to_half(network, precision.keep)
        check_structure(network, graph)
    if files:
        remarks += _quantised(network, graph, options, precision, files, path)
    if precision.name != "int8":
        say(f"writing {megabytes(network.nbytes)} …")
        write_onnx(network, path)
    size = sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}.data")) if part.exists())
    model = onnx.load(str(path), load_external_data=False)
    facts = facts_of_file(path)
    reference, agreement, skipped = "", None, "--static was given"
    if not static:
        batch = _images(graph, options, images or files)
        reference, agreement, skipped = compare(path, graph, pair.file.path, batch)
    del model.graph.initializer[:]
    return Exported(facts, model, size, reference, agreement, skipped, tuple(remarks))


def compare(path: Path, graph: Graph, weights: Path, images: Floats) -> tuple[str, Agreement | None, str]:
    """Runs a file in onnxruntime and the pair in another program.

    Args:
        path: the file.
        graph: the network.
        weights: its weights file.
        images: (batch, c, h, w), as many as the file takes.

    Returns:
        The other program, how far apart they are, and otherwise why they were not compared.

    Raises:
        ExportError: FP32 is off by more than rounding.
    """
    if not graph.net.input.is_map:
        return "", None, "the network reads no image"
    try:
        name, network = load_with_any(graph, weights, taps=not graph.heads, order=REFERENCES)
        say(f"running {name} and onnxruntime …")

        maps: list[Floats] = []

        def reference(batch: Floats) -> Sequence[Floats]:
            if graph.heads:
                maps.extend(network.head_maps(batch))
                return maps
            last = _classifier_output(facts_of_outputs(path))
            each = [network.outputs(image) for image in batch]
            if any(last not in maps for maps in each):
                raise RunnerError(f"{name} does not show layer {last}, which is the file's output")
            return [np.stack([maps[last] for maps in each])]

        agreement = _in_range(verify_onnx(path, graph, reference, images), graph, maps)
    except RunnerError as error:
        return "", None, str(error)
    if name == "opencv" and np.isfinite(agreement.allowed):
        agreement = replace(agreement, allowed=OPENCV_TOLERANCE)
    if not agreement.agrees:
        worst = max(agreement.deviations, key=lambda key: np.nan_to_num(agreement.deviations[key], nan=np.inf))
        value = agreement.deviations[worst]
        how = f"is off from {name} by {value:.1e} of its range, {agreement.allowed:.0e} is allowed"
        if np.isinf(value):  # only `nms` has no partner for some of its boxes
            how = f"has other boxes than suppression of {name}'s numbers leaves, as near ties of fresh weights may do"
        raise ExportError(f"output {worst} {how}; nothing was written (--static writes without comparing)")
    return name, agreement, ""


def _in_range(agreement: Agreement, graph: Graph, maps: Sequence[Floats]) -> Agreement:
    """Measures scores by their own range, 0 to 1: where nothing is found the largest is next to nothing."""
    of_scores = {"scores", "classes"} & set(agreement.deviations)
    if not of_scores:
        return agreement
    largest = float(expected_outputs(graph, {"outputs": "boxes"}, maps, ())["scores"].max(initial=0))
    scale = {name: min(1.0, largest) if name in of_scores else 1.0 for name in agreement.deviations}
    return replace(agreement, deviations={name: value * scale[name] for name, value in agreement.deviations.items()})


def facts_of_outputs(path: Path) -> list[str]:
    """Lists the names of a file's outputs."""
    return [output.name for output in onnx.load(str(path), load_external_data=False).graph.output]


@contextmanager
def new_file(output: Path, inputs: Sequence[Path], overwrite: bool) -> Iterator[Path]:
    """Gives a path for a file that is checked after it is written; it takes its place when the block ends well.

    A file of weights that the block writes beside it goes along.

    Raises:
        OutputError: the file exists, is an input, or cannot be written.
    """
    output = Path(os.path.abspath(output))
    if any(output.resolve() == path.resolve() for path in inputs):
        raise OutputError(f"{output}: is an input; choose another -o")
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; name a file with -o")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists; give --overwrite to replace it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        room = tempfile.TemporaryDirectory(prefix=f".{output.name}.partial-", dir=output.parent)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror})") from None
    with room:
        path = Path(room.name) / output.name
        yield path
        # the file that names the other comes last
        for part in sorted(path.parent.iterdir(), key=lambda part: part.name == output.name):
            os.replace(part, output.parent / part.name)


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


def names_of(args: Namespace, graph: Graph) -> tuple[str, ...]:
    """Returns the class names: those given, those beside the cfg, or those that darkprune brings for its own cfg."""
    if args.names:
        return read_names(Path(args.names))[0]
    beside = Path(graph.cfg.source).with_suffix(".names")
    if beside.is_file():
        return read_names(beside)[0]
    counts = {layer.kind.classes for layer in graph.heads if isinstance(layer.kind, Head)}
    own = {80: "coco.names", 20: "voc.names"}
    if args.cfg.startswith(PREFIX) and len(counts) == 1 and counts <= set(own):
        return read_names(folder("cfg") / own[counts.pop()])[0]
    return ()


def plan_hash(cfg: Path) -> str:
    """Returns the hash of the plan beside a cfg, or nothing where there is none or this cfg is the plan's original."""
    path = cfg.with_name("plan.json")
    if not path.is_file() or read_plan(path).cfg_sha256 == hash_file(cfg):
        return ""
    return hash_file(path)


def numbers(flag: str, text: str | None) -> tuple[int, ...]:
    """Reads layer numbers separated by commas.

    Raises:
        UsageError: something else stands there.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
        raise UsageError(f"{flag} {(text or '')[:60]}: give layer numbers separated by commas")
    return tuple(int(part) for part in parts)


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


def _calibration_files(precision: Precision) -> list[Path]:
    if precision.calibrate is None:
        return []
    from darkprune.export.onnx_calibration import calibration_files

    return calibration_files(precision.calibrate, precision.images)


def _quantised(
    network: OnnxNetwork,
    graph: Graph,
    options: ExportOptions,
    precision: Precision,
    files: Sequence[Path],
    path: Path,
) -> list[str]:
    """Measures ranges and writes what is made of them: the file with Q/DQ pairs, the calibration cache."""
    from darkprune.export.onnx_calibration import calibration_batches, calibration_cache, measure_ranges, scales
    from darkprune.export.quantize import LeftOut, left_out_layers, quantised_share, quantize_onnx, write_model

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


def _images(graph: Graph, options: ExportOptions, files: Sequence[Path]) -> Floats:
    """Makes a batch of the size that the file takes, of images or of noise."""
    count, shape = options.batch or _OPEN_BATCH, graph.net.input
    if not files or not shape.is_map:
        return np.random.default_rng(0).random((count, shape.c, shape.h, shape.w), np.float32)
    planes = np.stack([load_image(file, input_shape(graph))[0] for file in files[:count]])
    return np.resize(planes, (count, *planes.shape[1:]))


def _classifier_output(outputs: Sequence[str]) -> int:
    return int(outputs[0].partition("_")[0])


def _accuracy(args: Namespace, graph: Graph, weights: Path, path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Measures the pair and the file on labelled images."""
    dataset = read_dataset(args.data, args.split, args.names)
    figures = []
    for source in (weights, path):
        network = get_runner("onnxruntime").load(graph, source, taps=False)
        with progress(len(dataset), "evaluating", "image") as bar:
            figures.append(
                evaluate(network.head_maps, heads_of(graph), dataset, input_shape(graph), progress=follow(bar))[0]
            )
    before, after = (100 * figure.map50 for figure in figures)
    advice = "leave it" if before - after > _WORTH else "it costs little"
    return {
        "images": figures[0].images,
        "map50_before": figures[0].map50,
        "map50_after": figures[1].map50,
        "map_before": figures[0].map,
        "map_after": figures[1].map,
        "text": f"{before:.1f} → {after:.1f} mAP@0.5 on {figures[0].images} images: {advice}",
    }


def summary(made: Exported) -> dict[str, Any]:
    """Returns what a file is, as JSON."""
    model, agreement = made.model, made.agreement
    deviations = {} if agreement is None else agreement.deviations
    return {
        "bytes": made.size,
        "target": made.facts["target"],
        "form": made.facts["outputs"],
        "precision": made.facts["precision"],
        "opset": next(item.version for item in model.opset_import if item.domain == ""),
        "ir": model.ir_version,
        "plan_hash": made.facts["plan_hash"],
        "inputs": {value.name: _sizes(value) for value in model.graph.input},
        "outputs": {value.name: _sizes(value) for value in model.graph.output},
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "compared_with": made.reference or None,
        "deviations": {name: value if np.isfinite(value) else None for name, value in deviations.items()},
        "skipped": made.skipped or None,
        "remarks": list(made.remarks),
    }


def agreement_line(made: Exported) -> str:
    """Says how far a file is off, or why that is not known."""
    if made.agreement is None:
        return f"not compared: {made.skipped}"
    worst = max(made.agreement.deviations.values(), default=0.0)
    allowed = made.agreement.allowed
    rest = f"{allowed:.0e} is allowed" if np.isfinite(allowed) else "what that costs only --data tells"
    return f"onnxruntime agrees with {made.reference}: off by {worst:.1e} of an output's range at most ({rest})"


def _sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


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
    if place.jetson:
        print(f"next: darkprune kit {args.cfg} {args.weights} --target {place.name} -o kit/")
    elif place.tensorrt:
        print(f"next: darkprune engine {output} -o {output.with_suffix('.engine')}")
    elif args.outputs == "heads":
        print(f"next: darkprune bench {args.cfg} {output} --runner onnxruntime")
