"""Building an engine on this machine with the installed TensorRT.

The work itself stands in `kit/board/runtime`, which a kit takes along, so that workstation and board build alike; here
are darkprune's errors and the checks that need onnx.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

import darkprune
from darkprune.errors import ExportError, OutputError
from darkprune.kit.board.runtime import RuntimeFailure, metadata
from darkprune.kit.board.runtime import build as building
from darkprune.kit.board.runtime.command import import_tensorrt
from darkprune.kit.board.runtime.cuda import Cuda
from darkprune.kit.board.runtime.files import sha256_of
from darkprune.kit.board.runtime.sources import picture_files
from darkprune.tensorrt import operators
from darkprune.tensorrt.run import Floats, failures_as
from darkprune.tensorrt.targets import PRECISIONS, Target, target, trtexec_command

PRODUCER = "darkprune"  #: `producer_name` of the files that this project writes
# as TensorRT spells the types of a layer's output: "Row major linear FP16 format", "Half"
_TYPE = re.compile(r"FP32|FP16|BF16|FP8|INT8|INT32|INT64|Float|Half|Int8|Int32|Int64|Bool", re.IGNORECASE)
_SAME = {"FLOAT": "FP32", "HALF": "FP16"}


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        precision: one of `PRECISIONS`; INT8 also allows FP16 for layers that have no ranges.
        workspace_mb: MiB of scratch memory; the target's own by default.
        tf32: let FP32 convolutions round their factors to 10 bits on GPUs that can.
        batch: smallest, usual and largest batch size, for a file that leaves it open.
        timing_cache: file with tactic timings, read if it exists and written after.
        calibration_cache: ranges for INT8: read, or written when there are `calibration_images`.
        calibration_images: folder with pictures to measure the ranges on.
        preprocess: makes the network's input, (channels, height, width) float32, from a picture's path.
    """

    precision: str = "fp32"
    workspace_mb: int | None = None
    tf32: bool = True
    batch: tuple[int, int, int] | None = None
    timing_cache: Path | None = None
    calibration_cache: Path | None = None
    calibration_images: Path | None = None
    preprocess: Callable[[Path], Floats] | None = None


@dataclass(frozen=True)
class EngineReport:
    """A built engine.

    Attributes:
        path: the engine; its metadata stand in `<path>.json`.
        facts: those metadata.
        layers: name, type and output format of each layer, where TensorRT tells.
        remarks: for the user.
        seconds: how long the build took.
    """

    path: Path
    facts: Mapping[str, Any]
    layers: Sequence[Mapping[str, str]]
    remarks: tuple[str, ...]
    seconds: float

    def summary(self) -> list[str]:
        """One line per layer type: how many layers, in which precision their outputs are."""
        kinds: dict[str, Counter[str]] = {}
        for layer in self.layers:
            found = _TYPE.search(layer["format"])
            precision = found.group().upper() if found else "?"
            kinds.setdefault(layer["type"] or "layer", Counter())[_SAME.get(precision, precision)] += 1
        return [
            f"{kind}: {sum(counts.values())} ({', '.join(f'{name} {count}' for name, count in counts.most_common())})"
            for kind, counts in sorted(kinds.items(), key=lambda item: -sum(item[1].values()))
        ]


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    options: EngineOptions | None = None,
    *,
    where: Target | str = "workstation",
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EngineReport:
    """Build an engine with the `tensorrt` module of this machine.

    Args:
        onnx_path: a file that darkprune wrote.
        engine_path: where to; `<engine_path>.json` is written beside it.
        options: precision, memory, caches.
        where: target or its name; decides the default memory and, without TensorRT, the command in the message.
        overwrite: whether the engine may exist.
        say: takes one line of progress.

    Raises:
        ExportError: no TensorRT here (the message has the `trtexec` command), or it refuses the file.
        OutputError: the engine exists or cannot be written.
        DataError: a calibration picture cannot be used (from `preprocess`).
    """
    options = options or EngineOptions()
    place = target(where) if isinstance(where, str) else where
    if options.precision not in PRECISIONS:
        raise ExportError(f"precision {options.precision!r}: choose one of {', '.join(PRECISIONS)}")
    written = _inspect(onnx_path)
    _check_output(engine_path, overwrite)
    workspace_mb = place.workspace_mb if options.workspace_mb is None else options.workspace_mb
    trt = _tensorrt(onnx_path, engine_path, options, place)
    with failures_as(ExportError):
        cuda = Cuda()
        gpu, capability = cuda.device()
        result = building.build(
            trt,
            cuda,
            str(onnx_path),
            building.BuildOptions(
                precision=options.precision,
                file_precision=written,
                workspace_mb=workspace_mb,
                batch=options.batch,
                tf32=options.tf32,
                timing_cache=str(options.timing_cache or ""),
                calibration_cache=str(options.calibration_cache or ""),
            ),
            _calibration(options) if options.calibration_images is not None else None,
            say,
        )
        facts = metadata.save(
            str(engine_path),
            result.engine,
            {
                "tensorrt": trt.__version__,
                "gpu": gpu,
                "capability": capability,
                "precision": options.precision,
                "file_precision": written,
                "tf32": options.tf32,
                "workspace_mb": workspace_mb,
                "onnx": onnx_path.name,
                "onnx_sha256": sha256_of(str(onnx_path)),
                "made_by": f"darkprune {darkprune.__version__}",
                "seconds": round(result.seconds, 1),
                "layers": result.layers,
            },
        )
    return EngineReport(engine_path, facts, result.layers, tuple(result.remarks), result.seconds)


def _inspect(onnx_path: Path) -> str:
    """What the file is written in.

    Raises:
        ExportError: it is not an ONNX file, or not one of darkprune.
    """
    try:
        model = onnx.load(str(onnx_path), load_external_data=False)
    except OSError as error:
        raise ExportError(f"{onnx_path}: cannot be read ({error.strerror})") from None
    except Exception:  # protobuf's exceptions have no common base that onnx promises
        raise ExportError(f"{onnx_path}: not an ONNX file") from None
    # onnxruntime's quantiser puts its own name into the file but keeps the properties
    if model.producer_name != PRODUCER and not any(item.key.startswith(PRODUCER) for item in model.metadata_props):
        raise ExportError(
            f"{onnx_path}: written by {model.producer_name or 'an unknown program'}, not by darkprune: "
            "make it with `darkprune export`, or build the engine of a foreign file with trtexec"
        )
    return operators.file_precision(model)


def _check_output(engine_path: Path, overwrite: bool) -> None:
    """Refuse before the build, which takes minutes."""
    if engine_path.exists() and not overwrite:
        raise OutputError(f"{engine_path}: exists; give --overwrite to replace it")
    folder = engine_path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{engine_path}: cannot be written, {folder} is no folder to write to")


def _tensorrt(onnx_path: Path, engine_path: Path, options: EngineOptions, place: Target) -> Any:
    try:
        return import_tensorrt()
    except RuntimeFailure:
        if not place.tensorrt:
            raise ExportError(f"target {place.name!r}: has no TensorRT, there is no engine to build") from None
        command = trtexec_command(
            place,
            onnx_path,
            engine_path,
            precision=options.precision,
            workspace_mb=options.workspace_mb,
            calibration_cache=options.calibration_cache,
            timing_cache=options.timing_cache,
        )
        raise ExportError(f"tensorrt is not installed here; on {place.boards} run: {command}") from None


def _calibration(options: EngineOptions) -> Iterator[Floats]:
    if options.preprocess is None or options.calibration_images is None:
        raise ExportError("calibration: nothing says how pictures become the network's input")
    for path in picture_files(str(options.calibration_images)):
        yield options.preprocess(Path(path))
