"""Building an engine on this machine with the installed TensorRT.

`kit/board/runtime`, which is copied into every kit, does the work, so that workstation and board build alike; here
are darkprune's errors and the checks that need onnx.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import darkprune
from darkprune.errors import ExportError, OutputError
from darkprune.kit.board.runtime import RuntimeFailure, TensorRT, metadata
from darkprune.kit.board.runtime import build as building
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.kit.board.runtime.command import import_tensorrt
from darkprune.kit.board.runtime.cuda import Cuda
from darkprune.kit.board.runtime.dialects import choose
from darkprune.kit.board.runtime.files import check_file, sha256_of
from darkprune.onnx.read import read_model, sizes_of
from darkprune.progress import current, say
from darkprune.targets import PRECISIONS, Target
from darkprune.tensorrt import operators
from darkprune.tensorrt.plan import read_kernels
from darkprune.tensorrt.run import Floats, failures_as
from darkprune.tensorrt.trtexec import trtexec_command

PRODUCER = "darkprune"  #: `producer_name` of the files that this project writes
# as TensorRT spells the types of a layer's output: "Row major linear FP16 format", "Half"
_TYPE = re.compile(r"FP32|FP16|BF16|FP8|INT8|INT32|INT64|Float|Half|Int8|Int32|Int64|Bool", re.IGNORECASE)
_SAME = {"FLOAT": "FP32", "HALF": "FP16"}


@dataclass(frozen=True)
class BuiltEngine:
    """A built engine.

    Attributes:
        path: the engine; its metadata stand in `<path>.json`.
        facts: those metadata.
        layers: name, type and output format of each layer, where TensorRT describes them.
        remarks: for the user.
        seconds: how long the build took.
    """

    path: Path
    facts: Mapping[str, object]
    layers: Sequence[Mapping[str, str]]
    remarks: tuple[str, ...]
    seconds: float

    def summary(self) -> list[str]:
        """Returns one line per layer type: how many layers, in which precision their outputs are."""
        kinds: dict[str, Counter[str]] = {}
        for layer in self.layers:
            found = _TYPE.search(layer["format"])
            precision = found.group().upper() if found else "?"
            kinds.setdefault(layer["type"] or "layer", Counter())[_SAME.get(precision, precision)] += 1
        return [
            f"{kind}: {sum(counts.values())} ({', '.join(f'{name} {count}' for name, count in counts.most_common())})"
            for kind, counts in sorted(kinds.items(), key=lambda item: -sum(item[1].values()))
        ]


def build(
    onnx_path: Path,
    engine_path: Path,
    options: BuildOptions,
    place: Target,
    *,
    images: Iterable[Floats] | None = None,
    overwrite: bool = False,
) -> BuiltEngine:
    """Builds an engine with the `tensorrt` module of this machine.

    Args:
        onnx_path: a file that darkprune wrote.
        engine_path: where to; `<engine_path>.json` is written beside it.
        options: precision, memory, caches; the precision of the file is filled in.
        place: the target; without TensorRT here its `trtexec` command is in the message.
        images: calibration images as the network takes them, (channels, height, width) each.
        overwrite: whether the engine may exist.

    TensorRT for RTX builds for a range of GPUs and needs none here; TensorRT builds for the GPU of this machine.

    Raises:
        ExportError: no TensorRT here (the message has the `trtexec` command), or it refuses the file.
        OutputError: the engine exists or cannot be written.
    """
    if options.precision not in PRECISIONS:
        raise ExportError(f"precision {options.precision!r}: choose one of {', '.join(PRECISIONS)}")
    options = options._replace(file_precision=_inspect(onnx_path))
    _check_output(engine_path, overwrite)
    trt = _tensorrt(onnx_path, engine_path, options, place)
    dialect = choose(trt)
    if dialect.precision_from_file and options.precision == "fp32":
        options = options._replace(precision=options.file_precision)
    with failures_as(ExportError):
        if dialect.portable:
            result = _build_portable(trt, onnx_path, options)
            about = {"gpu": _gpus(options.compute_capability), "capability": "", "portable": True}
        else:
            cuda = Cuda()
            gpu, capability = cuda.device()
            result = building.build(trt, cuda, str(onnx_path), options, images, partial(say, progress=current()))
            about = {"gpu": gpu, "capability": capability}
        facts = metadata.save(
            str(engine_path),
            result.engine,
            {
                "tensorrt": trt.__version__,
                **about,
                "precision": options.precision,
                "file_precision": options.file_precision,
                "tf32": options.tf32,
                "workspace_mb": options.workspace_mb,
                "onnx": onnx_path.name,
                "onnx_sha256": sha256_of(str(onnx_path)),
                "made_by": f"darkprune {darkprune.__version__}",
                "seconds": round(result.seconds, 1),
                "layers": result.layers,
            },
        )
    return BuiltEngine(engine_path, facts, result.layers, tuple(result.remarks), result.seconds)


def _build_portable(trt: TensorRT, onnx_path: Path, options: BuildOptions) -> building.BuildResult:
    """Builds an engine for a range of GPUs; its layers are the kernels that the log describes."""
    made = building.serialize(trt, None, str(onnx_path), options, None, partial(say, progress=current()), detailed=True)
    layers = [
        {"name": kernel.name, "type": kernel.type, "format": kernel.outputs[0].type if kernel.outputs else ""}
        for kernel in read_kernels(made.log.lines)
    ]
    return made._replace(layers=layers)


def _gpus(capability: int) -> str:
    if not capability:
        return "any RTX GPU from Ampere on"
    return f"RTX GPUs of compute capability {capability // 10}.{capability % 10}"


def _inspect(onnx_path: Path) -> str:
    """Returns the precision that a file is written in.

    Raises:
        ExportError: it is not an ONNX file, or not one of darkprune.
    """
    model = read_model(onnx_path)
    # onnxruntime's quantiser puts its own name into the file but keeps the properties
    if model.producer_name != PRODUCER and not any(item.key.startswith(PRODUCER) for item in model.metadata_props):
        raise ExportError(
            f"{onnx_path}: written by {model.producer_name or 'an unknown program'}, not by darkprune: "
            "make it with `darkprune export`, or build the engine of a foreign file with trtexec"
        )
    return operators.file_precision(model)


def _check_output(engine_path: Path, overwrite: bool) -> None:
    """Refuses an output before the build, which takes minutes."""
    with failures_as(OutputError):
        for path in (str(engine_path), metadata.path_for(str(engine_path))):
            check_file(path, overwrite)
    folder = engine_path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{engine_path}: cannot be written, {folder} is no folder to write to")


def _tensorrt(onnx_path: Path, engine_path: Path, options: BuildOptions, place: Target) -> TensorRT:
    try:
        return import_tensorrt()
    except RuntimeFailure:
        if not place.tensorrt:
            raise ExportError(f"target {place.name!r}: has no TensorRT, there is no engine to build") from None
        entry = read_model(onnx_path).graph.input[0]
        image = (entry.name, sizes_of(entry)[1:])
        command = trtexec_command(place, onnx_path, engine_path, options, image)
        raise ExportError(f"tensorrt is not installed here; on {place.boards} run: {command}") from None
