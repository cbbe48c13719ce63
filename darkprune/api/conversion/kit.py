"""`write_kit`: a folder to copy to a board."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from darkprune.api.conversion.export import ConversionSettings, ExportResult, plans_of
from darkprune.api.conversion.origin import files_of, names_of, plan_hash
from darkprune.api.pair import Network, on_disk
from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.darknet.output import check_folder
from darkprune.errors import ExportError, UsageError
from darkprune.graph.as_meant import with_activation
from darkprune.graph.graph import Graph, resized
from darkprune.kit.schema import ONNX_NAME, describe
from darkprune.kit.writer import KitParts, write_folder
from darkprune.layers.heads import Head
from darkprune.onnx.options import ExportOptions, Precision
from darkprune.progress import Progress, reporting
from darkprune.runners.exported import export_and_compare
from darkprune.settings import PathLike, setting
from darkprune.targets import Target, target, targets
from darkprune.tensorrt.plans import PlannedNetwork

BOARDS = tuple(name for name, place in targets().items() if place.tensorrt)


@dataclass(frozen=True, kw_only=True)
class KitSettings(ConversionSettings):
    """What a kit is made for."""

    target: str = setting("", "the board", choices=BOARDS)
    thresh: float = setting(0.25, "lowest score of a detection")
    nms: float = setting(0.45, "overlap threshold")
    deepstream: bool = setting(True, "write what DeepStream needs")
    overwrite: bool = setting(False, "replace an earlier kit; an engine in it stays")

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if not self.target:
            raise UsageError(f"--target: name the board: {', '.join(BOARDS)}")
        if self.calibrate and not self.int8:
            raise UsageError("--calibrate is for --int8")


@dataclass(frozen=True)
class KitResult:
    """A kit that was written.

    Attributes:
        kit: the folder.
        target: the board.
        precision: what the engine will be built in.
        files: bytes of each file by its path in the folder.
        onnx: the network's file in it.
        warnings: what a user should know of the kit.
    """

    kit: Path
    target: str
    precision: str
    files: Mapping[str, int]
    onnx: ExportResult
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the result as JSON values."""
        return {
            "kit": str(self.kit),
            "target": self.target,
            "precision": self.precision,
            "files": dict(self.files),
            "onnx": self.onnx.to_json(),
            "warnings": list(self.warnings),
        }


def write_kit(
    network: Network, output: PathLike, settings: KitSettings, *, progress: Progress | None = None
) -> KitResult:
    """Writes a folder with the network and all that a board needs to build and run it.

    Args:
        network: a pair, or a surgery, saved or not.
        output: the folder to write.
        settings: the board, and what the engine is built in there.
        progress: gets the events of the work.

    Raises:
        ExportError: the network or the settings do not suit the board.
        DataError: images or names that cannot be used.
        OutputError: the folder exists or cannot be written.
        RunnerError: onnxruntime is missing where it is needed.
    """
    output, place = Path(output), target(settings.target)
    wanted, in_file = _precisions(settings, place)
    check_folder(output, files_of(network), settings.overwrite)
    images: list[Path] | None = None if settings.static else []
    with ExitStack() as stack:
        stack.enter_context(reporting(progress))
        folder = Path(stack.enter_context(TemporaryFolder()))
        pair = stack.enter_context(on_disk(network))
        graph = with_activation(resized(pair.graph, settings.size), settings.as_activation)
        weights = pair.weights_file
        names = names_of(network, settings.names)
        _check_names(graph, names)
        options = ExportOptions(place.name, settings.opset, 1, "heads", names, plan_hash=plan_hash(network))
        parts = KitParts(onnx=folder / ONNX_NAME)
        if wanted == "int8" and in_file == "fp32":
            parts = replace(parts, calibration_cache=folder / "calibration.cache")
        precision = Precision(in_file, calibration=settings.calibration(parts.calibration_cache))
        file, agreement = export_and_compare(graph, weights, options, precision, parts.onnx, images)
        remarks = list[str]()
        if settings.deepstream:
            parts = replace(parts, cfg=folder / "model.cfg", weights=weights)
            (folder / "model.cfg").write_bytes(graph.cfg.encode())
            path = folder / "deepstream.onnx"
            form, single = replace(options, outputs="deepstream"), Precision("fp16" if in_file == "fp16" else "fp32")
            try:
                export_and_compare(graph, weights, form, single, path, images)
                parts = replace(parts, deepstream_onnx=path)
            except ExportError as error:
                remarks.append(f"no ONNX file for DeepStream: {error}")
        # a cache says nothing about an engine of TensorRT 11, which takes INT8 from the file; FP16 is next to it
        how = "fp16" if wanted == "int8" and in_file == "fp32" else wanted
        planned = PlannedNetwork(graph, options, how, settings.left_out)
        plans, more = plans_of(network, settings, planned, file)
        description = describe(graph, names, list(file.outputs), place, pair.cfg.stem)
        rules = description.detection._replace(threshold=settings.thresh, nms_threshold=settings.nms)
        description = description._replace(detection=rules, precision=wanted, file_precision=in_file)
        written = write_folder(
            output, parts, description, place, reference=not settings.static, overwrite=settings.overwrite
        )
    sizes = {name: (output / name).stat().st_size for name in written.files}
    warnings = (*graph.warnings, *file.remarks, *more)
    made = ExportResult(output / ONNX_NAME, file, agreement, plans=plans, warnings=warnings)
    return KitResult(output, place.name, wanted, sizes, made, (*warnings, *remarks, *written.remarks))


def _precisions(settings: KitSettings, place: Target) -> tuple[str, str]:
    """Returns what the engine is built in, and what the ONNX file is written in.

    TensorRT before 11 chooses half precision while it builds, so one FP32 file serves all; 11 builds what the file
    says. INT8 comes from Q/DQ pairs in the file; where every TensorRT is older than 10, from a calibration cache: it
    leaves TensorRT the choice of FP16 for a layer that is faster so, and DeepStream reads it too.
    """
    wanted = settings.precision("fp16" if "fp16" in place.precisions else "fp32")
    if wanted not in place.precisions:
        choices = ", ".join(place.precisions)
        raise ExportError(f"{place.name} does not compute in {wanted.upper()}; choose one of {choices}")
    newest = max(int(version.split(".")[0]) for version in place.tensorrt)
    if (wanted == "fp16" and newest < 11) or (wanted == "int8" and newest < 10):
        return wanted, "fp32"
    return wanted, wanted


def _check_names(graph: Graph, names: tuple[str, ...]) -> None:
    """Refuses what a kit cannot do without: a detection head, and class names.

    Raises:
        ExportError: one of them is missing.
    """
    counts = sorted({layer.kind.classes for layer in graph.heads if isinstance(layer.kind, Head)})
    if not counts:
        raise ExportError(
            f"{graph.cfg.source}: has no detection head, and a kit is for detectors; use darkprune export"
        )
    if not names:
        raise ExportError(
            f"{graph.cfg.source}: no .names file beside it; give --names F with {'/'.join(map(str, counts))} names, "
            "one per line"
        )
