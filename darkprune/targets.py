"""Targets: the boards and machines that a network is made for, and the TensorRT generations that they run.

The facts stand in `targets.json`, each with its source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from darkprune.errors import ExportError
from darkprune.json_types import JsonMapping

PRECISIONS = ("fp32", "fp16", "int8")
#: widths of a pruned network suit every target in multiples of this: TensorRT pads others, often by a copy of the whole
#: map, and onnxruntime takes slower kernels
ROUND_TO = 8


@dataclass(frozen=True)
class Target:
    """A place where the network will run.

    Attributes:
        name: as given to `--target`.
        boards: the machines that are meant, in words.
        jetpack: the JetPack releases that are meant; empty where there is none.
        tensorrt: TensorRT generations it may have, newest first; none for onnxruntime. A file must suit all.
        python: Python versions that come with them, newest first.
        precisions: of `PRECISIONS`, those that the hardware computes fast.
        dynamic_batch: whether the batch size may be left open.
        nms_cap: most boxes that the EfficientNMS plugin considers; 0 where there is no such plugin.
        workspace_mb: MiB that a build may use for scratch memory unless set otherwise.
        jetson: whether the engine is built on the board, from a kit.
        default_precision: what an ONNX file is written in unless set otherwise.
        lacks: operators that its parser reads but that it cannot run.
        opset: lowest and highest ONNX opset that every generation reads.
        ir: highest ONNX IR version that every generation reads.
    """

    name: str
    boards: str
    jetpack: str
    tensorrt: tuple[str, ...]
    python: tuple[str, ...]
    precisions: tuple[str, ...]
    dynamic_batch: bool
    nms_cap: int
    workspace_mb: int
    jetson: bool
    default_precision: str
    lacks: tuple[str, ...]
    opset: tuple[int, int]
    ir: int


def multiple_for(target: str | None, round_to: int | None) -> int:
    """Returns what widths and ranks are multiples of: what was asked for, else what every target wants, else 1."""
    if round_to is not None:
        return round_to
    return ROUND_TO if target is not None else 1


@lru_cache(maxsize=1)
def targets() -> Mapping[str, Target]:
    """Returns all targets by name, in the order of the data file."""
    facts = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: _target(name, row, facts["generations"]) for name, row in facts["targets"].items()}


def target(name: str) -> Target:
    """Returns the target of that name.

    Raises:
        ExportError: there is none; the message lists them.
    """
    try:
        return targets()[name]
    except KeyError:
        raise ExportError(f"target {name!r}: unknown, choose one of {', '.join(targets())}") from None


def _target(name: str, row: JsonMapping, generations: JsonMapping) -> Target:
    parsers = [generations[generation] for generation in row["tensorrt"]] or [row]
    return Target(
        name=name,
        boards=row["boards"],
        jetpack=row["jetpack"],
        tensorrt=tuple(row["tensorrt"]),
        python=tuple(row["python"]),
        precisions=tuple(row["precisions"]),
        dynamic_batch=row["dynamic_batch"],
        nms_cap=row["nms_cap"],
        workspace_mb=row["workspace_mb"],
        jetson=row["jetson"],
        default_precision=row.get("default_precision", "fp32"),
        lacks=tuple(row.get("lacks", ())),
        opset=(max(parser["opset"][0] for parser in parsers), min(parser["opset"][1] for parser in parsers)),
        ir=min(parser["ir"] for parser in parsers),
    )
