"""What is checked before a file is called done: its structure, its shapes, and onnxruntime's numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from darkprune.errors import ExportError
from darkprune.evaluation.heads import decode
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import Graph
from darkprune.onnx.network import OnnxNetwork
from darkprune.onnx.nodes.layer_writer import layer_name
from darkprune.onnx.nodes.outputs import Suppression
from darkprune.onnx.read import facts_of_file, read_model, sizes_of
from darkprune.onnx.session import OnnxSession, is_text
from darkprune.onnx.suppression import suppression_fault

Floats = NDArray[np.float32]
#: takes images (b, c, h, w) in 0…1; gives per head the map that it takes, or a classifier's output
Reference = Callable[[Floats], Sequence[Floats]]
_EVERYTHING = -1.0  #: a threshold that every score is above
TOLERANCE = 1e-4  #: relative, FP32; the order of sums differs between programs


@dataclass(frozen=True)
class OutputComparison:
    """How far the outputs of a file or an engine are from those of another program, on the same images.

    Attributes:
        deviations: per output the largest difference over the largest magnitude; NaN where values are not finite.
        allowed: how large it may be in FP32; infinite for FP16 and INT8, which only accuracy on labelled images judges.
        program: the other program; empty where nothing was compared.
        fault: what is wrong with the suppression in the file, if anything.
        skipped: why nothing was compared.
    """

    deviations: Mapping[str, float] = field(default_factory=dict)
    allowed: float = 0.0
    program: str = ""
    fault: str = ""
    skipped: str = ""

    @property
    def agrees(self) -> bool:
        """Whether no output is off by more than is allowed, and suppression did what it should."""
        return not self.fault and all(value <= self.allowed for value in self.deviations.values())

    @property
    def worst(self) -> tuple[str, float]:
        """Name and deviation of the output that is off most; one that is not finite is off by infinity."""
        finite = {name: float(np.nan_to_num(value, nan=np.inf)) for name, value in self.deviations.items()}
        return max(finite.items(), key=lambda item: item[1], default=("", 0.0))

    def to_json(self) -> dict[str, object]:
        """Returns the figures as JSON values."""
        return {
            "compared_with": self.program or None,
            "deviations": {name: value if np.isfinite(value) else None for name, value in self.deviations.items()},
            "allowed": self.allowed if np.isfinite(self.allowed) else None,
            "skipped": self.skipped or None,
        }


def check_structure(network: OnnxNetwork, graph: Graph) -> None:
    """Runs onnx's checker and its strict shape inference, and compares every layer's shape with darknet's.

    The values of large tensors are not needed for that: they stand in as inputs.

    Raises:
        ExportError: the checker's complaint; a fault of darkprune, not of the network.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.initializer[:]
    for tensor in network.model.graph.initializer:
        if tensor.raw_data or 0 in tensor.dims:
            model.graph.initializer.append(tensor)
        else:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the file is not valid ONNX ({' '.join(str(error).split())[:300]})") from None
    shapes = {value.name: sizes_of(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    for layer in graph:
        shape, out = shapes.get(layer_name(layer)), layer.output
        if shape is not None and shape[1:] not in ((out.c, out.h, out.w), (out.outputs,)):
            raise ExportError(f"layer {layer.index} ({layer.name}): gives {shape[1:]} in the file, in darknet {out}")


def verify_onnx(path: Path, graph: Graph, reference: Reference, images: Floats) -> OutputComparison:
    """Runs a file in onnxruntime and compares its outputs with the reference's, decoded as in the file.

    Args:
        path: a file that darkprune wrote. In the form `efficientnms`, which only TensorRT runs, what goes into the
            plugin is compared.
        graph: the network it was made from.
        reference: another implementation of the pair.
        images: (batch, c, h, w) in 0…1, as many as the file takes.

    Raises:
        RunnerError: onnxruntime is missing or refuses the file.
        ExportError: another program made the file.
    """
    facts = facts_of_file(path)
    allowed = TOLERANCE if facts["precision"] == "fp32" else float("inf")
    with runnable(path, facts["outputs"]) as opened:
        got = OnnxSession(opened, str(path), packed=False).run(images)
    # only now, so that the weights are not in memory twice
    maps = [np.asarray(output) for output in reference(images)]
    if facts["outputs"] == "heads":
        return OutputComparison(
            {name: deviation(got[name], want) for name, want in zip(got, maps, strict=True)}, allowed
        )
    boxes, scores = expected_boxes(graph, maps, pixels=facts["outputs"] == "deepstream")
    fault = ""
    if facts["outputs"] == "nms":
        fault = suppression_fault(got["detections"], got["boxes"], got["scores"], Suppression(**facts["limits"]))
        got["scores"] = got["scores"].transpose(0, 2, 1)
    expected = {"boxes": boxes, "scores": scores}
    if facts["outputs"] == "deepstream":
        got, expected = _best_classes(got["output"], boxes, scores)
    # scores are measured by their own range, 0 to 1: where nothing is found the largest is next to nothing
    spans = {"scores": 1.0, "classes": 1.0}
    deviations = {name: deviation(got[name], want, spans.get(name, 1e-30)) for name, want in expected.items()}
    return OutputComparison(deviations, allowed, fault=fault)


def expected_boxes(graph: Graph, maps: Sequence[Floats], *, pixels: bool) -> tuple[Floats, Floats]:
    """Decodes a reference's maps, one (b, c, h, w) per head; boxes in `pixels` of the input or relative to it, 0 to 1.

    Returns:
        Boxes (b, n, 4) as x1, y1, x2, y2 and scores (b, n, classes), in darknet's order.
    """
    images = len(maps[0])
    everything = decode(heads_of(graph), maps, _EVERYTHING)
    half = everything.boxes[:, 2:] / 2
    boxes = np.concatenate([everything.boxes[:, :2] - half, everything.boxes[:, :2] + half], axis=1)
    boxes = boxes.reshape(images, -1, 4)
    size = (graph.net.input.w, graph.net.input.h) if pixels else (1, 1)
    return boxes * np.tile(np.array(size, np.float32), 2), everything.scores.reshape(images, boxes.shape[1], -1)


def deviation(ours: Floats, theirs: Floats, least: float = 1e-30) -> float:
    """Returns the largest difference over the largest magnitude, or `least`; NaN where a value of ours is not finite.

    Raises:
        ExportError: they have different numbers of values.
    """
    if ours.size != theirs.size:
        raise ExportError(f"an output has the shape {ours.shape}, the reference has {theirs.shape}")
    if not np.isfinite(ours).all():
        return float("nan")
    ours, theirs = ours.reshape(-1).astype(np.float64), theirs.reshape(-1).astype(np.float64)
    return float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), least))


@contextmanager
def runnable(path: Path, form: str = "heads") -> Iterator[Path]:
    """Writes a file beside another, whose weights onnxruntime then maps into memory instead of copying them.

    With suppression it also gives the boxes and scores before; TensorRT's plugin is taken out. Where the path is not
    UTF-8 no file can name it, and the weights are copied.
    """
    model = read_model(path, mapped=True) if is_text(path) else onnx.ModelProto.FromString(path.read_bytes())
    if form == "efficientnms":
        model.graph.node.pop()
        del model.graph.output[:]
    if form in ("nms", "efficientnms"):
        for name in ("boxes", "scores"):
            model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    with tempfile.NamedTemporaryFile(prefix=f".{path.stem}.", suffix=".onnx", dir=path.parent) as file:
        file.write(model.SerializeToString())
        file.flush()
        yield Path(file.name)


def _best_classes(rows: Floats, boxes: Floats, scores: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Takes rows of box, score, class apart; a class counts as right if its score is the best one or as good."""
    best = scores.max(axis=2)
    chosen = np.take_along_axis(scores, rows[..., 5:].astype(np.int64), axis=2)[..., 0]
    return (
        {"boxes": rows[..., :4], "scores": rows[..., 4], "classes": chosen},
        {"boxes": boxes, "scores": best, "classes": best},
    )
