"""Command lines of NVIDIA's own programs, for machines without TensorRT's Python module."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from darkprune.errors import ExportError
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.targets import Target


def trtexec_command(
    where: Target,
    onnx: Path,
    engine: Path,
    options: BuildOptions,
    image: tuple[str, Sequence[int | str]] | None = None,
) -> str:
    """Returns the command that builds the engine with NVIDIA's own program, for a machine without the Python module.

    Args:
        where: target; its newest generation, the first, decides the spelling.
        onnx: file to convert.
        engine: file to write.
        options: precision (TensorRT 11 has no such switch: there the ONNX file says it), memory, caches; `batch` of a
            file that leaves the batch size open.
        image: name of the input, and channels, height and width of an image; needed with `batch`.

    Source: NVIDIA/TensorRT samples/common/sampleOptions.cpp of release/8.2, 8.5, 8.6, 10.3, 10.13 and 11.1:
    `--workspace` before 8.4 and `--memPoolSize` after, `--buildOnly` before 8.6 and `--skipInference` after,
    `--fp16`, `--int8` and `--calib` before 11 only.
    """
    if not where.tensorrt:
        raise ExportError(f"target {where.name!r}: runs without TensorRT, there is no engine to build")
    if where.name == "rtx":
        return shlex.join(["tensorrt_rtx", f"--onnx={onnx}", f"--saveEngine={engine}", *_shapes(options, image)])
    version = tuple(int(part) for part in where.tensorrt[0].split("."))
    # JetPack installs the program outside PATH.
    words = ["/usr/src/tensorrt/bin/trtexec" if where.jetson else "trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    words.append(f"--{'memPoolSize=workspace:' if version >= (8, 4) else 'workspace='}{options.workspace_mb}")
    if version < (11,):
        if options.precision in ("fp16", "int8"):
            words.append("--fp16")
        if options.precision == "int8":
            words.append("--int8")
            if options.calibration_cache:
                words.append(f"--calib={options.calibration_cache}")
    if options.timing_cache:
        words.append(f"--timingCacheFile={options.timing_cache}")
    words += _shapes(options, image)
    words.append("--skipInference" if version >= (8, 6) else "--buildOnly")
    return shlex.join(words)


def _shapes(options: BuildOptions, image: tuple[str, Sequence[int | str]] | None) -> list[str]:
    if options.batch is None or image is None:
        return []
    name, sizes = image
    return [
        f"--{which}Shapes={name}:{'x'.join(map(str, (batch, *sizes)))}"
        for which, batch in zip(("min", "opt", "max"), options.batch, strict=True)
    ]
