"""The board's own code on the real library: parser, options, profiles, progress, Ctrl-C, portable engines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import darkprune as dp
from darkprune.cli.main import main
from darkprune.errors import ExportError, RunnerError
from darkprune.kit.board.runtime import RuntimeFailure
from darkprune.kit.board.runtime.build import BuildOptions, BuildResult, build, serialize
from darkprune.kit.board.runtime.command import import_tensorrt
from darkprune.kit.board.runtime.cuda import Cuda
from darkprune.kit.board.runtime.dialects import DialectRtx, choose
from darkprune.runners.base import get_runner
from darkprune.tensorrt.plan import read_kernels
from darkprune.tensorrt.run import has_gpu
from tests.rtx.networks import FAMILY, needs_rtx, rtx

pytestmark = needs_rtx
no_gpu = pytest.mark.skipif(has_gpu(), reason="there is a GPU here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with family.cfg, its weights and names, and FP16 files of a fixed and an open batch size."""
    place = tmp_path_factory.mktemp("family")
    (place / "family.cfg").write_text(FAMILY, encoding="utf-8")
    (place / "family.names").write_text("a\nb\nc\n", encoding="utf-8")
    dp.init(dp.load(place / "family.cfg"), place / "family.weights", dp.InitSettings(vary=True))
    pair = dp.load(place / "family.cfg", place / "family.weights")
    for name, batch in (("fixed", 1), ("open", "dynamic")):
        settings = dp.ExportSettings(target="rtx", batch=batch, static=True)
        assert dp.export(pair, place / f"{name}.onnx", settings).file.facts["precision"] == "fp16"
    return place


def built(path: Path, lines: list[str] | None = None, **options: object) -> BuildResult:
    how = BuildOptions(**{"precision": "fp16", "file_precision": "fp16", **options})  # type: ignore[arg-type]
    return serialize(rtx(), None, str(path), how, None, ([] if lines is None else lines).append, detailed=True)


def test_the_module_is_found_and_recognised() -> None:
    assert isinstance(choose(rtx()), DialectRtx)
    assert import_tensorrt().__name__ in ("tensorrt", rtx().__name__)


def test_options_reach_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    trt, configs = rtx(), []
    create_config = trt.Builder.create_builder_config
    monkeypatch.setattr(
        trt.Builder, "create_builder_config", lambda builder: configs.append(create_config(builder)) or configs[-1]
    )
    result = built(folder / "fixed.onnx", lines, tf32=False, workspace_mb=512)
    built(folder / "open.onnx", batch=(1, 2, 4))
    exact, usual = configs
    assert exact.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 512 << 20
    assert usual.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == BuildOptions().workspace_mb << 20
    assert (exact.get_flag(trt.BuilderFlag.TF32), usual.get_flag(trt.BuilderFlag.TF32)) == (False, True)
    assert (exact.num_optimization_profiles, usual.num_optimization_profiles) == (0, 1)
    assert exact.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert result.remarks == []
    assert len(bytes(result.engine)) > 10_000
    assert lines[0].endswith("steps")  # of its progress monitor
    assert read_kernels(result.log.lines)
    assert not result.log.errors


def test_an_open_batch_size_needs_a_profile(folder: Path) -> None:
    result = built(folder / "open.onnx", batch=(1, 2, 4))
    text = "\n".join(result.log.lines)
    assert "MinShape: [1,3,64,64], OptShape: [2,3,64,64], MaxShape: [4,3,64,64]" in text
    with pytest.raises(RuntimeFailure, match="batch size is open, give --batch"):
        built(folder / "open.onnx")
    with pytest.raises(RuntimeFailure, match="fixed batch of 1"):
        built(folder / "fixed.onnx", batch=(2, 2, 2))


def test_timings_are_not_kept(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"damaged")
    assert built(folder / "fixed.onnx", timing_cache=str(cache)).remarks == [
        f"{cache}: not used, TensorRT for RTX keeps no timings"
    ]
    assert cache.read_bytes() == b"damaged"


def test_compute_capabilities(folder: Path) -> None:
    assert bytes(built(folder / "fixed.onnx", compute_capability=75).engine)
    with pytest.raises(RuntimeFailure, match=r"compute capability 33: choose one of 75, 80, .*120"):
        built(folder / "fixed.onnx", compute_capability=33)


@no_gpu
def test_a_board_without_a_gpu_is_one_line(folder: Path, tmp_path: Path) -> None:
    """What comes after serialising needs a GPU: loading the engine, and the kit's own script from its start."""
    options = BuildOptions("fp16", "fp16")
    with pytest.raises(RuntimeFailure, match=r"the engine that was just built does not load: .*cudaError 35"):
        build(rtx(), Cuda(object()), str(folder / "fixed.onnx"), options, None, lambda line: None)
    settings = dp.KitSettings(target="rtx", deepstream=False, static=True, check="none")
    dp.write_kit(dp.load(folder / "family.cfg", folder / "family.weights"), tmp_path / "kit", settings)
    command = [sys.executable, str(tmp_path / "kit" / "build_engine.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: libcudart: not found") or done.stderr.startswith("error: CUDA: ")
    assert done.stderr.count("\n") == 1


def test_precision_comes_from_the_file(folder: Path) -> None:
    with pytest.raises(RuntimeFailure, match="takes the precision from the ONNX file, which is FP16"):
        built(folder / "fixed.onnx", precision="int8")


def test_ctrl_c_ends_a_build(folder: Path) -> None:
    class Interrupting(list[str]):
        def append(self, line: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(folder / "fixed.onnx", Interrupting())


def test_the_parsers_own_words(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], domain="nowhere")
    graph = helper.make_graph([node], "g", [x], [y])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), str(tmp_path / "x.onnx"))
    with pytest.raises(RuntimeFailure, match=r"x\.onnx: the ONNX parser refuses it: .*Plugin not found"):
        built(tmp_path / "x.onnx", precision="fp32", file_precision="fp32")


@no_gpu
def test_an_engine_for_other_machines(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    engine = tmp_path / "x.engine"
    result = dp.build_engine(folder / "fixed.onnx", engine, dp.EngineSettings(compute_capability=75))
    assert result.comparison.skipped == "built without a GPU, so it was not run"
    facts = json.loads((tmp_path / "x.engine.json").read_text())
    assert (facts["portable"], facts["gpu"]) == (True, "RTX GPUs of compute capability 7.5")
    assert (facts["precision"], facts["tensorrt"]) == ("fp16", rtx().__version__)
    assert any("FP16" in line for line in result.summary)
    assert main(["engine", str(folder / "fixed.onnx"), "-o", str(engine), "--overwrite"]) == 0
    out = capsys.readouterr().out
    assert "TensorRT for RTX" in out
    assert "for any RTX GPU from Ampere on" in out
    settings = dp.EngineSettings(int8=True, calibration_cache=folder / "family.cfg")
    with pytest.raises(ExportError, match="export it with --int8"):
        dp.build_engine(folder / "fixed.onnx", tmp_path / "y.engine", settings)
    graph = dp.load(folder / "family.cfg").graph
    with pytest.raises(RunnerError, match=r"libcudart: not found|CUDA"):
        get_runner("tensorrt").load(graph, engine)
