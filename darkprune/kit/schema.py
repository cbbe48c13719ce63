"""The description of a kit's network, `model.json`: the one file that the scripts on the board read it from.

```
{
  "format": 1, "name": "yolov4-tiny", "made_by": "darkprune 0.1.0", "target": "jetson-nano",
  "onnx": "model.onnx", "onnx_sha256": "...",
  "input": {"name": "input", "width": 416, "height": 416, "channels": 3, "letterbox": false},
  "heads": [{"output": "head_30", "kind": "yolo", "classes": 80, "anchors": [[81, 82], ...], "scale_x_y": 1.05,
             "new_coords": false, "coords": 4, "softmax": false, "yolo_point": "center"}, ...],
  "names": ["person", ...],
  "detection": {"threshold": 0.25, "nms": "greedynms", "nms_threshold": 0.45, "nms_beta": 0.6},
  "precision": "fp16", "file_precision": "fp32", "workspace_mb": 512
}
```
`input` takes RGB in 0..1. An output is the map that the head's section takes, before any activation of the head:
(batch, anchors * values, rows, columns). `precision` is what the engine is built in, `file_precision` what the ONNX
file is written in: fp16 with half tensors, int8 with Q/DQ nodes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import darkprune
from darkprune.errors import ExportError, one_line
from darkprune.evaluation.heads import Head
from darkprune.evaluation.nms import NMS_THRESHOLD
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.graph.graph import Graph
from darkprune.kit.board.runtime.model import FORMAT, Input, Model, Rules
from darkprune.kit.board.runtime.model import Head as BoardHead
from darkprune.targets import Target

THRESHOLD = 0.25  #: darknet's own default for `detector test`
ONNX_NAME = "model.onnx"


def describe(graph: Graph, names: Sequence[str], outputs: Sequence[str], place: Target, name: str = "network") -> Model:
    """Describes a network whose heads an ONNX file gives as they enter their sections.

    Thresholds are darknet's, the precision is FP32, and the hash of the file is still missing.

    Args:
        graph: the network.
        names: of the classes.
        outputs: the ONNX file's output per head, in the order of the layers.
        place: what the kit is for.
        name: how the network is called.

    Raises:
        ExportError: the scripts could not run it, or names, heads and outputs do not fit together.
        GraphError: the network has no detection head.
    """
    heads, size = heads_of(graph), graph.net.input
    if len(heads) != len(outputs):
        raise ExportError(f"{name}: {len(heads)} detection heads but {len(outputs)} outputs")
    for head in heads:
        if head.tree is not None:
            raise ExportError(f"{name}: a kit has no rule for the hierarchical classes (tree=) of a [region]")
        if head.classes != len(names):
            raise ExportError(
                f"{name}: {len(names)} names for {head.classes} classes: give the list the network was trained with"
            )
    if size.c not in (1, 3):
        raise ExportError(f"{name}: pictures have 1 or 3 channels, the input has {size.c}")
    return Model(
        name=one_line(name, 200),
        onnx=ONNX_NAME,
        onnx_sha256="",
        input=Input("input", size.w, size.h, size.c, bool(input_shape(graph).letterbox)),
        heads=[board_head(head, output) for head, output in zip(heads, outputs, strict=True)],
        names=list(names),
        # darknet suppresses as the last head says
        detection=Rules(THRESHOLD, heads[-1].nms_kind, NMS_THRESHOLD, heads[-1].beta_nms),
        precision="fp32",
        file_precision="fp32",
        workspace_mb=place.workspace_mb,
    )


def to_json(model: Model, place: Target) -> str:
    """Returns the text of `model.json`."""
    content = {
        "format": FORMAT,
        "name": model.name,
        "made_by": f"darkprune {darkprune.__version__}",
        "target": place.name,
        **model._asdict(),
        "input": model.input._asdict(),
        "heads": [head._asdict() for head in model.heads],
        "detection": model.detection._asdict(),
    }
    return json.dumps(content, indent=1) + "\n"


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
