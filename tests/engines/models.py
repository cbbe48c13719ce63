"""Small ONNX files with two detection heads, and their description, for the tests of engines and kits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from darkprune.evaluation.heads import Head
from darkprune.kit.board.runtime.model import Input, Model, Rules
from darkprune.kit.schema import board_head

SIZE = 64
CLASSES = 3
ANCHORS = ((10.0, 14.0), (23.0, 27.0))
OUTPUTS = ("head_5", "head_9")
HEADS = tuple(
    Head("yolo", CLASSES, ANCHORS, SIZE, SIZE, scale_x_y=1.05, nms_kind="greedynms", beta_nms=0.6) for _ in OUTPUTS
)
BOARD_HEADS = [board_head(head, name) for head, name in zip(HEADS, OUTPUTS, strict=True)]
INPUT = Input("input", SIZE, SIZE, 3, letterbox=False)
RULES = Rules(0.25, "greedynms", 0.45, 0.6)


def network(
    *,
    size: int = SIZE,
    batch: int | str = 1,
    half: bool = False,
    quantised: bool = False,
    opset: int = 13,
    ir: int = 7,
    producer: str = "darkprune",
) -> onnx.ModelProto:
    """Two convolutions and two heads at strides 8 and 16, with detections in noise."""
    rng = np.random.default_rng(7)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    channels = len(ANCHORS) * (5 + CLASSES)
    weights: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def convolution(source: str, target: str, into: int, out: int, k: int, stride: int) -> list[onnx.NodeProto]:
        array = (rng.standard_normal((out, into, k, k)) * 1.6 / np.sqrt(into * k * k)).astype("f2" if half else "f4")
        bias = rng.standard_normal(out).astype("f2" if half else "f4")
        nodes = []
        if quantised:
            scale = constant(f"{target}_scale", np.float32(0.05))
            zero = constant(f"{target}_zero", np.int8(0))
            nodes += [
                helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_q"]),
                helper.make_node("DequantizeLinear", [f"{target}_q", scale, zero], [f"{target}_in"]),
            ]
            source = f"{target}_in"
        inputs = [source, constant(f"{target}_w", array), constant(f"{target}_b", bias)]
        pads = [k // 2] * 4
        nodes.append(
            helper.make_node("Conv", inputs, [target], target, kernel_shape=[k, k], strides=[stride, stride], pads=pads)
        )
        return nodes

    nodes = [
        *convolution("input", "conv_0", 3, 8, 3, 8),
        helper.make_node("LeakyRelu", ["conv_0"], ["act_0"], "leaky_0", alpha=0.1),
        *convolution("act_0", OUTPUTS[0], 8, channels, 1, 1),
        helper.make_node("MaxPool", ["act_0"], ["pool_6"], "pool_6", kernel_shape=[2, 2], strides=[2, 2]),
        *convolution("pool_6", OUTPUTS[1], 8, channels, 1, 1),
    ]
    shapes = [
        (name, [batch, channels, size // stride, size // stride]) for name, stride in zip(OUTPUTS, (8, 16), strict=True)
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", kind, [batch, 3, size, size])],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name=producer)
    model.ir_version = ir
    onnx.checker.check_model(model)
    return model


def save(path: Path, **how: object) -> Path:
    onnx.save(network(**how), str(path))  # type: ignore[arg-type]
    return path


def description(**fields: object) -> Model:
    names = [f"thing {index}" for index in range(CLASSES)]
    whole = Model("tiny", "model.onnx", "", INPUT, BOARD_HEADS, names, RULES, "fp32", "fp32", workspace_mb=512)
    return whole._replace(**fields)
