"""A pair written as an ONNX file: built, checked, brought to its precision, written, and described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from darkprune.data.loading import load_image
from darkprune.errors import ExportError
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.weights import NetworkWeights, broken_tensors
from darkprune.kit.board.runtime.build import batches
from darkprune.onnx.calibration import Floats, calibration_cache, measure_ranges, scales
from darkprune.onnx.check import check_structure
from darkprune.onnx.facts import read_facts
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.options import Calibration, ExportOptions, Precision
from darkprune.onnx.precision import to_half
from darkprune.onnx.quantize import left_out_layers, quantised_share, quantised_tensors, quantize_onnx
from darkprune.onnx.read import sizes_of
from darkprune.progress import track
from darkprune.targets import target


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was written.

    Attributes:
        path: of the file.
        bytes: its size, with that of a file of weights beside it.
        facts: the metadata of the file.
        opset: version of the operators.
        ir: version of the format.
        inputs: sizes of each input by name; an open size is a text.
        outputs: likewise.
        operators: how many nodes there are of each operator, most frequent first.
        remarks: for the user.
    """

    path: Path
    bytes: int
    facts: dict[str, Any]
    opset: int
    ir: int
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    operators: dict[str, int]
    remarks: tuple[str, ...] = ()


def export_pair(pair: NetworkWeights, options: ExportOptions, precision: Precision, path: Path) -> OnnxFile:
    """Writes an open pair as an ONNX file, in a folder where it may lie unfinished.

    Raises:
        ExportError: options that do not fit, or a layer that ONNX cannot express.
        DataError: calibration images that cannot be used.
        RunnerError: onnxruntime is missing where it is needed.
    """
    try:
        return _export_pair(pair, options, precision, path)
    except ExportError:
        broken = broken_tensors(pair)  # read again only now that something is wrong
        if broken:
            raise ExportError(f"{pair.path}: {broken[0]}; the network computes NaN") from None
        raise


def _export_pair(pair: NetworkWeights, options: ExportOptions, precision: Precision, path: Path) -> OnnxFile:
    network = build_onnx(pair, options)
    check_structure(network, pair.graph)
    place = target(options.target)
    if precision.name not in place.precisions:
        raise ExportError(
            f"{place.name} does not compute in {precision.name.upper()}; choose one of {', '.join(place.precisions)}"
        )
    if precision.name == "fp16":
        network = to_half(network, precision.keep_fp32)
        check_structure(network, pair.graph)
    remarks = list(network.remarks)
    how = precision.calibration
    if how is not None:
        left_out = left_out_layers(pair.graph, how.left_out)
        images = batches(_prepared(pair, how), options.batch or 1)
        # on the network up to its heads: nothing after them is quantised, and onnxruntime has no EfficientNMS
        up_to_heads = build_onnx(pair, replace(options, outputs="heads"))
        wanted = quantised_tensors(network, pair.graph, how.left_out) or None if how.cache is None else None
        ranges = measure_ranges(up_to_heads, images, how.method, wanted)
        if how.cache is not None:
            how.cache.write_text(calibration_cache(network, scales(ranges), left_out, place), encoding="ascii")
        if precision.name == "int8":
            network = quantize_onnx(network, pair.graph, ranges, how.left_out, place)
            names = ", ".join(str(layer.index) for layer in left_out) or "none"
            remarks.append(
                f"{100 * quantised_share(network.model):.0f} % of the convolutions are INT8; left out: layers {names}"
            )
    write_onnx(network, path)
    return _describe(path, network.model, tuple(remarks))


def _prepared(pair: NetworkWeights, how: Calibration) -> Iterator[Floats]:
    """Reads the calibration images one by one, as the network takes them."""
    shape, step = input_shape(pair.graph), track("calibrating", len(how.images), "image")
    for file in how.images:
        yield load_image(file, shape)[0]
        step()


def _describe(path: Path, model: onnx.ModelProto, remarks: tuple[str, ...]) -> OnnxFile:
    return OnnxFile(
        path=path,
        bytes=sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}.data")) if part.exists()),
        facts=read_facts(model, str(path)),
        opset=next(item.version for item in model.opset_import if item.domain == ""),
        ir=model.ir_version,
        inputs={value.name: list(sizes_of(value)) for value in model.graph.input},
        outputs={value.name: list(sizes_of(value)) for value in model.graph.output},
        operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        remarks=remarks,
    )
