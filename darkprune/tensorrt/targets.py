"""What a network is exported for: the boards, the TensorRT generations they run and what those read.

The facts stand in `tensorrt_targets.json` and `operators.json`, each with its source; this module only reads them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from darkprune.errors import ExportError

_HERE = Path(__file__).parent
PRECISIONS = ("fp32", "fp16", "int8")


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
        workspace_mb: MiB that a build may use for scratch memory unless told otherwise.
        jetson: whether the engine is built on the board, from a kit.
        default_precision: what an ONNX file is written in unless told otherwise.
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


@lru_cache(maxsize=1)
def operator_facts() -> dict[str, Any]:
    """The content of `operators.json`; see its `about`."""
    facts: dict[str, Any] = json.loads((_HERE / "operators.json").read_text(encoding="utf-8"))
    return facts


@lru_cache(maxsize=1)
def targets() -> Mapping[str, Target]:
    """All targets by name, in the order of the data file."""
    rows = json.loads((_HERE / "tensorrt_targets.json").read_text(encoding="utf-8"))["targets"]
    return {name: _target(name, row) for name, row in rows.items()}


def target(name: str) -> Target:
    """The target of that name.

    Raises:
        ExportError: there is none; the message lists them.
    """
    try:
        return targets()[name]
    except KeyError:
        raise ExportError(f"target {name!r}: unknown, choose one of {', '.join(targets())}") from None


def _target(name: str, row: Mapping[str, Any]) -> Target:
    tables = [operator_facts()["tables"][generation] for generation in row["tensorrt"]] or [row]
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
        opset=(max(table["opset"][0] for table in tables), min(table["opset"][1] for table in tables)),
        ir=min(table["ir"] for table in tables),
    )


def trtexec_command(
    where: Target,
    onnx: Path,
    engine: Path,
    *,
    precision: str = "fp32",
    workspace_mb: int | None = None,
    calibration_cache: Path | None = None,
    timing_cache: Path | None = None,
    profile: tuple[str, Sequence[Sequence[int]]] | None = None,
    generation: str | None = None,
) -> str:
    """The command line that builds the engine with NVIDIA's own program, for a machine without the Python module.

    Args:
        where: target; its newest generation decides the spelling unless `generation` names another.
        onnx: file to convert.
        engine: file to write.
        precision: one of `PRECISIONS`. TensorRT 11 has no such switch: there the ONNX file says it.
        workspace_mb: MiB of scratch memory; the target's own by default.
        calibration_cache: of an INT8 build of a file without Q/DQ nodes (not TensorRT 11).
        timing_cache: file that keeps tactic timings between builds.
        profile: input name and its minimum, optimum and maximum shape, for a file with an open batch size.
        generation: one of `where.tensorrt`.

    Source: NVIDIA/TensorRT samples/common/sampleOptions.cpp of release/8.2, 8.5, 8.6, 10.3, 10.13 and 11.1:
    `--workspace` before 8.4 and `--memPoolSize` after, `--buildOnly` before 8.6 and `--skipInference` after,
    `--fp16`, `--int8` and `--calib` before 11 only.
    """
    if not where.tensorrt:
        raise ExportError(f"target {where.name!r}: runs without TensorRT, there is no engine to build")
    if where.name == "rtx":
        return shlex.join(["tensorrt_rtx", f"--onnx={onnx}", f"--saveEngine={engine}", *_shapes_of(profile)])
    version = tuple(int(part) for part in (generation or where.tensorrt[0]).split("."))
    megabytes = where.workspace_mb if workspace_mb is None else workspace_mb
    # JetPack installs the program outside PATH.
    words = ["/usr/src/tensorrt/bin/trtexec" if where.jetson else "trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    words.append(f"--memPoolSize=workspace:{megabytes}" if version >= (8, 4) else f"--workspace={megabytes}")
    if version < (11,):
        if precision in ("fp16", "int8"):
            words.append("--fp16")
        if precision == "int8":
            words.append("--int8")
            if calibration_cache is not None:
                words.append(f"--calib={calibration_cache}")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    words += _shapes_of(profile)
    words.append("--skipInference" if version >= (8, 6) else "--buildOnly")
    return shlex.join(words)


def _shapes_of(profile: tuple[str, Sequence[Sequence[int]]] | None) -> list[str]:
    if profile is None:
        return []
    name, shapes = profile
    return [
        f"--{which}Shapes={name}:{'x'.join(map(str, shape))}"
        for which, shape in zip(("min", "opt", "max"), shapes, strict=True)
    ]
