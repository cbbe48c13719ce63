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
from darkprune.kit.board.runtime.model import Model
from darkprune.kit.readme import readme
from darkprune.kit.schema import ONNX_NAME, to_json
from darkprune.layers.heads import AnchorLayout
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
    description: Model,
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
        described = description._replace(onnx_sha256=sha256_of(str(partial / ONNX_NAME)))
        (partial / "model.json").write_text(to_json(described, place), encoding="utf-8")
        (partial / "names.txt").write_text("".join(f"{name}\n" for name in description.names), encoding="utf-8")
        if parts.calibration_cache is not None:
            shutil.copyfile(parts.calibration_cache, partial / _CACHE_NAME)
        copy_scripts(partial)
        if reference:
            remarks += _write_reference(partial, description)
        _write_deepstream(partial, description, parts)
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


def _check_target(description: Model, place: Target, calibration_cache: Path | None) -> None:
    if not place.tensorrt:
        raise ExportError(f"target {place.name!r}: has no TensorRT; run the ONNX file with onnxruntime instead")
    if description.precision not in place.precisions:
        raise ExportError(
            f"target {place.name!r}: does not compute in {description.precision.upper()}, "
            f"choose one of {', '.join(place.precisions)}"
        )
    if description.precision == "int8" and description.file_precision != "int8" and calibration_cache is None:
        raise ExportError("INT8: needs a calibration cache or Q/DQ nodes in the ONNX file: export with --calibrate DIR")


def _check_file(model: onnx.ModelProto, path: Path, description: Model, place: Target) -> None:
    problems = operators.check_model(model, place)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ExportError(f"{path}: not for {place.name}: {problems[0]}{more}")
    written = operators.file_precision(model)
    if written != description.file_precision:
        raise ExportError(f"{path}: is written in {written.upper()}, not in {description.file_precision.upper()}")
    constants = {item.name for item in model.graph.initializer}
    shapes = {value.name: sizes_of(value) for value in model.graph.input if value.name not in constants}
    image = description.input
    if list(shapes) != [image.name]:
        raise ExportError(f"{path}: has inputs {', '.join(shapes)}, a kit needs one called {image.name}")
    (batch, *sizes), wanted = shapes[image.name], (image.channels, image.height, image.width)
    if tuple(sizes) != wanted:
        raise ExportError(f"{path}: takes images of shape {tuple(sizes)}, the network has {wanted}")
    if isinstance(batch, str):
        raise ExportError(f"{path}: its batch size is open, a kit needs a fixed one: export with --batch 1")
    outputs = {value.name: sizes_of(value) for value in model.graph.output}
    for head in description.heads:
        if head.output not in outputs:
            raise ExportError(
                f"{path}: has no output {head.output} but {', '.join(outputs)}: export with --outputs heads"
            )
        shape = outputs[head.output]
        channels = AnchorLayout.of(head.kind, head.classes, head.coords).size * len(head.anchors)
        if len(shape) != 4 or shape[1] != channels:
            raise ExportError(
                f"{path}: output {head.output} has shape {shape}, its [{head.kind}] needs {channels} channels"
            )


def _check_deepstream(model: onnx.ModelProto, path: Path, place: Target) -> None:
    if [sizes_of(value)[-1:] for value in model.graph.output] != [(6,)]:
        raise ExportError(f"{path}: DeepStream-Yolo reads one output (batch, boxes, 6): use --outputs deepstream")
    problems = operators.check_model(model, place)
    if problems:
        raise ExportError(f"{path}: not for {place.name}: {problems[0]}")


def _write_reference(partial: Path, description: Model) -> list[str]:
    """Computes what onnxruntime makes of a fixed input; a remark where it is not installed."""
    if not is_installed():
        return [f"onnxruntime is not installed, so there is no {REFERENCE} to compare the engine with"]
    try:
        with runnable(partial / ONNX_NAME) as opened:
            session = OnnxSession(opened, ONNX_NAME)
            image, names = description.input, [head.output for head in description.heads]
            feed = reference_input((session.batch or 1, image.channels, image.height, image.width))
            outputs = session.run(feed, names)
    except RunnerError as error:
        raise ExportError(str(error)) from None
    arrays: dict[str, Any] = {f"output{index}": array for index, array in enumerate(outputs.values())}
    np.savez_compressed(partial / REFERENCE, names=np.array(names), **arrays)
    return []


def _write_deepstream(partial: Path, description: Model, parts: KitParts) -> None:
    if parts.cfg is None and parts.deepstream_onnx is None:
        return
    inside = partial / "deepstream"
    inside.mkdir()
    if parts.cfg is not None and parts.weights is not None:
        shutil.copyfile(parts.cfg, inside / deepstream.CFG_NAME)
        shutil.copyfile(parts.weights, inside / deepstream.WEIGHTS_NAME)
        text = deepstream.for_pair(description)
        (inside / deepstream.CONFIGS[0]).write_text(text, encoding="utf-8")
    if parts.deepstream_onnx is not None:
        shutil.copyfile(parts.deepstream_onnx, inside / deepstream.ONNX_NAME)
        text = deepstream.for_onnx(description, parts.calibration_cache is not None)
        (inside / deepstream.CONFIGS[1]).write_text(text, encoding="utf-8")
