"""Engines on this machine: build one with the installed TensorRT, run it, compare it with onnxruntime.

The work itself stands in `kit/board/runtime`, which a kit takes along, so that workstation and board build alike; here
are darkprune's errors, the checks that need onnx, and the comparison.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import darkprune
from darkprune.errors import DarkpruneError, ExportError, OutputError, RunnerError
from darkprune.export import operators
from darkprune.export.kit.board.runtime import RuntimeFailure, metadata
from darkprune.export.kit.board.runtime import build as building
from darkprune.export.kit.board.runtime.command import import_tensorrt
from darkprune.export.kit.board.runtime.compare import deviation, reference_input, tolerance
from darkprune.export.kit.board.runtime.cuda import Cuda
from darkprune.export.kit.board.runtime.files import sha256_of
from darkprune.export.kit.board.runtime.session import Session
from darkprune.export.kit.board.runtime.session import open_engine as open_session
from darkprune.export.kit.board.runtime.sources import picture_files
from darkprune.export.tensorrt_targets import PRECISIONS, Target, operator_facts, target, trtexec_command

PRODUCER = "darkprune"  #: `producer_name` of the files that this project writes
Floats = npt.NDArray[np.float32]
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


@dataclass(frozen=True)
class Comparison:
    """An engine against onnxruntime on the same input.

    Attributes:
        deviations: per output the largest difference over the largest magnitude.
        allowed: what FP32 may be off; infinite for lower precisions, where only measured accuracy tells.
        skipped: why nothing was compared; empty when it was.
    """

    deviations: Mapping[str, float]
    allowed: float
    skipped: str = ""

    @property
    def agrees(self) -> bool:
        """Whether no output is off by more than is allowed."""
        return all(value <= self.allowed for value in self.deviations.values())


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
    with _failures_as(ExportError):
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


def open_engine(path: Path) -> Session:
    """Load an engine that belongs to this machine; `close` it when done.

    Raises:
        RunnerError: no TensorRT or CUDA here, or the engine belongs to another version or GPU.
    """
    with _failures_as(RunnerError):
        return open_session(import_tensorrt(), Cuda(), str(path))


def compare_engine(engine_path: Path, onnx_path: Path, images: Floats | None = None) -> Comparison:
    """Run an engine and onnxruntime on the same input.

    Args:
        engine_path: the engine.
        onnx_path: the file it was made from.
        images: (batch, channels, height, width) in 0..1; noise by default.

    Raises:
        RunnerError: onnxruntime is missing, the engine was made from another file or does not run here.
    """
    facts = metadata.load(str(engine_path)) or {}
    with _failures_as(RunnerError):
        if facts.get("onnx_sha256", "") not in ("", sha256_of(str(onnx_path))):
            raise RunnerError(f"{engine_path}: not made from {onnx_path} but from another {facts.get('onnx')}")
    model = onnx.load(str(onnx_path), load_external_data=False)
    plugins = {node.op_type for node in model.graph.node} & set(operator_facts()["plugins"])
    if plugins:
        return Comparison({}, 0.0, f"onnxruntime has no {', '.join(sorted(plugins))}")
    try:
        import onnxruntime
    except ImportError:
        raise RunnerError("onnxruntime: not installed, pip install 'darkprune[export]' to compare with it") from None
    session = open_engine(engine_path)
    try:
        tensor = session.inputs[0]
        feed = images
        if feed is None:
            feed = reference_input((max(tensor.shape[0], 1), *tensor.shape[1:]))
        reference = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
        half = reference.get_inputs()[0].type == "tensor(float16)"
        names = [item.name for item in reference.get_outputs()]
        expected = reference.run(names, {tensor.name: feed.astype(np.float16) if half else feed})
        with _failures_as(RunnerError):
            actual = session.run({tensor.name: feed})
        deviations = {name: deviation(want, actual[name]) for name, want in zip(names, expected, strict=True)}
    finally:
        session.close()
    exact = facts.get("precision", "fp32") == "fp32" and facts.get("file_precision", "fp32") == "fp32"
    return Comparison(deviations, tolerance(bool(facts.get("tf32", True))) if exact else float("inf"))


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


@contextmanager
def _failures_as(kind: type[DarkpruneError]) -> Iterator[None]:
    """Turns the runtime's one-line failures into darkprune's."""
    try:
        yield
    except RuntimeFailure as error:
        raise kind(str(error)) from None
