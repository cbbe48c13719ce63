"""Networks and files for the tests against TensorRT for RTX."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.options import ExportOptions, LeftOut
from darkprune.onnx.precision import to_half
from darkprune.onnx.quantize import quantised_nodes, quantize_onnx
from darkprune.targets import target
from darkprune.tensorrt.operators import tensor_types
from darkprune.tensorrt.plan import EnginePlan, plan_file, tensorrt_rtx

REASON = "TensorRT for RTX is not installed: pip install 'darkprune[rtx]' (x86-64 only)"
needs_rtx = pytest.mark.skipif(tensorrt_rtx() is None, reason=REASON)
PRECISIONS = ("fp32", "fp16", "int8")


def rtx() -> ModuleType:
    module = tensorrt_rtx()
    assert module is not None
    return module


def section(name: str, **keys: object) -> str:
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items()) + "\n"


def conv(filters: int, size: int = 3, stride: int = 1, activation: str = "leaky", **more: object) -> str:
    keys = {"filters": filters, "size": size, "stride": stride, "pad": 1, "activation": activation, **more}
    return section("convolutional", batch_normalize=1, **keys)


def head(**more: object) -> str:
    keys = {"mask": "0,1", "anchors": "10,14, 23,27, 37,58, 81,82", "classes": 3, "num": 4, **more}
    return conv(16, 1, activation="linear") + section("yolo", **keys)


#: what detectors of the YOLO family are made of, at sizes that build in a moment
FAMILY = (
    section("net", width=64, height=64, channels=3)
    + conv(8, stride=2, activation="mish") + conv(16, stride=2, activation="swish")
    + conv(16, 1) + conv(16) + section("shortcut", **{"from": -3, "activation": "leaky"})
    + section("route", layers=-1, groups=2, group_id=1)
    + conv(8, groups=8, activation="relu6") + section("route", layers="-1,-2")
    + section("avgpool") + conv(16, 1, activation="logistic") + section("scale_channels", **{"from": -3})
    + conv(12, 1) + section("maxpool", size=5, stride=1) + section("route", layers=-2)
    + section("maxpool", size=9, stride=1) + section("route", layers="-1,-3,-4") + conv(20, stride=2) + head()
    + section("route", layers=-3) + section("upsample", stride=2) + section("route", layers="-1,4")
    + section("reorg3d", stride=2) + conv(18) + head(scale_x_y=1.05)
)  # fmt: skip


def write_file(
    pair: NetworkWeights, path: Path, precision: str, options: ExportOptions, left_out: LeftOut | None = None
) -> int:
    """Writes a pair as it would be exported, INT8 with invented ranges; returns how many convolutions are INT8."""
    network = build_onnx(pair, options)
    if precision != "int8":
        write_onnx(to_half(network) if precision == "fp16" else network, path)
        return 0
    ranges = {name: (-1.0, 1.0) for name, kind in tensor_types(network.model.graph).items() if kind == "FP32"}
    choice = left_out or LeftOut()
    write_onnx(quantize_onnx(network, pair.graph, ranges, choice, target(options.target)), path)
    return sum(name.endswith("/conv") for name in quantised_nodes(network, pair.graph, choice))


def check_plan(plan: EnginePlan, quantised: int, raw_heads: bool) -> None:
    """Demands what holds for every file: types where they belong, no conversions by themselves.

    Args:
        plan: of the file.
        quantised: how many convolutions are INT8.
        raw_heads: whether nothing is decoded in it; decoding is FP32 in every precision.
    """
    assert not plan.skipped
    made_by = {tensor.name: kernel for kernel in plan.kernels for tensor in kernel.outputs}
    convolutions = [kernel for kernel in plan.kernels if kernel.is_convolution]
    if plan.precision == "fp16" and raw_heads:
        read = {tensor.name for kernel in plan.kernels for tensor in kernel.inputs if not kernel.is_copy}
        inside = [t.name for kernel in plan.kernels for t in kernel.outputs if t.type == "Float" and t.name in read]
        assert inside == []
        assert {kernel.inputs[0].type for kernel in convolutions} == {"Half"}
    if plan.precision == "int8":
        narrow = [kernel for kernel in convolutions if kernel.inputs[0].type == "Int8"]
        assert len(narrow) == quantised, (len(narrow), quantised, len(convolutions))
        for kernel in plan.kernels:
            # of what no kernel computes that could quantise it at once; values per channel cost nothing
            if kernel.is_quantisation and kernel.outputs[0].sizes[2:] != (1, 1):
                sources = [made_by.get(tensor.name) for tensor in kernel.inputs if tensor.type != "Int8"]
                assert all(source is None or source.is_convolution or source.is_copy for source in sources), kernel.name


def planned(graph: Graph, weights: Path, folder: Path, precision: str, options: ExportOptions) -> EnginePlan:
    """Exports a pair, lets TensorRT for RTX build it, and checks the plan."""
    path = folder / f"{precision}.onnx"
    with NetworkWeights(graph, weights) as pair:
        quantised = write_file(pair, path, precision, options)
    plan = plan_file(path)
    path.unlink()
    check_plan(plan, quantised, options.outputs == "heads")
    return plan
