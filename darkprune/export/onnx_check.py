"""What is checked before a file is called done: its structure, its shapes, and onnxruntime's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from darkprune.errors import ExportError, RunnerError
from darkprune.export.emit_scope import layer_name
from darkprune.export.onnx_expect import expected_outputs
from darkprune.export.onnx_facts import read_facts
from darkprune.export.onnx_network import OnnxNetwork
from darkprune.graph.graph import Graph

Floats = NDArray[np.float32]
#: takes images (b, c, h, w) in 0…1; gives per head the map that it takes, or a classifier's output
Reference = Callable[[Floats], Sequence[Floats]]
TOLERANCE = 1e-4  #: relative, FP32; the order of sums differs between programs


@dataclass(frozen=True)
class Agreement:
    """A file against the reference of its Darknet pair.

    Attributes:
        deviations: per output the largest difference over the largest magnitude; NaN where values are not finite.
        allowed: what FP32 may be off; infinite for FP16 and INT8, where only measured accuracy tells.
    """

    deviations: Mapping[str, float]
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether no output is off by more than is allowed."""
        return all(value <= self.allowed for value in self.deviations.values())


def check_structure(network: OnnxNetwork, graph: Graph) -> None:
    """Runs onnx's checker and its strict shape inference, and compares every layer's shape with darknet's.

    The values of large tensors are not needed for that: they stand in as inputs.

    Raises:
        ExportError: the checker's complaint; a fault of darkprune, not of the network.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    known = []
    for tensor in network.model.graph.initializer:
        if tensor.raw_data or 0 in tensor.dims:
            known.append(tensor)
        else:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del model.graph.initializer[:]
    model.graph.initializer.extend(known)
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the file is not valid ONNX ({' '.join(str(error).split())[:300]})") from None
    shapes = {value.name: _sizes(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    for layer in graph:
        shape, out = shapes.get(layer_name(layer)), layer.output
        if shape is not None and shape[1:] not in ((out.c, out.h, out.w), (out.outputs,)):
            raise ExportError(f"layer {layer.index} ({layer.name}): gives {shape[1:]} in the file, in darknet {out}")


def verify_onnx(path: Path, graph: Graph, reference: Reference, images: Floats) -> Agreement:
    """Runs a file in onnxruntime and compares its outputs with what the reference's outputs come to in its form.

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
    got = run_onnx(_without_plugin(path) if facts["outputs"] == "efficientnms" else path, images)
    expected = expected_outputs(graph, facts, [np.asarray(output) for output in reference(images)], list(got))
    allowed = TOLERANCE if facts["precision"] == "fp32" else float("inf")
    if facts["outputs"] == "nms":
        return Agreement({"detections": match_detections(got["detections"], expected["detections"])}, allowed)
    if facts["outputs"] == "deepstream":
        got, expected = _best_classes(got["output"], expected["boxes"], expected["scores"])
    return Agreement({name: deviation(got[name], expected[name]) for name in got}, allowed)


def facts_of_file(path: Path) -> dict[str, Any]:
    """Reads what a file says about itself, without its weights where they lie beside it.

    Raises:
        ExportError: it cannot be read, is not ONNX, or another program made it.
    """
    return read_facts(_load(path), str(path))


def run_onnx(model: Path | onnx.ModelProto, images: Floats) -> dict[str, Any]:
    """Runs a file in onnxruntime on the CPU and returns its outputs by name.

    Raises:
        RunnerError: onnxruntime is missing or refuses the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise RunnerError("onnxruntime is not installed: pip install 'darkprune[export]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {session.get_inputs()[0].name: images})
    except Exception as error:  # onnxruntime raises classes of its own, none of them public
        raise RunnerError(f"onnxruntime refuses the file: {' '.join(str(error).split())[:300]}") from None
    return dict(zip(names, values, strict=True))


def deviation(ours: Floats, theirs: Floats) -> float:
    """Returns the largest difference over the largest magnitude; NaN where a value of ours is not finite.

    Raises:
        ExportError: they have different numbers of values.
    """
    if ours.size != theirs.size:
        raise ExportError(f"an output has the shape {ours.shape}, the reference has {theirs.shape}")
    if not np.isfinite(ours).all():
        return float("nan")
    ours, theirs = ours.reshape(-1).astype(np.float64), theirs.reshape(-1).astype(np.float64)
    return float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-30))


def match_detections(ours: Floats, theirs: Floats) -> float:
    """Returns the deviation of detections (n, 7) that both have, or infinity where more than 1 in 100 has no partner.

    A few may: a difference in the last bit moves a box across a threshold.
    """
    partners, worst = 0, 0.0
    for row in ours:
        same = theirs[(theirs[:, 0] == row[0]) & (theirs[:, 6] == row[6])]
        difference = np.abs(same[:, 1:6] - row[1:6]).max(axis=1, initial=0)
        if len(same) and difference.min() < 1e-2:
            partners += 1
            worst = max(worst, float(difference.min()))
    lost = max(len(ours), len(theirs)) - partners
    return worst if lost <= max(1, len(theirs) // 100) else float("inf")


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # protobuf's exceptions have no base that onnx promises
        raise ExportError(f"{path}: is not an ONNX file ({' '.join(str(error).split())[:80]})") from None


def _without_plugin(path: Path) -> onnx.ModelProto:
    """Cuts the plugin off: its two inputs become the outputs."""
    model = _load(path)
    plugin = model.graph.node.pop()
    del model.graph.output[:]
    for name in plugin.input[:2]:
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model


def _best_classes(rows: Floats, boxes: Floats, scores: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Takes rows of box, score, class apart; a class counts as right if its score is the best one or as good."""
    best = scores.max(axis=2)
    chosen = np.take_along_axis(scores, rows[..., 5:].astype(np.int64), axis=2)[..., 0]
    return (
        {"boxes": rows[..., :4], "scores": rows[..., 4], "classes": chosen},
        {"boxes": boxes, "scores": best, "classes": best},
    )


def _sizes(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim)
