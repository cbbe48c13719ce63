"""Targets and the command lines of trtexec."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkprune.errors import ExportError
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.targets import PRECISIONS, target, targets
from darkprune.tensorrt.operators import operator_facts
from darkprune.tensorrt.trtexec import trtexec_command

ONNX, ENGINE = Path("a.onnx"), Path("a.engine")
IMAGE = ("input", (3, 416, 416))


def test_every_target_is_complete() -> None:
    assert list(targets()) == ["jetson-nano", "tx2", "xavier", "orin", "thor", "workstation", "rtx", "onnxruntime"]
    for item in targets().values():
        assert set(item.tensorrt) <= set(operator_facts()["tables"])
        assert set(item.precisions) <= set(PRECISIONS)
        assert item.opset[0] <= 13 <= item.opset[1]
        assert (bool(item.tensorrt) and item.name != "rtx") == bool(item.nms_cap)
        assert item.jetson == bool(item.jetpack)
    assert "int8" not in target("jetson-nano").precisions + target("tx2").precisions


def test_command_of_each_generation() -> None:
    def command(name: str, **more: object) -> str:
        options = BuildOptions(**{"workspace_mb": target(name).workspace_mb, **more})  # type: ignore[arg-type]
        return trtexec_command(target(name), ONNX, ENGINE, options)

    assert command("jetson-nano", precision="fp16") == (
        "/usr/src/tensorrt/bin/trtexec --onnx=a.onnx --saveEngine=a.engine --workspace=512 --fp16 --buildOnly"
    )
    assert command("xavier", precision="int8", calibration_cache="c") == (
        "/usr/src/tensorrt/bin/trtexec --onnx=a.onnx --saveEngine=a.engine --memPoolSize=workspace:2048 "
        "--fp16 --int8 --calib=c --buildOnly"
    )
    assert command("orin", workspace_mb=100, timing_cache="t") == (
        "/usr/src/tensorrt/bin/trtexec --onnx=a.onnx --saveEngine=a.engine --memPoolSize=workspace:100 "
        "--timingCacheFile=t --skipInference"
    )
    # TensorRT 11 has neither --fp16 nor --int8
    assert command("workstation", precision="fp16") == (
        "trtexec --onnx=a.onnx --saveEngine=a.engine --memPoolSize=workspace:4096 --skipInference"
    )


def test_command_of_tensorrt_for_rtx() -> None:
    text = trtexec_command(target("rtx"), ONNX, ENGINE, BuildOptions("fp16", batch=(1, 4, 8)), image=IMAGE)
    assert text.startswith("tensorrt_rtx --onnx=a.onnx --saveEngine=a.engine --minShapes=input:1x3x416x416 ")


def test_command_with_an_open_batch_and_awkward_names() -> None:
    text = trtexec_command(target("orin"), Path("my net.onnx"), ENGINE, BuildOptions(batch=(1, 4, 8)), image=IMAGE)
    assert "'--onnx=my net.onnx'" in text
    assert "--minShapes=input:1x3x416x416 --optShapes=input:4x3x416x416 --maxShapes=input:8x3x416x416" in text


def test_no_command_without_tensorrt() -> None:
    with pytest.raises(ExportError, match="no engine to build"):
        trtexec_command(target("onnxruntime"), ONNX, ENGINE, BuildOptions())
