"""The metadata properties of a file, in terms of a kit's `model.json`.

| key | value |
|---|---|
| darkprune_version, target, outputs, precision | as given; precision is fp32, fp16 or int8 |
| cfg_sha256, plan_hash | of the .cfg; of the pruning plan, empty without |
| names | JSON list of class names, may be empty |
| input | JSON: name, batch (null: open), channels, height, width, letterbox, colour (RGB, gray), scaling (1/255) |
| heads | form `heads`: JSON list: output, kind, classes, anchors … as in `model.json` |
| suppression | form `heads`: JSON: nms, nms_beta of the last head, which decides in darknet |
| boxes | other forms: what the four numbers of a box are |
| limits | forms with suppression: JSON: score, iou, most |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from darkprune import __version__
from darkprune.errors import ExportError
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import Graph
from darkprune.kit.schema import board_head
from darkprune.layers.heads import Head, MaskedHead, Region
from darkprune.onnx.nodes.builder import INPUT_NAME
from darkprune.onnx.options import ExportOptions
from darkprune.runs.json_file import parse_json


def facts_of(graph: Graph, options: ExportOptions, outputs: Sequence[str]) -> dict[str, str]:
    """Collects the metadata of a file."""
    shape = graph.net.input
    facts = {
        "darkprune_version": __version__,
        "target": options.target,
        "outputs": options.outputs,
        "precision": "fp32",
        "cfg_sha256": hashlib.sha256(graph.cfg.encode()).hexdigest(),
        "plan_hash": options.plan_hash,
        "names": json.dumps(list(options.names)),
        "input": json.dumps(
            {
                "name": INPUT_NAME,
                "batch": options.batch,
                "channels": shape.c,
                "height": shape.h,
                "width": shape.w,
                "letterbox": graph.net.letter_box,
                "colour": {1: "gray", 3: "RGB"}.get(shape.c, "planes"),
                "scaling": "1/255",
            }
        ),
    }
    if options.outputs == "heads":
        has_tree = any(isinstance(layer.kind, Region) and layer.kind.tree for layer in graph.heads)
        if graph.heads and not has_tree:  # the file of a tree may be missing
            heads = zip(heads_of(graph), outputs, strict=True)
            facts["heads"] = json.dumps([board_head(head, output)._asdict() for head, output in heads])
        facts["suppression"] = json.dumps(last_suppression(graph))
    else:
        unit = "in pixels of the input" if options.outputs == "deepstream" else "relative to the input"
        facts["boxes"] = f"x1, y1, x2, y2 {unit}"
    if options.outputs in ("nms", "efficientnms"):
        facts["limits"] = json.dumps(options.limits._asdict())
    return facts


def last_suppression(graph: Graph) -> dict[str, str | float]:
    """Returns `nms` and `nms_beta` of the last head, which decides in darknet."""
    kind: Head | None = next((layer.kind for layer in reversed(graph.heads) if isinstance(layer.kind, Head)), None)
    if isinstance(kind, MaskedHead):
        return {"nms": kind.nms_kind, "nms_beta": kind.beta_nms}
    return {"nms": "default", "nms_beta": 0.6}


def set_facts(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """Replaces the metadata of a file."""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(facts))


def read_facts(model: onnx.ModelProto, source: str) -> dict[str, Any]:
    """Reads what darkprune wrote about a file; JSON values are decoded.

    Raises:
        ExportError: another program made the file.
    """
    facts = {entry.key: entry.value for entry in model.metadata_props}
    if "darkprune_version" not in facts:
        raise ExportError(f"{source}: was not written by darkprune export, so nothing is known about its heads")
    damaged = f"{source}: its metadata are damaged; export it again"
    return {key: parse_json(value, damaged, ExportError).value if value[:1] in ("[", "{") else value
            for key, value in facts.items()}  # fmt: skip
