"""The result of pruning beside the original and its control: operations, output distance, mAP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.data.dataset import Dataset
from darkprune.evaluation.control import Figure, control_at, control_networks
from darkprune.graph.graph import Graph
from darkprune.progress import Progress, silent
from darkprune.runners.base import FAST_FIRST, load_with_any
from darkprune.runners.measure import map_of
from darkprune.surgery.surgery import Surgery

if TYPE_CHECKING:  # without images no torch is needed
    from darkprune.refit.recover import Recovery


def compare(
    surgery: Surgery, recovery: Recovery | None, dataset: Dataset | None, progress: Progress = silent
) -> Surgery:
    """Compares a result with the original, and the original at a smaller input with as many operations.

    Args:
        surgery: what was cut, and repaired if it was.
        recovery: what was measured on unlabelled images.
        dataset: labelled images, for mAP.
        progress: gets an event per batch of images.

    Returns:
        The surgery with the comparison among its findings, and a warning where the control is better.
    """
    original, slim = surgery.original, surgery.graph

    def measured(name: str, weights: Path, graph: Graph) -> float | None:
        if dataset is None:
            return None
        _, network = load_with_any(graph, weights, None, taps=False, order=FAST_FIRST)
        return map_of(dataset, task=f"evaluating the {name} network")(network, progress)

    weights = original.path
    before = measured("original", weights, original.graph)
    figures = [Figure.of("original", original.graph, 0.0 if recovery else None, before)]
    last = "pruned"
    if recovery is not None and recovery.how != "none":
        last = "recovered"
        figures.append(Figure.of("pruned", slim, recovery.distance_before))
    distance = recovery.distance_after if recovery else None
    with surgery.temporary_weights() as path:
        result = Figure.of(last, slim, distance, measured(last, path, slim))
    _, *smaller = control_networks(original.graph, [slim.macs])
    controls = [Figure.of("control", graph, None, measured("control", weights, graph)) for graph in smaller]
    points = [(each.macs, each.map50) for each in (figures[0], *controls) if each.map50 is not None]
    if smaller and points:
        result = replace(result, control=control_at(points, slim.macs))
    figures += [result, *controls]
    comparison = [figure.to_json() for figure in figures]
    findings = {**surgery.findings, "comparison": comparison}
    return replace(
        surgery,
        findings={"recovery": None, "search": None, **findings},
        warnings=(*surgery.warnings, *_warnings(result)),
    )


def _warnings(result: Figure) -> list[str]:
    """Says so where the control is better."""
    if result.control is None or result.map50 is None or result.map50 > result.control:
        return []
    return [
        f"the unpruned network at a smaller input has {100 * result.control:.2f} % mAP at as many operations "
        f"({result.macs / 1e9:.3f} G multiply-adds), this result {100 * result.map50:.2f} %: take the smaller input, "
        "or train on"
    ]
