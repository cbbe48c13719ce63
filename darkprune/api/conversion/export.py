"""`export`: a pair as an ONNX file, checked before it is called done."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from darkprune.api.conversion.origin import files_of, names_of, original_of, plan_hash
from darkprune.api.pair import Network, on_disk
from darkprune.darknet.output import checked_file
from darkprune.errors import ExportError, UsageError
from darkprune.evaluation.of_graph import labelled_for
from darkprune.graph.as_meant import with_activation
from darkprune.graph.graph import resized
from darkprune.layers.activations import FUNCTIONS
from darkprune.onnx.calibration import METHODS, calibration_files
from darkprune.onnx.check import OutputComparison
from darkprune.onnx.export import OnnxFile
from darkprune.onnx.nodes.outputs import FORMS, Suppression
from darkprune.onnx.options import Calibration, ExportOptions, LeftOut, Precision
from darkprune.progress import Progress, reporting
from darkprune.runners.exported import PrecisionCost, export_and_compare, precision_cost
from darkprune.settings import PathLike, Settings, setting
from darkprune.targets import target, targets
from darkprune.tensorrt.plan import tensorrt_rtx
from darkprune.tensorrt.plans import PlannedNetwork, Plans, compare_plans, padding_warning

_LEAVE_OUT = ("first", "heads", "depthwise")
_SUPPRESSION = "suppression inside the file (--outputs nms, efficientnms)"


@dataclass(frozen=True, kw_only=True)
class ConversionSettings(Settings):
    """What `export` and `write_kit` have in common: what is converted, for what, and in which precision."""

    target: str = ""  # declared by the subclasses
    opset: int | None = setting(None, "ONNX opset (default 13, or what the target reads)")
    size: str | None = setting(None, "another input size than the cfg's", metavar="WxH")
    names: PathLike | None = setting(
        None, "names of the classes", default_text="the cfg's own .names beside it", metavar="F"
    )
    as_activation: str | None = setting(
        None, "what an activation that darknet does not know stands for: swish for silu", choices=tuple(FUNCTIONS),
        flag="as", metavar="NAME", default_text="relu, as darknet",
    )  # fmt: skip
    fp32: bool = setting(
        False, "single precision, where the target would get half", group="precision", exclusive="precision"
    )
    fp16: bool = setting(False, "half precision", group="precision", exclusive="precision")
    int8: bool = setting(False, "8-bit integers; needs --calibrate", group="precision", exclusive="precision")
    calibrate: PathLike | None = setting(
        None, "images like those to come, to measure ranges on", group="precision", metavar="DIR"
    )
    calibration_method: str = setting("minmax", "how a range follows from values", group="precision", choices=METHODS)
    calibration_images: int = setting(300, "most images", group="precision")
    leave_out: tuple[str, ...] = setting(
        _LEAVE_OUT, "not quantised: first, heads, depthwise, layer numbers, or none", group="precision", metavar="WHAT"
    )
    static: bool = setting(False, "check structure and shapes only, run nothing", group="checks")
    check: str | None = setting(
        None,
        "tensorrt: parse and plan with TensorRT for RTX, on the processor",
        group="checks",
        choices=("tensorrt", "none"),
        default_text="tensorrt, where darkprune[rtx] is installed and the target has TensorRT",
    )
    overwrite: bool = setting(False, "replace an existing file")

    def __post_init__(self) -> None:
        """Checks that the settings go together; see `Settings`."""
        super().__post_init__()
        if self.int8 and not self.calibrate:
            raise UsageError("--int8 needs --calibrate DIR: a folder of images like those to come")
        if self.check == "tensorrt" and tensorrt_rtx() is None:
            raise ExportError("--check tensorrt: TensorRT for RTX is not installed: pip install 'darkprune[rtx]'")
        for part in self.leave_out:
            if part not in ("", "none", *_LEAVE_OUT) and not (part.isascii() and part.isdigit() and len(part) < 9):
                raise UsageError(f"--leave-out {part[:60]}: give {', '.join(_LEAVE_OUT)}, layer numbers, or none")

    @property
    def planned(self) -> bool:
        """Whether TensorRT for RTX plans the network."""
        if self.check is not None:
            return self.check == "tensorrt"
        return bool(target(self.target).tensorrt) and not self.static and tensorrt_rtx() is not None

    def precision(self, default: str) -> str:
        """Returns fp32, fp16 or int8: the one that is set, else the default."""
        asked = {"fp32": self.fp32, "fp16": self.fp16, "int8": self.int8}
        return next((name for name, given in asked.items() if given), default)

    @property
    def left_out(self) -> LeftOut:
        """Layers that are not quantised."""
        layers = frozenset(int(part) for part in self.leave_out if part.isdigit())
        first, heads, depthwise = (word in self.leave_out for word in _LEAVE_OUT)
        return LeftOut(first, heads, layers, depthwise)

    def calibration(self, cache: Path | None = None) -> Calibration | None:
        """Returns how ranges are measured; None without images.

        Args:
            cache: where to write the ranges for TensorRT, if anywhere.

        Raises:
            DataError: a folder without images.
        """
        if self.calibrate is None:
            return None
        images = calibration_files(Path(self.calibrate), max(1, self.calibration_images))
        return Calibration(images, self.calibration_method, self.left_out, cache)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ConversionSettings):
    """What an ONNX file is made for, and how it is checked."""

    target: str = setting("onnxruntime", "what will read it", choices=tuple(targets()))
    outputs: str = setting("heads", "what it gives; heads: raw maps", choices=FORMS)
    batch: int | str = setting(1, "images per call", metavar="N|dynamic")
    thresh: float = setting(0.25, "lowest score", group=_SUPPRESSION)
    nms: float = setting(0.45, "overlap threshold", group=_SUPPRESSION)
    most: int = setting(100, "most detections", group=_SUPPRESSION)
    calibration_cache: PathLike | None = setting(
        None, "also write the ranges as TensorRT 8 to 10 read them", group="precision", metavar="F"
    )
    keep_fp32: tuple[int, ...] = setting((), "with --fp16: layers that stay FP32", group="precision", metavar="L1,L2,…")
    image: tuple[str, ...] = setting(
        (), "an image to compare with", default_text="noise", group="checks", metavar="F", repeated=True
    )
    data: PathLike | None = setting(
        None, "labelled images: measure what --fp16 or --int8 costs", group="checks", metavar="F"
    )
    split: str = setting("valid", "which part of the data", group="checks", metavar="PART")

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.calibrate and not (self.int8 or self.calibration_cache):
            raise UsageError("--calibrate is for --int8, or for --calibration-cache F")
        if self.calibration_cache and not self.calibrate:
            raise UsageError("--calibration-cache needs --calibrate DIR: a folder of images like those to come")
        if self.data and self.file_precision == "fp32":
            raise UsageError("--data measures what a lower precision costs: give --fp16 or --int8 too")
        if self.data and self.outputs != "heads":
            raise UsageError(f"--data measures files with raw heads, not --outputs {self.outputs}")
        if self.keep_fp32 and self.file_precision != "fp16":
            raise UsageError("--keep-fp32 goes with --fp16; for INT8 there is --leave-out")
        if not (0 <= self.thresh <= 1 and 0 <= self.nms <= 1 and self.most > 0):
            raise UsageError("--thresh and --nms are 0 to 1, --most is 1 or more")
        text = str(self.batch)
        if text != "dynamic" and not (text.isascii() and text.isdigit() and len(text) < 9):
            raise UsageError(f"--batch {text[:40]}: give a number of images, or dynamic")

    @property
    def file_precision(self) -> str:
        """What the file is written in."""
        return self.precision(target(self.target).default_precision)

    @property
    def images_per_call(self) -> int | None:
        """The batch size; None where it is open."""
        return None if self.batch == "dynamic" else int(self.batch)


@dataclass(frozen=True)
class ExportResult:
    """An ONNX file that was written and checked.

    Attributes:
        onnx: the file.
        file: what is in it.
        comparison: how far its outputs are off from those of the pair in another program.
        accuracy: what a lower precision costs, where labelled images were given.
        plans: what TensorRT for RTX plans for it, where it was asked.
        warnings: what a user should know of the file.
    """

    onnx: Path
    file: OnnxFile
    comparison: OutputComparison
    accuracy: PrecisionCost | None = None
    plans: Plans | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the result as JSON values."""
        file = self.file
        return {
            "onnx": str(self.onnx),
            "bytes": file.bytes,
            "target": file.facts["target"],
            "form": file.facts["outputs"],
            "precision": file.facts["precision"],
            "opset": file.opset,
            "ir": file.ir,
            "plan_hash": file.facts["plan_hash"],
            "inputs": file.inputs,
            "outputs": file.outputs,
            "operators": file.operators,
            **self.comparison.to_json(),
            "warnings": list(self.warnings),
            "plans": None if self.plans is None else self.plans.to_json(),
            "accuracy": None if self.accuracy is None else {**asdict(self.accuracy), "text": self.accuracy.text},
        }


def export(
    network: Network, output: PathLike, settings: ExportSettings | None = None, *, progress: Progress | None = None
) -> ExportResult:
    """Writes a network as an ONNX file, which takes its place once it is checked.

    Args:
        network: a pair, or a surgery, saved or not.
        output: the file to write.
        settings: what it is made for; by default FP32 for onnxruntime.
        progress: gets the events of the work.

    Raises:
        ExportError: settings that do not fit, a layer that ONNX cannot express, or numbers that are off.
        DataError: images that cannot be used.
        OutputError: the file exists or cannot be written.
        RunnerError: onnxruntime is missing where it is needed.
    """
    settings = settings or ExportSettings()
    output, inputs = Path(output), files_of(network)
    options = ExportOptions(
        target=settings.target,
        opset=settings.opset,
        batch=settings.images_per_call,
        outputs=settings.outputs,
        names=names_of(network, settings.names),
        limits=Suppression(settings.thresh, settings.nms, settings.most),
        plan_hash=plan_hash(network),
    )
    images = None if settings.static else [Path(image) for image in settings.image]
    accuracy = None
    with ExitStack() as stack:
        stack.enter_context(reporting(progress))
        pair = stack.enter_context(on_disk(network))
        graph = with_activation(resized(pair.graph, settings.size), settings.as_activation)
        weights = pair.weights_file
        labelled = None
        if settings.data is not None:
            labelled = labelled_for(graph, settings.data, settings.split, settings.names)
        path = stack.enter_context(checked_file(output, inputs, settings.overwrite))
        cache = None
        if settings.calibration_cache is not None:
            place = checked_file(Path(settings.calibration_cache), [*inputs, output], settings.overwrite)
            cache = stack.enter_context(place)
        precision = Precision(settings.file_precision, settings.keep_fp32, settings.calibration(cache))
        file, comparison = export_and_compare(graph, weights, options, precision, path, images)
        warnings = [*graph.warnings, *file.remarks]
        if labelled is not None:
            accuracy = precision_cost(file, graph, weights, labelled.dataset)
            warnings += labelled.warnings
        # boards build FP16 engines from an FP32 file
        half = target(settings.target).jetson and precision.name == "fp32" and not settings.fp32
        planned = PlannedNetwork(graph, options, "fp16" if half else precision.name, settings.left_out)
        plans, more = plans_of(network, settings, planned, file)
    return ExportResult(output, file, comparison, accuracy, plans, (*warnings, *more))


def plans_of(
    network: Network, settings: ConversionSettings, planned: PlannedNetwork, file: OnnxFile
) -> tuple[Plans | None, tuple[str, ...]]:
    """Plans a file, beside the network before pruning, if the settings ask for it.

    Returns:
        The plans, and warnings that follow from them, or from the widths alone where nothing is planned.

    Raises:
        ExportError: TensorRT for RTX refuses the file.
    """
    plans = None
    if settings.planned:
        original, in_file = original_of(network, settings.size), file.facts["precision"]
        plans = compare_plans(planned, file.path, in_file, original)
        if plans.network.kernels:
            return plans, plans.warnings
    padding = padding_warning(planned)
    return plans, (padding,) if padding else ()
