"""What a file is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from darkprune.onnx.emit.outputs import Suppression

OPSETS = (11, 20)  #: what this package writes
USUAL_OPSET = 13  #: every TensorRT from 7.2 on reads it, and INT8 per channel needs it


@dataclass(frozen=True)
class ExportOptions:
    """What a file is made for.

    Attributes:
        target: name of a target, see `tensorrt_targets.json`.
        opset: ONNX opset; None: 13, or the highest below that the target reads.
        batch: images per call; None leaves it open.
        outputs: one of `heads_outputs.FORMS`.
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
