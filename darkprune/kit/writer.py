"""Writes a kit: a folder to copy to a board, checked against its target before it is called done."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from darkprune.darknet.output import check_folder, result_folder
from darkprune.errors import ExportError, RunnerError
from darkprune.kit import deepstream
from darkprune.kit.board.runtime.compare import REFERENCE, reference_input
from darkprune.kit.board.runtime.files import sha256_of
from darkprune.kit.readme import readme
from darkprune.kit.schema import ONNX_NAME, KitDescription
from darkprune.onnx.check import runnable
from darkprune.onnx.read import read_model, sizes_of
from darkprune.onnx.session import OnnxSession, is_installed
from darkprune.targets import Target
from darkprune.tensorrt import operators

_BOARD = Path(__file__).parent / "board"
#: in the kit the folder lies beside the scripts, so its name is all that an import needs
_IMPORTS = (b"darkprune.kit.board.runtime", b"runtime")
SCRIPTS = ("build_engine.py", "detect.py", "bench.py")
_CACHE_NAME = "calibration.cache"


@dataclass(frozen=True)
class KitParts:
    """The files that a kit is made of.

    Attributes:
        onnx: the network with its raw heads as outputs.
        calibration_cache: of TensorRT, for INT8 without Q/DQ nodes.
        cfg, weights: the pair, for DeepStream; both or none.
        deepstream_onnx: the network with the `deepstream` output (batch, boxes, 6).
    """

    onnx: Path
    calibration_cache: Path | None = None
    cfg: Path | None = None
    weights: Path | None = None
    deepstream_onnx: Path | None = None

    def given(self) -> list[Path]:
        """Lists the files that there are.

        Raises:
            ExportError: one that does not exist, or half a pair.
        """
        files = [self.onnx, self.calibration_cache, self.cfg, self.weights, self.deepstream_onnx]
        given = [path for path in files if path is not None]
        for path in given:
            if not path.is_file():
                raise ExportError(f"{path}: no such file")
        if (self.cfg is None) != (self.weights is None):
            raise ExportError("kit: give both the .cfg and the .weights for DeepStream, or neither")
        return given


@dataclass(frozen=True)
class WrittenKit:
    """What was written: the folder, its files relative to it, and remarks for the user."""

    folder: Path
    files: tuple[str, ...]
    remarks: tuple[str, ...]


def write_folder(
    folder: Path,
    parts: KitParts,
    description: KitDescription,
    place: Target,
    *,
    reference: bool = True,
    overwrite: bool = False,
) -> WrittenKit:
    """Writes a kit's folder, whole or not at all.

    Args:
        folder: to be made.
        parts: the files that go into it; checked against the description and the target.
        description: what the scripts have to know.
        place: the target.
        reference: compute what the board compares its engine with, where onnxruntime is installed.
        overwrite: whether the folder may exist; its other files (an engine, say) are kept.

    Raises:
        ExportError: a file does not suit the target or the description.
        OutputError: the folder exists or cannot be written.
    """
    inputs = parts.given()
    check_folder(folder, inputs, overwrite)
    model = _read_onnx(parts.onnx)
    _check_target(description, place, parts.calibration_cache)
    _check_file(model, parts.onnx, description, place)
    if parts.deepstream_onnx is not None:
        _check_deepstream(_read_onnx(parts.deepstream_onnx), parts.deepstream_onnx, place)

    remarks: list[str] = []
    with result_folder(folder, inputs, overwrite) as partial:
        shutil.copyfile(parts.onnx, partial / ONNX_NAME)
        digest = sha256_of(str(partial / ONNX_NAME))
        (partial / "model.json").write_text(description.to_json(place, digest), encoding="utf-8")
        (partial / "names.txt").write_text("".join(f"{name}\n" for name in description.names), encoding="utf-8")
        if parts.calibration_cache is not None:
            shutil.copyfile(parts.calibration_cache, partial / _CACHE_NAME)
        copy_scripts(partial)
        if reference:
            remarks += _write_reference(partial, description)
        _write_deepstream(partial, description, place, parts)
        files = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
        (partial / "README.md").write_text(readme(description, place, files, remarks), encoding="utf-8")
    return WrittenKit(folder, ("README.md", *files), tuple(remarks))


def kit_files() -> list[str]:
    """Returns the names of all files that may be part of a kit, but for its network."""
    inside = (deepstream.CFG_NAME, deepstream.WEIGHTS_NAME, deepstream.ONNX_NAME, *deepstream.CONFIGS)
    return [
        *("README.md", "model.json", "names.txt", _CACHE_NAME, REFERENCE, *SCRIPTS),
        *(f"runtime/{path.name}" for path in (_BOARD / "runtime").glob("*.py")),
        *(f"deepstream/{name}" for name in inside),
    ]


def copy_scripts(folder: Path) -> None:
    """Puts the scripts and what they share into a folder, with their imports shortened to what lies there."""
    (folder / "runtime").mkdir()
    for path in (_BOARD / "runtime").glob("*.py"):
        (folder / "runtime" / path.name).write_bytes(path.read_bytes())
    for name in SCRIPTS:
        (folder / name).write_bytes((_BOARD / name).read_bytes().replace(*_IMPORTS))


def _read_onnx(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file that holds its weights itself.

    Raises:
        ExportError: it is not one, or keeps weights in other files.
    """
    model = read_model(path)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ExportError(f"{path}: keeps its weights in other files; a kit takes networks below 2 GB in one file")
    return model


def _check_target(description: KitDescription, place: Target, calibration_cache: Path | None) -> None:
    if not place.tensorrt:
        raise ExportError(f"target {place.name!r}: has no TensorRT; run the ONNX file with onnxruntime instead")
    if description.precision not in place.precisions:
        raise ExportError(
            f"target {place.name!r}: does not compute in {description.precision.upper()}, "
            f"choose one of {', '.join(place.precisions)}"
        )
    if description.precision == "int8" and description.file_precision != "int8" and calibration_cache is None:
        raise ExportError("INT8: needs a calibration cache or Q/DQ nodes in the ONNX file: export with --calibrate DIR")
    if description.batch is not None and not place.dynamic_batch:
        raise ExportError(f"target {place.name!r}: kits for it have a fixed batch size, export with --batch 1")


def _check_file(model: onnx.ModelProto, path: Path, description: KitDescription, place: Target) -> None:
    problems = operators.check_model(model, place)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ExportError(f"{path}: not for {place.name}: {problems[0]}{more}")
    written = operators.file_precision(model)
    if written != description.file_precision:
        raise ExportError(f"{path}: is written in {written.upper()}, not in {description.file_precision.upper()}")
    constants = {item.name for item in model.graph.initializer}
    shapes = {value.name: sizes_of(value) for value in model.graph.input if value.name not in constants}
    wanted = (description.channels, description.height, description.width)
    if list(shapes) != [description.input_name]:
        raise ExportError(f"{path}: has inputs {', '.join(shapes)}, a kit needs one called {description.input_name}")
    shape = shapes[description.input_name]
    if shape[1:] != wanted:
        raise ExportError(f"{path}: takes images of shape {shape[1:]}, the network has {wanted}")
    is_open = isinstance(shape[0], str)
    if is_open != (description.batch is not None):
        have = "open" if is_open else f"fixed at {shape[0]}"
        raise ExportError(f"{path}: its batch size is {have}, the kit was asked for batch={description.batch}")
    outputs = {value.name: sizes_of(value) for value in model.graph.output}
    for head, name in zip(description.heads, description.outputs, strict=True):
        if name not in outputs:
            raise ExportError(f"{path}: has no output {name} but {', '.join(outputs)}: export with --outputs heads")
        if len(outputs[name]) != 4 or outputs[name][1] != head.channels:
            raise ExportError(
                f"{path}: output {name} has shape {outputs[name]}, its [{head.kind}] needs {head.channels} channels"
            )


def _check_deepstream(model: onnx.ModelProto, path: Path, place: Target) -> None:
    if [sizes_of(value)[-1:] for value in model.graph.output] != [(6,)]:
        raise ExportError(f"{path}: DeepStream-Yolo reads one output (batch, boxes, 6): use --outputs deepstream")
    problems = operators.check_model(model, place)
    if problems:
        raise ExportError(f"{path}: not for {place.name}: {problems[0]}")


def _write_reference(partial: Path, description: KitDescription) -> list[str]:
    """Computes what onnxruntime makes of a fixed input; a remark where it is not installed."""
    if not is_installed():
        return [f"onnxruntime is not installed, so there is no {REFERENCE} to compare the engine with"]
    try:
        with runnable(partial / ONNX_NAME) as opened:
            session = OnnxSession(opened, ONNX_NAME)
            batch = description.batch[1] if description.batch is not None else session.batch or 1
            feed = reference_input((batch, description.channels, description.height, description.width))
            outputs = session.run(feed, description.outputs)
    except RunnerError as error:
        raise ExportError(str(error)) from None
    arrays: dict[str, Any] = {f"output{index}": array for index, array in enumerate(outputs.values())}
    np.savez_compressed(partial / REFERENCE, names=np.array(description.outputs), **arrays)
    return []


def _write_deepstream(partial: Path, description: KitDescription, place: Target, parts: KitParts) -> None:
    if parts.cfg is None and parts.deepstream_onnx is None:
        return
    inside = partial / "deepstream"
    inside.mkdir()
    if parts.cfg is not None and parts.weights is not None:
        shutil.copyfile(parts.cfg, inside / deepstream.CFG_NAME)
        shutil.copyfile(parts.weights, inside / deepstream.WEIGHTS_NAME)
        text = deepstream.for_pair(description, place.workspace_mb)
        (inside / deepstream.CONFIGS[0]).write_text(text, encoding="utf-8")
    if parts.deepstream_onnx is not None:
        shutil.copyfile(parts.deepstream_onnx, inside / deepstream.ONNX_NAME)
        text = deepstream.for_onnx(description, place.workspace_mb, parts.calibration_cache is not None)
        (inside / deepstream.CONFIGS[1]).write_text(text, encoding="utf-8")
