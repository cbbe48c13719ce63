"""An exported ONNX file against the pair that it was made from: its outputs, and what its precision costs in mAP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darkprune.data.dataset import Dataset
from darkprune.data.loading import load_image
from darkprune.errors import ExportError, RunnerError
from darkprune.evaluation.detector import Detector
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.onnx.check import OutputComparison, verify_onnx
from darkprune.onnx.export import OnnxFile, export_pair
from darkprune.onnx.options import ExportOptions, Precision
from darkprune.progress import track
from darkprune.runners.base import get_runner, load_with_any
from darkprune.runners.timing import noise_for

Floats = NDArray[np.float32]
#: what a file is compared with: programs that read the pair by themselves
REFERENCES = ("torch", "opencv")
_OPEN_BATCH = 2  #: images that a file with an open batch size is tried with
_WORTH = 1.0  #: points of mAP that a lower precision may cost before the advice is to leave it


@dataclass(frozen=True)
class PrecisionCost:
    """mAP (0 to 1) of a pair and of the file that was made of it, both in onnxruntime.

    Attributes:
        images: how many were evaluated.
        map50_before, map50_after: at an overlap of 0.5, of the pair and of the file.
        map_before, map_after: the mean over 0.5 to 0.95; None without an evaluator for COCO's figures.
    """

    images: int
    map50_before: float
    map50_after: float
    map_before: float | None
    map_after: float | None

    @property
    def text(self) -> str:
        """The figures and the advice in words."""
        before, after = 100 * self.map50_before, 100 * self.map50_after
        advice = "leave it" if before - after > _WORTH else "it costs little"
        return f"{before:.1f} → {after:.1f} mAP@0.5 on {self.images} images: {advice}"


def export_and_compare(
    graph: Graph,
    weights: Path,
    options: ExportOptions,
    precision: Precision,
    path: Path,
    images: Sequence[Path] | None,
) -> tuple[OnnxFile, OutputComparison]:
    """Writes a pair as an ONNX file, in a folder where it may lie unfinished, and compares it.

    It is compared on `images`; where there are none, on calibration images or noise. None runs nothing.

    Raises:
        ExportError: options that do not fit, a layer that ONNX cannot express, or numbers that are off.
        DataError: images that cannot be used.
        RunnerError: onnxruntime is missing where it is needed.
    """
    with NetworkWeights(graph, weights) as pair:
        file = export_pair(pair, options, precision, path)
    if images is None:
        return file, OutputComparison(skipped="--static was given")
    calibrated = () if precision.calibration is None else precision.calibration.images
    step = track("comparing", 1, "file")
    comparison = compare_file(file, graph, weights, _batch(graph, options.batch, images or calibrated))
    step()
    return file, comparison


def _batch(graph: Graph, size: int | None, files: Sequence[Path]) -> Floats:
    """Makes a batch of the size that a file takes, of images or of noise."""
    count = size or _OPEN_BATCH
    if not files or not graph.net.input.is_map:
        return noise_for(graph, count)
    planes = np.stack([load_image(file, input_shape(graph))[0] for file in files[:count]])
    return np.resize(planes, (count, *planes.shape[1:]))


def compare_file(file: OnnxFile, graph: Graph, weights: Path, images: Floats) -> OutputComparison:
    """Compares a file in onnxruntime with its pair in another program, on as many images as the file takes.

    Raises:
        ExportError: FP32 is off by more than rounding.
    """
    if not graph.net.input.is_map:
        return OutputComparison(skipped="the network reads no image")
    try:
        program = ""

        def reference(batch: Floats) -> Sequence[Floats]:
            nonlocal program
            program, network = load_with_any(graph, weights, taps=not graph.heads, once=True, order=REFERENCES)
            if graph.heads:
                return network.head_maps(batch)
            last = int(next(iter(file.outputs)).partition("_")[0])
            each = [network.outputs(image) for image in batch]
            if any(last not in maps for maps in each):
                raise RunnerError(f"{program} does not show layer {last}, which is the file's output")
            return [np.stack([maps[last] for maps in each])]

        comparison = verify_onnx(file.path, graph, reference, images)
    except RunnerError as error:
        return OutputComparison(skipped=str(error))
    comparison = replace(comparison, program=program)
    if not comparison.agrees:
        name, value = comparison.worst
        off = f"output {name} is off from {program} by {value:.1e} of its range, {comparison.allowed:.0e} is allowed"
        what = f"suppression in the file went wrong: {comparison.fault}" if comparison.fault else off
        raise ExportError(f"{what}; nothing was written (--static writes without comparing)")
    return comparison


def precision_cost(file: OnnxFile, graph: Graph, weights: Path, dataset: Dataset) -> PrecisionCost:
    """Measures what the precision of a file with raw heads costs on labelled images.

    Raises:
        RunnerError: onnxruntime is missing or refuses one of them.
    """
    figures = []
    for name, source in (("the pair", weights), (file.facts["precision"].upper(), file.path)):
        network = get_runner("onnxruntime").load(graph, source, taps=False)
        detector = Detector.of(graph, network.head_maps)
        found, _ = evaluate_detector(detector, dataset, task=f"evaluating {name}")
        figures.append(found)
    before, after = figures
    return PrecisionCost(before.images, before.map50, after.map50, before.map, after.map)
