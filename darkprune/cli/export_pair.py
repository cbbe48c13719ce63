"""The steps of `darkprune export` and `kit`: a pair becomes a file, is checked, and described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from darkprune.cli.console import megabytes, say
from darkprune.cli.export_precision import Precision, calibration_images, write_quantised
from darkprune.data.loading import load_image
from darkprune.errors import ExportError, RunnerError
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.onnx.check import Agreement, check_structure, facts_of_file, verify_onnx
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.options import ExportOptions
from darkprune.runners.base import load_with_any
from darkprune.runs.digests import digest_of_file
from darkprune.surgery.plan_file import read_plan
from darkprune.tensorrt.targets import target

Floats = NDArray[np.float32]
#: what a file is compared with: programs that read the pair by themselves
REFERENCES = ("torch", "opencv")
#: OpenCV's batch normalisation has another epsilon, so FP32 agrees with it only so far
OPENCV_TOLERANCE = 5e-3
_OPEN_BATCH = 2  #: images that a file with an open batch size is tried with


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
    files = calibration_images(precision)
    network = build_onnx(pair, options)
    check_structure(network, graph)
    remarks = list(network.remarks)
    if precision.name == "fp16":
        from darkprune.onnx.precision import to_half

        if "fp16" not in target(options.target).precisions:
            raise ExportError(f"{options.target} does not compute in FP16; write FP32")
        network = to_half(network, precision.keep)
        check_structure(network, graph)
    if files:
        remarks += write_quantised(network, graph, options, precision, files, path)
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

        def reference(batch: Floats) -> Sequence[Floats]:
            if graph.heads:
                return network.head_maps(batch)
            last = _classifier_output(facts_of_outputs(path))
            each = [network.outputs(image) for image in batch]
            if any(last not in maps for maps in each):
                raise RunnerError(f"{name} does not show layer {last}, which is the file's output")
            return [np.stack([maps[last] for maps in each])]

        agreement = verify_onnx(path, graph, reference, images)
    except RunnerError as error:
        return "", None, str(error)
    if name == "opencv" and np.isfinite(agreement.allowed):
        agreement = replace(agreement, allowed=OPENCV_TOLERANCE)
    if not agreement.agrees:
        worst = max(agreement.deviations, key=lambda key: np.nan_to_num(agreement.deviations[key], nan=np.inf))
        value = agreement.deviations[worst]
        how = f"is off from {name} by {value:.1e} of its range, {agreement.allowed:.0e} is allowed"
        what = f"suppression in the file went wrong: {agreement.fault}" if agreement.fault else f"output {worst} {how}"
        raise ExportError(f"{what}; nothing was written (--static writes without comparing)")
    return name, agreement, ""


def facts_of_outputs(path: Path) -> list[str]:
    """Lists the names of a file's outputs."""
    return [output.name for output in onnx.load(str(path), load_external_data=False).graph.output]


def _classifier_output(outputs: Sequence[str]) -> int:
    return int(outputs[0].partition("_")[0])


def _images(graph: Graph, options: ExportOptions, files: Sequence[Path]) -> Floats:
    """Makes a batch of the size that the file takes, of images or of noise."""
    count, shape = options.batch or _OPEN_BATCH, graph.net.input
    if not files or not shape.is_map:
        return np.random.default_rng(0).random((count, shape.c, shape.h, shape.w), np.float32)
    planes = np.stack([load_image(file, input_shape(graph))[0] for file in files[:count]])
    return np.resize(planes, (count, *planes.shape[1:]))


def plan_hash(cfg: Path) -> str:
    """Returns the hash of the plan beside a cfg, or nothing where there is none or this cfg is the plan's original."""
    path = cfg.with_name("plan.json")
    if not path.is_file() or read_plan(path).cfg_sha256 == digest_of_file(cfg):
        return ""
    return digest_of_file(path)


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
