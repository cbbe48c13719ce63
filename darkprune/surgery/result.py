"""The result of pruning as files: slim pair, plan and report, which belong together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darkprune import __version__
from darkprune.graph.graph import Layer, build_graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.convolution import Convolutional
from darkprune.runs.digests import digest_of_file
from darkprune.surgery.apply import Constants, Cut, constants_of, slim_cfg, write_slim
from darkprune.surgery.carriers import SMALLEST, Need, find_needs
from darkprune.surgery.constants import consumers_with_border
from darkprune.surgery.plan import PrunePlan
from darkprune.surgery.removed_units import ReducedWeights, original_of
from darkprune.surgery.replaced_channels import replaced_classes, similar_of, with_offsets, without_similar


@dataclass(frozen=True)
class ResultNames:
    """Names of the files in a result folder."""

    cfg: str
    weights: str
    plan: str = "plan.json"
    report: str = "report.json"

    @classmethod
    def of(cls, stem: str) -> ResultNames:
        """Returns the names for a network called `stem`."""
        return cls(f"{stem}.cfg", f"{stem}.weights")


def write_result(
    folder: Path,
    names: ResultNames,
    weights: NetworkWeights,
    plan: PrunePlan,
    cut: Cut,
    hashes: Callable[[], tuple[str, str]],
    warnings: list[str],
    progress: Callable[[], object] = lambda: None,
    measured: Mapping[str, Any] | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fills a folder with slim pair, plan and report.

    Args:
        folder: an empty folder, from `darkprune.darknet.output.result_folder`.
        names: of the files.
        weights: the original pair, as `darkprune.surgery.replay.prepare` returns it.
        plan: the decision; its hashes are filled in.
        cut: the same, ready to be applied.
        hashes: gives the SHA-256 of the original cfg and weights, which may be computed meanwhile.
        warnings: for the report.
        progress: called after each layer.
        measured: what the decision was made on, for the report.
        made_by: for the report: the command, and the versions of what took part.

    Returns:
        before, after, groups and stages, as the report has them.
    """
    constants = with_offsets(weights, constants_of(weights, cut))
    with (folder / names.weights).open("wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        slim = write_slim(weights, cut, constants, file, progress)
        hashing = pool.submit(digest_of_file, folder / names.weights)
        os.fsync(file.fileno())  # the disk and the hash need not wait for each other
    (folder / names.cfg).write_bytes(slim.cfg.encode())
    plan = plan.with_hashes(*hashes())
    (folder / names.plan).write_text(plan.dumps(), encoding="utf-8")
    size = weights.file.header.size
    data: dict[str, Any] = {
        "before": totals(original_of(weights).graph, size).to_json(),
        "after": totals(slim, size).to_json(),
        "groups": [group.to_json() for group in plan.groups],
        "stages": _stages(weights, cut, size),
        **(measured or {}),
    }
    original = original_of(weights)
    report = {
        "darkprune": __version__,
        **(made_by or {}),
        "inputs": {
            "cfg": {
                "name": plan.names[0],
                "path": os.path.abspath(original.graph.cfg.source),
                "sha256": plan.cfg_sha256,
            },
            "weights": {
                "name": plan.names[1],
                "path": os.path.abspath(original.file.path),
                "sha256": plan.weights_sha256,
            },
        },
        **data,
        "compensation": {
            "how": cut.compensate,
            "constant": "measured" if cut.measured else cut.constant,
            "carriers": int(cut.carriers.sum()),
            "inexact_at_borders": _inexact(cut, constants),
        },
        "warnings": warnings,
        "outputs": {
            "cfg": {"name": names.cfg, "sha256": digest_of_file(folder / names.cfg)},
            "weights": {"name": names.weights, "sha256": hashing.result()},
            "plan": {"name": names.plan, "sha256": digest_of_file(folder / names.plan)},
        },
    }
    (folder / names.report).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return data


def _stages(weights: NetworkWeights, cut: Cut, size: int) -> list[dict[str, Any]]:
    """Says what each stage removed, and what was left behind it."""
    stages: list[dict[str, Any]] = []
    if isinstance(weights, ReducedWeights):
        layers = len(weights.original.graph) - len(weights.graph)
        stages.append(
            {
                "stage": "units",
                "units": [unit.to_json() for unit in weights.units],
                "removed": layers,
                "after": totals(weights.graph, size).to_json(),
            }
        )
    similar = similar_of(weights)
    _, before = without_similar(weights, cut)
    removed = _width_lost(before)
    stages.append(
        {"stage": "channels", "removed": removed, "after": totals(build_graph(slim_cfg(before)), size).to_json()}
    )
    if similar:
        unexplained = np.concatenate([1 - tap.correlation**2 for tap in similar.values()])
        stages.append(
            {
                "stage": "similarity",
                "removed": _width_lost(cut) - removed,
                "replaced": int(replaced_classes(cut, similar).sum()),
                # the part of a replaced channel's variance that its substitute does not explain, where it is read
                "reconstruction_error": {"mean": float(unexplained.mean()), "largest": float(unexplained.max())},
                "after": totals(build_graph(slim_cfg(cut)), size).to_json(),
            }
        )
    return stages


def _width_lost(cut: Cut) -> int:
    made = [cut.channels.of_layer[index] for index in cut.channels.producers]
    return sum(len(classes) - len(cut.kept(classes)) for classes in made)


def _inexact(cut: Cut, constants: Constants) -> list[int]:
    """Returns the padding convolutions at whose borders the compensation is an approximation.

    Carriers make the dense ones exact that have one; what a depthwise one gives for a constant is not constant at its
    border.
    """
    graph = cut.channels.graph
    needs = find_needs(cut.channels, cut.gone, constants.removed)
    folded = {need.layer for need in needs if not _served(cut, need, constants)}
    reached = consumers_with_border(cut.channels, constants.removed)
    return [index for index in reached if index in folded or _is_depthwise(graph[index])]


def _served(cut: Cut, need: Need, constants: Constants) -> bool:
    source = cut.channels.graph[need.layer].sources[0]
    strong = np.abs(np.nan_to_num(constants.kappa[source])) > SMALLEST
    return bool(np.isin(need.classes, cut.channels.of_layer[source][strong]).any())


def _is_depthwise(layer: Layer) -> bool:
    return isinstance(layer.kind, Convolutional) and layer.kind.depthwise(layer.inputs[0].c)
