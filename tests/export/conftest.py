"""Small ONNX files and fakes of TensorRT and CUDA for the tests of engines and kits."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_cudart import FakeCudart
from fake_tensorrt import FakeTensorRT
from onnx import TensorProto, helper, numpy_helper

from darkprune import targets
from darkprune.evaluation.heads import Head
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.kit.board.runtime.command import MODULES
from darkprune.kit.schema import KitDescription
from darkprune.kit.writer import KitParts, WrittenKit, write_folder
from darkprune.tensorrt import engine

TABLE = json.loads((Path(targets.__file__).parent / "tensorrt" / "tensorrt_versions.json").read_text(encoding="utf-8"))
GENERATIONS = tuple(TABLE["generations"])
SIZE = 64
CLASSES = 3
ANCHORS = ((10.0, 14.0), (23.0, 27.0))
OUTPUTS = ("head_5", "head_9")
HEADS = tuple(
    Head("yolo", CLASSES, ANCHORS, SIZE, SIZE, scale_x_y=1.05, nms_kind="greedynms", beta_nms=0.6) for _ in OUTPUTS
)


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


def description(**fields: object) -> KitDescription:
    names = tuple(f"thing {index}" for index in range(CLASSES))
    whole = {"width": SIZE, "height": SIZE, "channels": 3, "heads": HEADS, "outputs": OUTPUTS, "names": names}
    return KitDescription("tiny", **{**whole, **fields})  # type: ignore[arg-type]


def write_kit(folder: Path, onnx_path: Path, what: KitDescription, where: str, **how: Any) -> WrittenKit:
    parts = {name: how.pop(name) for name in ("calibration_cache", "cfg", "weights", "deepstream_onnx") if name in how}
    return write_folder(folder, KitParts(onnx_path, **parts), what, targets.target(where), **how)


def build(source: Path, path: Path, where: str = "workstation", **options: Any) -> engine.BuiltEngine:
    place = targets.target(where)
    how = {name: options.pop(name) for name in ("images", "overwrite") if name in options}
    return engine.build(source, path, BuildOptions(workspace_mb=place.workspace_mb, **options), place, **how)


class Machine:
    """A pretended machine: a GPU and a TensorRT."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.cudart = FakeCudart()
        self.trt: FakeTensorRT | None = None

    def install(self, generation: str, gpu: str = "Fake GPU", **speed: bool) -> FakeTensorRT:
        self.cudart = FakeCudart(gpu)
        self.trt = FakeTensorRT(generation, TABLE["generations"][generation], self.cudart, **speed)
        self._patch.setitem(sys.modules, "tensorrt", self.trt)
        self._own_process = ctypes.CDLL(None, use_errno=True)
        self._patch.setattr(ctypes, "CDLL", self._load)
        return self.trt

    def remove(self) -> None:
        for name in MODULES:
            self._patch.setitem(sys.modules, name, None)  # makes the import fail

    def _load(self, name: str | None, *rest: object, **more: Any) -> Any:
        if "libcudart" in str(name):
            return self.cudart
        if name is None:  # the process itself: the C library, which every machine has
            return self._own_process
        raise OSError(f"{name}: the fake machine does not have it")


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thirds of the time of these tests would be spent on a disk that nobody reads after."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "tiny.onnx", **how: object) -> Path:
        return save(tmp_path / name, **how)

    return make
