"""What a kit says about its network: `model.json`, the one file that the scripts on the board go by.

```
{
  "format": 1, "name": "yolov4-tiny", "made_by": "darkprune 0.1.0", "target": "jetson-nano",
  "onnx": "model.onnx", "onnx_sha256": "...",
  "input": {"name": "input", "width": 416, "height": 416, "channels": 3, "letterbox": false},
  "heads": [{"output": "head_30", "kind": "yolo", "classes": 80, "anchors": [[81, 82], ...], "scale_x_y": 1.05,
             "new_coords": false, "coords": 4, "softmax": false, "yolo_point": "center"}, ...],
  "names": ["person", ...],
  "detection": {"threshold": 0.25, "nms": "greedynms", "nms_threshold": 0.45, "nms_beta": 0.6},
  "precision": "fp16", "file_precision": "fp32", "batch": null, "workspace_mb": 512
}
```
`input` takes RGB in 0..1. An output is the map that the head's section takes, before any activation of the head:
(batch, anchors * values, rows, columns). `precision` is what the engine is built in, `file_precision` what the ONNX
file is written in: fp16 with half tensors, int8 with Q/DQ nodes. `batch` is null for the batch size that the file
fixes, else the smallest, usual and largest one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import darkprune
from darkprune.errors import ExportError, one_line
from darkprune.evaluation.heads import Head
from darkprune.evaluation.nms import NMS_THRESHOLD
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.graph.graph import Graph
from darkprune.kit.board.runtime.model import FORMAT, Input, Model, Rules
from darkprune.kit.board.runtime.model import Head as BoardHead
from darkprune.targets import PRECISIONS, Target

THRESHOLD = 0.25  #: darknet's own default for `detector test`
ONNX_NAME = "model.onnx"


@dataclass(frozen=True)
class KitDescription:
    """What the scripts have to know of a network.

    Attributes:
        name: how the network is called in texts.
        width, height, channels: of its input.
        heads: detection heads in order of their layers, without hierarchical classes.
        outputs: the ONNX file's output for each head.
        names: of the classes.
        input_name: of the ONNX file.
        letterbox: whether pictures keep their aspect ratio.
        threshold: smallest score of a detection.
        nms_threshold: largest overlap.
        precision: what the engine is built in, one of `PRECISIONS`.
        file_precision: what the ONNX file is written in.
        batch: smallest, usual and largest batch size of a file that leaves it open.
    """

    name: str
    width: int
    height: int
    channels: int
    heads: tuple[Head, ...]
    outputs: tuple[str, ...]
    names: tuple[str, ...]
    input_name: str = "input"
    letterbox: bool = False
    threshold: float = THRESHOLD
    nms_threshold: float = NMS_THRESHOLD
    precision: str = "fp32"
    file_precision: str = "fp32"
    batch: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        """Refuses what the scripts could not run.

        Raises:
            ExportError: with the first contradiction.
        """
        if not self.heads or len(self.heads) != len(self.outputs):
            raise ExportError(f"{self.name}: {len(self.heads)} detection heads but {len(self.outputs)} outputs")
        for head in self.heads:
            if head.tree is not None:
                raise ExportError(f"{self.name}: a kit has no rule for the hierarchical classes (tree=) of a [region]")
            if head.classes != len(self.names):
                raise ExportError(
                    f"{self.name}: {len(self.names)} names for {head.classes} classes: give the list the network "
                    "was trained with"
                )
        if self.channels not in (1, 3):
            raise ExportError(f"{self.name}: pictures have 1 or 3 channels, the input has {self.channels}")
        if self.precision not in PRECISIONS or self.file_precision not in PRECISIONS:
            raise ExportError(f"{self.name}: precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        if self.batch is not None and not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise ExportError(f"{self.name}: batch {self.batch}: give smallest, usual and largest, 1 or more")

    def to_json(self, target: Target, onnx_sha256: str) -> str:
        """Returns the text of `model.json`.

        Args:
            target: what the kit is for.
            onnx_sha256: hexadecimal hash of the ONNX file, which the scripts check.
        """
        last = self.heads[-1]  # darknet suppresses as the last head says
        model = Model(
            onnx=ONNX_NAME,
            onnx_sha256=onnx_sha256,
            input=Input(self.input_name, self.width, self.height, self.channels, self.letterbox),
            heads=[board_head(head, output) for head, output in zip(self.heads, self.outputs, strict=True)],
            names=list(self.names),
            detection=Rules(self.threshold, last.nms_kind, self.nms_threshold, last.beta_nms),
            precision=self.precision,
            file_precision=self.file_precision,
            batch=self.batch,
            workspace_mb=target.workspace_mb,
        )
        content = {
            "format": FORMAT,
            "name": self.name,
            "made_by": f"darkprune {darkprune.__version__}",
            "target": target.name,
            **model._asdict(),
            "input": model.input._asdict(),
            "heads": [head._asdict() for head in model.heads],
            "detection": model.detection._asdict(),
        }
        return json.dumps(content, indent=1) + "\n"


def describe(graph: Graph, names: Sequence[str], outputs: Sequence[str], name: str = "network") -> KitDescription:
    """Describes a network whose heads an ONNX file gives as they enter their sections.

    Args:
        graph: the network.
        names: of the classes.
        outputs: the ONNX file's output per head, in the order of the layers.
        name: how the network is called.

    Raises:
        ExportError: names, heads and outputs do not fit together.
        GraphError: the network has no detection head.
    """
    return KitDescription(
        name=one_line(name, 200),
        width=graph.net.input.w,
        height=graph.net.input.h,
        channels=graph.net.input.c,
        heads=heads_of(graph),
        outputs=tuple(outputs),
        names=tuple(names),
        letterbox=bool(input_shape(graph).letterbox),
    )


def board_head(head: Head, output: str) -> BoardHead:
    """Describes a head that reads the output of that name."""
    return BoardHead(
        output=output,
        kind=head.kind,
        classes=head.classes,
        anchors=[list(anchor) for anchor in head.anchors],
        scale_x_y=head.scale_x_y,
        new_coords=head.new_coords,
        coords=head.coords,
        softmax=head.softmax,
        yolo_point=head.yolo_point,
    )
