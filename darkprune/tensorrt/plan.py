"""What TensorRT for RTX plans to do with a file: its kernels, the copies among them, the bytes that they write.

TensorRT for RTX (`pip install 'darkprune[rtx]'`) parses and builds on a machine without a GPU. It describes the kernels
of an engine in its log, and only there: the inspector of an engine needs a GPU. The lines read

    Name: __myl_CorrMulMax_myl0_1, LayerType: runtime_fusion, Inputs: [ { Name: …, Dimensions: [1,4,416,416], …,
    Datatype: Half, Format: … }], Constants: […], Outputs: […], TacticName: …

where the name of a fused kernel lists what it computes: Corr (convolution), Mul, Max, Conc, Slic …
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from darkprune.errors import ExportError
from darkprune.kit.board.runtime import RuntimeFailure, TensorRT
from darkprune.kit.board.runtime.build import BuildOptions, parse, serialize
from darkprune.kit.board.runtime.callbacks import make_log
from darkprune.kit.board.runtime.command import MODULES, import_tensorrt
from darkprune.onnx.read import read_model, sizes_of
from darkprune.tensorrt.operators import file_precision, operator_facts
from darkprune.tensorrt.run import failures_as

_KERNEL = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName"
)
_TENSOR = re.compile(r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<sizes>[-\d,]*)\].*?Datatype: (?P<type>\w+), Format: ")
_BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "FP8": 1, "Bool": 1, "Int32": 4, "Int64": 8}
_SYNCHRONISATION = frozenset({"signal", "wait"})  # between streams: no kernels
_FUSED = re.compile(r"__myl_(\w+?)_myl\d+_\d+")
#: parts of a fused kernel that move values without computing any: cast, concatenation, slice, shape, order, padding
_MOVES = frozenset({"Cast", "Conc", "Slic", "Resh", "Tran", "Move", "Repl", "Pad"})
#: parts of a change to INT8 and back: scale, limit, round, cast
_QUANTISATION = frozenset({"Mul", "Min", "Max", "Roun", "Cast"})


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that a kernel reads or writes.

    Attributes:
        sizes: as planned, with channels padded where the kernels want that.
        type: as TensorRT spells it: Float, Half, Int8.
    """

    name: str
    sizes: tuple[int, ...]
    type: str

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        count = 1
        for size in self.sizes:
            count *= size
        return count * _BYTES.get(self.type, 4)


@dataclass(frozen=True)
class Kernel:
    """A kernel of an engine."""

    name: str
    type: str
    inputs: tuple[PlannedTensor, ...]
    constants: tuple[PlannedTensor, ...]
    outputs: tuple[PlannedTensor, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """What it computes, in TensorRT's abbreviations; empty where its name does not tell."""
        fused = _FUSED.fullmatch(self.name)
        return tuple(re.findall(r"[A-Z][a-z0-9]*", fused[1])) if fused else ()

    @property
    def is_copy(self) -> bool:
        """Whether it moves values without computing any."""
        return bool(self.steps) and set(self.steps) <= _MOVES

    @property
    def is_quantisation(self) -> bool:
        """Whether it does nothing but change between INT8 and a higher precision."""
        types = {tensor.type for tensor in (*self.inputs, *self.outputs)}
        return "Int8" in types and len(types) > 1 and bool(self.steps) and set(self.steps) <= _QUANTISATION

    @property
    def is_convolution(self) -> bool:
        """Whether it multiplies with weights."""
        return self.type == "correlation" or bool({"Corr", "Fc"} & set(self.steps))


@dataclass(frozen=True)
class EnginePlan:
    """What TensorRT for RTX plans for a file, on a processor and without running it.

    Attributes:
        version: of TensorRT for RTX.
        precision: what the file is written in.
        images: batch size that was planned for.
        kernels: in their order.
        skipped: why there are none.
    """

    version: str = ""
    precision: str = ""
    images: int = 1
    kernels: tuple[Kernel, ...] = ()
    skipped: str = ""

    @property
    def copies(self) -> int:
        """How many kernels only move values."""
        return sum(kernel.is_copy for kernel in self.kernels)

    @property
    def bytes_written(self) -> float:
        """Bytes that all kernels write, per image."""
        return sum(tensor.bytes for kernel in self.kernels for tensor in kernel.outputs) / self.images

    def to_json(self) -> dict[str, object]:
        """Returns the figures as JSON values."""
        if self.skipped:
            return {"tensorrt_rtx": self.version or None, "skipped": self.skipped}
        return {
            "tensorrt_rtx": self.version,
            "precision": self.precision,
            "kernels": len(self.kernels),
            "copies": self.copies,
            "bytes_written_per_image": round(self.bytes_written),
        }


def tensorrt_rtx() -> TensorRT | None:
    """Returns the module of TensorRT for RTX; None where it is not installed."""
    try:
        return import_tensorrt(MODULES[1:])
    except RuntimeFailure:
        return None


def parse_file(path: Path) -> None:
    """Parses a file with TensorRT for RTX.

    Raises:
        ExportError: TensorRT for RTX is not installed, or refuses the file.
    """
    with failures_as(ExportError):
        trt = import_tensorrt(MODULES[1:])
        parse(trt, str(path), make_log(trt))


def plan_file(path: Path) -> EnginePlan:
    """Parses and builds a file with TensorRT for RTX, and reads from its log what it would run.

    An open batch size is planned for one image.

    Raises:
        ExportError: TensorRT refuses the file.
    """
    trt = tensorrt_rtx()
    if trt is None:
        return EnginePlan(skipped="TensorRT for RTX is not installed: pip install 'darkprune[rtx]'")
    model = read_model(path)
    precision, operators = file_precision(model), {node.op_type for node in model.graph.node}
    nothing = EnginePlan(trt.__version__, precision)
    plugins = operators & set(operator_facts()["plugins"])
    if plugins:
        return replace(nothing, skipped=f"TensorRT for RTX has no {', '.join(sorted(plugins))}")
    if "NonMaxSuppression" in operators:
        parse_file(path)
        return replace(nothing, skipped="parsed; TensorRT for RTX has no kernel for NonMaxSuppression")
    with failures_as(ExportError):
        size = sizes_of(model.graph.input[0])[0]
        batch = (1, 1, 1) if isinstance(size, str) else None
        options = BuildOptions(precision, precision, batch=batch)
        result = serialize(trt, None, str(path), options, None, lambda line: None, detailed=True)
    kernels = read_kernels(result.log.lines)
    if not kernels:
        return replace(nothing, skipped="built; its log describes no kernels")
    return replace(nothing, images=size if isinstance(size, int) else 1, kernels=kernels)


def read_kernels(lines: Iterable[str]) -> tuple[Kernel, ...]:
    """Reads the kernels from the lines of a detailed log; lines of another form are passed over."""
    found = []
    for line in lines:
        match = _KERNEL.match(line)
        if match is not None and match["type"] not in _SYNCHRONISATION:
            inputs, constants, outputs = (_tensors(match[key]) for key in ("inputs", "constants", "outputs"))
            found.append(Kernel(match["name"], match["type"], inputs, constants, outputs))
    return tuple(found)


def _tensors(text: str) -> tuple[PlannedTensor, ...]:
    return tuple(
        PlannedTensor(match["name"], tuple(int(size) for size in match["sizes"].split(",") if size), match["type"])
        for match in _TENSOR.finditer(text)
    )
