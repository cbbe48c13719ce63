"""What a file is made for, and the precision that it is written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from darkprune.onnx.nodes.outputs import Suppression

OPSETS = (11, 20)  #: what this package writes
USUAL_OPSET = 13  #: every TensorRT from 7.2 on reads it, and INT8 per channel needs it


@dataclass(frozen=True)
class ExportOptions:
    """What a file is made for.

    Attributes:
        target: name of a target, see `targets.json`.
        opset: ONNX opset; None: 13, or the highest below that the target reads.
        batch: images per call; None leaves it open.
        outputs: one of `outputs.FORMS`.
        names: class names; may be empty.
        limits: of the suppression, for the forms that have one.
        plan_hash: of the pruning plan that the pair was made by, if any.
    """

    target: str = "onnxruntime"
    opset: int | None = None
    batch: int | None = 1
    outputs: str = "heads"
    names: Sequence[str] = ()
    limits: Suppression = field(default_factory=Suppression)
    plan_hash: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Which layers stay in higher precision in an INT8 file.

    Attributes:
        first: the first convolution.
        heads: the layers that heads, or the outputs of a classifier, read.
        layers: further ones, by darknet's number.
        depthwise: depthwise convolutions: their channels have ranges of their own, but share one step, and INT8 kernels
            pad them.
    """

    first: bool = True
    heads: bool = True
    layers: frozenset[int] = frozenset()
    depthwise: bool = True


@dataclass(frozen=True)
class Calibration:
    """How the ranges of a network's tensors are measured.

    Attributes:
        images: image files like those to come.
        method: how a range follows from values: minmax, entropy or percentile.
        left_out: layers that are not quantised.
        cache: where to write the ranges as TensorRT 8 to 10 read them; None writes no such file.
    """

    images: Sequence[Path]
    method: str = "minmax"
    left_out: LeftOut = field(default_factory=LeftOut)
    cache: Path | None = None


@dataclass(frozen=True)
class Precision:
    """What a file is written in.

    Attributes:
        name: fp32, fp16 or int8.
        keep_fp32: layers of an FP16 file that stay FP32, by darknet's number.
        calibration: how ranges are measured; INT8 needs it.
    """

    name: str = "fp32"
    keep_fp32: Sequence[int] = ()
    calibration: Calibration | None = None
