"""`build_engine`: a TensorRT engine of an ONNX file, built and compared on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkprune.data.loading import InputShape, load_image
from darkprune.errors import ExportError, UsageError
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.onnx.calibration import Floats, calibration_files
from darkprune.onnx.check import OutputComparison
from darkprune.onnx.read import facts_of_file
from darkprune.progress import Progress, reporting
from darkprune.settings import PathLike, Settings, setting
from darkprune.targets import Target, target, targets
from darkprune.tensorrt import engine
from darkprune.tensorrt.run import compare_engine


@dataclass(frozen=True, kw_only=True)
class EngineSettings(Settings):
    """How a TensorRT engine is built."""

    target: str | None = setting(
        None, "the machine this is", default_text="what the file was made for", choices=tuple(targets())
    )
    fp16: bool = setting(False, "half precision where it is faster", exclusive="precision")
    int8: bool = setting(False, "8-bit integers and half precision where they are faster", exclusive="precision")
    calibrate: PathLike | None = setting(None, "with --int8: images to measure ranges on", metavar="DIR")
    calibration_cache: PathLike | None = setting(
        None, "with --int8: ranges, read; or written, with --calibrate", metavar="F"
    )
    workspace: int | None = setting(
        None, "scratch memory, MiB", default_text="what suits the target", metavar="MB", at_least=1
    )
    timing_cache: PathLike | None = setting(None, "timings of earlier builds: read if there, then written", metavar="F")
    batch: tuple[int, ...] = setting((), "batch sizes, for a file that leaves them open", metavar="MIN,USUAL,MAX")
    tf32: bool = setting(True, "let GPUs that can round the factors of FP32 convolutions to 10 bits")
    compute_capability: int | None = setting(
        None, "with TensorRT for RTX: only for such GPUs, 75 for Turing", default_text="Ampere and later", metavar="NN"
    )
    overwrite: bool = setting(False, "replace an existing engine")

    def __post_init__(self) -> None:
        """Checks that the settings go together; see `Settings`."""
        super().__post_init__()
        if (self.calibrate or self.calibration_cache) and not self.int8:
            raise UsageError("--calibrate and --calibration-cache go with --int8")
        text = ",".join(map(str, self.batch))
        if len(self.batch) not in (0, 1, 3):
            raise UsageError(f"--batch {text[:40]}: give the smallest, usual and largest number, such as 1,4,8")
        if self.batch and not 1 <= self.batch[0] <= self.batch[len(self.batch) // 2] <= self.batch[-1]:
            raise UsageError(f"--batch {text[:40]}: the numbers have to ascend from 1 or more")

    @property
    def precision(self) -> str:
        """fp32, fp16 or int8."""
        return "fp16" if self.fp16 else "int8" if self.int8 else "fp32"

    @property
    def batch_range(self) -> tuple[int, int, int] | None:
        """Smallest, usual and largest batch size; None where none was given."""
        return (self.batch[0], self.batch[len(self.batch) // 2], self.batch[-1]) if self.batch else None


@dataclass(frozen=True)
class EngineResult:
    """A TensorRT engine that was built and compared.

    Attributes:
        engine: the file; what it belongs to stands in `<engine>.json`.
        facts: the content of that file.
        summary: a line per layer type: how many, in which precision.
        seconds: how long the build took.
        comparison: how far its outputs are off from onnxruntime's.
        warnings: what a user should know of the engine.
    """

    engine: Path
    facts: Mapping[str, object]
    summary: tuple[str, ...]
    seconds: float
    comparison: OutputComparison
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the result as JSON values."""
        return {
            "engine": str(self.engine),
            "facts": dict(self.facts),
            "summary": list(self.summary),
            "seconds": round(self.seconds, 1),
            **self.comparison.to_json(),
            "warnings": list(self.warnings),
        }


def build_engine(
    onnx: PathLike, output: PathLike, settings: EngineSettings | None = None, *, progress: Progress | None = None
) -> EngineResult:
    """Builds an engine with the TensorRT of this machine, or TensorRT for RTX, and compares it with onnxruntime.

    TensorRT for RTX needs no GPU; where there is none the engine is not compared.

    Args:
        onnx: a file that `export` wrote.
        output: the engine to write; what it belongs to is written to `<output>.json`.
        settings: how; by default FP32 with the memory that suits the file's target.
        progress: gets the events of the work.

    Raises:
        ExportError: no TensorRT here, TensorRT refuses the file, or the engine's numbers are off.
        DataError: calibration images that cannot be used.
        OutputError: the engine exists or cannot be written.
        RunnerError: the engine does not run here, or onnxruntime is missing.
    """
    settings = settings or EngineSettings()
    source, path = Path(onnx), Path(output)
    facts = _facts(source)
    has_ranges = settings.calibrate or settings.calibration_cache or facts.get("precision") == "int8"
    if settings.int8 and facts and not has_ranges:
        raise UsageError("--int8: the file has no Q/DQ nodes, so give --calibrate DIR or --calibration-cache F")
    if settings.calibration_cache and not settings.calibrate and not Path(settings.calibration_cache).is_file():
        raise ExportError(f"{settings.calibration_cache}: no such calibration cache; give --calibrate DIR to write it")
    place = target(settings.target) if settings.target else _place(facts)
    options = BuildOptions(
        precision=settings.precision,
        workspace_mb=settings.workspace or place.workspace_mb,
        batch=settings.batch_range,
        tf32=settings.tf32,
        timing_cache=str(settings.timing_cache or ""),
        calibration_cache=str(settings.calibration_cache or ""),
        compute_capability=settings.compute_capability or 0,
    )
    images = None if settings.calibrate is None else _images(Path(settings.calibrate), facts)
    with reporting(progress):
        built = engine.build(source, path, options, place, images=images, overwrite=settings.overwrite)
    comparison = compare_engine(path, source)
    if not comparison.agrees:
        raise ExportError(
            f"{path}: its numbers are off from onnxruntime's by {comparison.worst[1]:.1e} of their range, "
            f"{comparison.allowed:.0e} is allowed: build it again with --no-tf32"
        )
    return EngineResult(
        engine=path,
        facts=built.facts,
        summary=tuple(built.summary()),
        seconds=built.seconds,
        comparison=comparison,
        warnings=built.remarks,
    )


def _facts(source: Path) -> dict[str, Any]:
    """Reads the metadata of a file; a foreign one, which the build refuses, has none."""
    try:
        return facts_of_file(source)
    except ExportError:
        return {}


def _place(facts: dict[str, Any]) -> Target:
    """Returns the target that the file was made for, if it has TensorRT."""
    name = facts.get("target", "")
    return target(name if name in targets() and target(name).tensorrt else "workstation")


def _images(folder: Path, facts: dict[str, Any]) -> Iterator[Floats]:
    """Reads calibration images as the file's metadata say.

    Raises:
        DataError: a folder without images, or one that cannot be read.
    """
    files = calibration_files(folder)  # refuses an empty folder before anything is built
    image = facts.get("input")
    if not isinstance(image, dict):
        raise ExportError("calibration: the file does not say how images become its input")
    shape = InputShape(image["width"], image["height"], image["channels"], bool(image["letterbox"]))
    return (load_image(path, shape)[0] for path in files)
