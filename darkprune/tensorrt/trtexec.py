"""Command lines of NVIDIA's own programs, for machines without TensorRT's Python module."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from darkprune.errors import ExportError
from darkprune.targets import Target


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
