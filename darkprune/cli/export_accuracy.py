"""What a lower precision costs, measured on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkprune.cli.console import follow, progress
from darkprune.data.dataset import Dataset
from darkprune.evaluation.detector import Detector
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.graph.graph import Graph
from darkprune.runners.base import get_runner

_WORTH = 1.0  #: points of mAP that a lower precision may cost before the advice is to leave it


def what_it_costs(graph: Graph, weights: Path, path: Path, dataset: Dataset) -> dict[str, Any]:
    """Measures a pair and the file that was made of it, both in onnxruntime.

    Args:
        graph: the network.
        weights: its weights file.
        path: the ONNX file, with raw heads.
        dataset: labelled images.

    Returns:
        Figures (0 to 1) of both, and the advice in words.

    Raises:
        RunnerError: onnxruntime is missing or refuses one of them.
    """
    figures = []
    for source in (weights, path):
        network = get_runner("onnxruntime").load(graph, source, taps=False)
        with progress(len(dataset), "evaluating", "image") as bar:
            detector = Detector.of(graph, network.head_maps)
            found, _ = evaluate_detector(detector, dataset, progress=follow(bar))
        figures.append(found)
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
