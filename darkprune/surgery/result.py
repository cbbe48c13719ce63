"""The result of pruning as files: slim pair, plan and report, which belong together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from darkprune import __version__
from darkprune.graph.stats import Totals, totals
from darkprune.json_types import JsonMapping, JsonObject
from darkprune.processes import in_background
from darkprune.runs.digests import digest_of_file
from darkprune.runs.provenance import provenance
from darkprune.surgery.apply import Constants, Cut
from darkprune.surgery.carriers import SMALLEST, Need, find_needs
from darkprune.surgery.constants import consumers_with_border, makes_constants
from darkprune.surgery.plan import GroupResult
from darkprune.surgery.replaced_channels import replaced_classes, without_replacements
from darkprune.surgery.surgery import Surgery


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


@dataclass(frozen=True)
class FileRecord:
    """A file, as records name it.

    Attributes:
        path: where it was read or written.
        sha256: of its content; empty for report.json itself.
    """

    path: Path
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What `prune` did: the content of report.json.

    Attributes:
        before, after: size and cost of the two networks.
        groups: what each group lost.
        stages: what each stage removed, and what was left after it.
        compensation: what took the place of removed channels, and where that is not exact.
        findings: what was measured, by name: curves, latency, recovery, search, comparison.
        warnings: what the user should know.
        inputs: the original's `cfg` and `weights`.
        outputs: the files written: `cfg`, `weights`, `plan`, `report`, and `names` where the classes have some; for a
            plan alone just that.
    """

    before: Totals
    after: Totals
    groups: tuple[GroupResult, ...]
    stages: tuple[JsonMapping, ...]
    compensation: JsonMapping
    findings: JsonMapping
    warnings: tuple[str, ...]
    inputs: Mapping[str, FileRecord]
    outputs: Mapping[str, FileRecord]

    @classmethod
    def of(cls, surgery: Surgery, outputs: Mapping[str, FileRecord], constants: Constants | None = None) -> PruneResult:
        """Describes a surgery.

        Args:
            surgery: its plan has the hashes of its pair.
            constants: of the surgery, if they are computed already.
        """
        plan, cut = surgery.plan, surgery.cut
        weights = surgery.original
        return cls(
            before=surgery.before,
            after=surgery.after,
            groups=plan.groups,
            stages=tuple(_stages(surgery)),
            compensation={
                "how": cut.compensate,
                "constant": "measured" if cut.measured else cut.constant,
                "carriers": int(cut.carriers.sum()),
                "inexact_at_borders": _inexact(cut, constants or surgery.constants),
            },
            findings=surgery.findings,
            warnings=surgery.warnings,
            inputs={
                "cfg": FileRecord(Path(weights.graph.cfg.source), plan.cfg_sha256),
                "weights": FileRecord(weights.path, plan.weights_sha256),
            },
            outputs=outputs,
        )

    def to_json(self) -> JsonObject:
        """Returns what `prune --json` prints."""
        outputs = {kind: str(record.path) for kind, record in self.outputs.items()}
        return {**self._figures(), "outputs": outputs, "warnings": list(self.warnings)}

    def report(self) -> JsonObject:
        """Returns the content of report.json."""
        inputs = {
            kind: {"name": record.path.name, "path": os.path.abspath(record.path), "sha256": record.sha256}
            for kind, record in self.inputs.items()
        }
        outputs = {
            kind: {"name": record.path.name, "sha256": record.sha256}
            for kind, record in self.outputs.items()
            if record.sha256
        }
        return {
            "darkprune": __version__,
            **provenance(),
            "inputs": inputs,
            **self._figures(),
            "compensation": dict(self.compensation),
            "warnings": list(self.warnings),
            "outputs": outputs,
        }

    def moved(self, folder: Path) -> PruneResult:
        """Returns the result after its files were moved to another folder."""
        outputs = {kind: replace(record, path=folder / record.path.name) for kind, record in self.outputs.items()}
        return replace(self, outputs=outputs)

    def _figures(self) -> JsonObject:
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "groups": [group.to_json() for group in self.groups],
            "stages": [dict(stage) for stage in self.stages],
            **self.findings,
        }


def write_result(
    surgery: Surgery,
    folder: Path,
    *,
    hashes: Callable[[], tuple[str, str]] | None = None,
    class_names: bytes | None = None,
) -> tuple[Surgery, PruneResult]:
    """Fills a folder with slim pair, plan and report.

    Args:
        folder: an empty folder, from `darkprune.darknet.output.result_folder`.
        hashes: gives the SHA-256 of the original cfg and weights, where the plan lacks them because they are still
            being computed.
        class_names: content of a file with the names of the classes, which is put beside the cfg.

    Returns:
        The surgery, its plan with the hashes, and what was written.
    """
    names = ResultNames.of(Path(surgery.original.graph.cfg.source).stem)
    paths = {"cfg": folder / names.cfg, "weights": folder / names.weights, "plan": folder / names.plan}
    constants = surgery.constants
    with paths["weights"].open("wb", buffering=0) as file:
        surgery.write_weights(file)
        # the disk, the hash and what follows need not wait for each other
        digest = in_background(lambda: digest_of_file(paths["weights"]))
        synced = in_background(lambda: os.fsync(file.fileno()))
        try:
            paths["cfg"].write_bytes(surgery.graph.cfg.encode())
            if hashes is not None:
                surgery = surgery.with_hashes(*hashes())
            paths["plan"].write_text(surgery.plan.dumps(), encoding="utf-8")
            if class_names is not None:
                paths["names"] = paths["cfg"].with_suffix(".names")
                paths["names"].write_bytes(class_names)
            records = {
                kind: FileRecord(path, "" if kind == "weights" else digest_of_file(path))
                for kind, path in paths.items()
            }
            records["report"] = FileRecord(folder / names.report)
            result = PruneResult.of(surgery, records, constants)
        finally:
            synced()
    weights_record = FileRecord(paths["weights"], digest())
    result = replace(result, outputs={**result.outputs, "weights": weights_record})
    (folder / names.report).write_text(json.dumps(result.report(), indent=1) + "\n", encoding="utf-8")
    return surgery, result


def _stages(surgery: Surgery) -> list[JsonObject]:
    """Lists what each stage removed, and what was left after it."""
    units, similar = surgery.plan.units, surgery.plan.similar
    cut, size = surgery.cut, surgery.original.header.size
    stages: list[JsonObject] = []
    if units:
        graph = surgery.reduced.graph
        stages.append(
            {
                "stage": "units",
                "units": [unit.to_json() for unit in units],
                "removed": len(surgery.original.graph) - len(graph),
                "after": totals(graph, size).to_json(),
            }
        )
    if surgery.plan.factors:
        convolutions = len(surgery.graph) - len(surgery.original.graph) + len(surgery.plan.factors)
        after = totals(surgery.graph, size).to_json()
        return [{"stage": "factors", "factorised": len(surgery.plan.factors), "into": convolutions, "after": after}]
    before = without_replacements(cut, similar)
    removed = _width_lost(before)
    stages.append({"stage": "channels", "removed": removed, "after": totals(before.slim, size).to_json()})
    if similar:
        unexplained = np.concatenate([1 - tap.correlation**2 for tap in similar.values()])
        stages.append(
            {
                "stage": "similarity",
                "removed": _width_lost(cut) - removed,
                "replaced": int(replaced_classes(cut, similar).sum()),
                # the part of a replaced channel's variance that its substitute does not explain, where it is read
                "reconstruction_error": {"mean": float(unexplained.mean()), "largest": float(unexplained.max())},
                "after": totals(cut.slim, size).to_json(),
            }
        )
    return stages


def _width_lost(cut: Cut) -> int:
    made = [cut.channels.of_layer[index] for index in cut.channels.producers]
    return sum(len(classes) - len(cut.kept(classes)) for classes in made)


def _inexact(cut: Cut, constants: Constants) -> list[int]:
    """Returns the padding convolutions at whose borders the compensation is an approximation.

    Carriers make the dense ones exact that have one; what a depthwise one makes of a constant is not constant at its
    border.
    """
    graph = cut.channels.graph
    needs = find_needs(cut.channels, cut.gone, constants.removed)
    folded = {need.layer for need in needs if not _served(cut, need, constants)}
    reached = consumers_with_border(
        cut.channels, constants.removed, lambda layer: makes_constants(layer, cut.constant, cut.measured)
    )
    return [index for index in reached if index in folded or graph[index].is_depthwise]


def _served(cut: Cut, need: Need, constants: Constants) -> bool:
    source = cut.channels.graph[need.layer].sources[0]
    strong = np.abs(np.nan_to_num(constants.kappa[source])) > SMALLEST
    return bool(np.isin(need.classes, cut.channels.of_layer[source][strong]).any())
