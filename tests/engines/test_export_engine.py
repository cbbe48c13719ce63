"""Engines on this machine: building, metadata, refusal of foreign ones, comparison with onnxruntime."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import GENERATIONS, Machine, build

from darkprune.errors import ExportError, OutputError, RunnerError
from darkprune.tensorrt.run import Engine, compare_engine
from tests.engines.models import OUTPUTS, SIZE, network

Make = Callable[..., Path]


@pytest.mark.parametrize("generation", GENERATIONS)
class TestEveryGeneration:
    def test_build_run_compare(self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        trt = machine.install(generation, gpu="NVIDIA Tegra X1")
        source, engine = onnx_file(), tmp_path / "x.engine"
        report = build(source, engine, where="jetson-nano")
        facts = json.loads((tmp_path / "x.engine.json").read_text())
        assert facts == report.facts
        assert facts["tensorrt"] == trt.__version__
        assert (facts["gpu"], facts["capability"], facts["precision"]) == ("NVIDIA Tegra X1", "5.3", "fp32")
        assert facts["workspace_mb"] == 512
        assert len(facts["onnx_sha256"]) == len(facts["engine_sha256"]) == 64
        assert report.summary() == ["Conv: 3 (FP32 3)", "LeakyRelu: 1 (FP32 1)", "MaxPool: 1 (FP32 1)"]
        comparison = compare_engine(engine, source)
        assert comparison.deviations == dict.fromkeys(OUTPUTS, 0.0)
        assert comparison.agrees
        assert machine.cudart.leaks() == 0

    def test_open_batch(self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        trt = machine.install(generation)
        build(onnx_file(batch="n"), tmp_path / "x.engine", batch=(1, 2, 4))
        engine = Engine(tmp_path / "x.engine")
        assert engine.shape == (-1, 3, SIZE, SIZE)
        trt._calls.clear()
        for batch in (1, 3, 1):
            images = np.random.default_rng(batch).random((batch, 3, SIZE, SIZE)).astype(np.float32)
            outputs = engine.run(images)
            one = {name: array.copy() for name, array in outputs.items()}
            for index in range(batch):
                again = engine.run(images[index : index + 1])
                for name in OUTPUTS:
                    np.testing.assert_allclose(again[name][0], one[name][index], atol=1e-5)
        shaped = [call for call in trt._calls if "_shape(" in call]
        name = "0" if generation in ("8.2", "8.4") else "input"
        kind = "set_binding_shape" if generation in ("8.2", "8.4") else "set_input_shape"
        assert shaped[1] == f"IExecutionContext.{kind}({name}, (1, 3, {SIZE}, {SIZE}))"
        engine.close()
        assert machine.cudart.leaks() == 0

    def test_calls_of_a_run(self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        trt = machine.install(generation)
        build(onnx_file(), tmp_path / "x.engine")
        trt._calls.clear()
        engine = Engine(tmp_path / "x.engine")
        engine.run(np.zeros((1, 3, SIZE, SIZE), np.float32))
        opening = [
            "init_libnvinfer_plugins('')",
            "Runtime()",
            "Runtime.deserialize_cuda_engine()",
            "ICudaEngine.create_execution_context()",
        ]
        if generation in ("8.2", "8.4"):
            running = ["IExecutionContext.execute_async_v2()"]
        else:
            running = [f"IExecutionContext.set_tensor_address({name})" for name in ("input", *OUTPUTS)]
            running.append("IExecutionContext.execute_async_v3()")
        assert trt._calls == [*opening, *running]
        machine.cudart.calls.clear()
        engine.run(np.zeros((1, 3, SIZE, SIZE), np.float32))  # now the memory is there
        assert machine.cudart.calls == ["host to device", "device to host", "device to host", "synchronize"]

    def test_layer_times(self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.install(generation)
        build(onnx_file(), tmp_path / "x.engine")
        engine = Engine(tmp_path / "x.engine")
        times = engine.layer_times(np.zeros((1, 3, SIZE, SIZE), np.float32), runs=4)
        assert times[0] == ("conv_0", 0.25)
        assert [name for name, _ in times] == ["conv_0", "leaky_0", OUTPUTS[0], "pool_6", OUTPUTS[1]]

    def test_an_engine_of_another_version(
        self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path
    ) -> None:
        trt = machine.install(generation)
        build(onnx_file(), tmp_path / "x.engine")
        built = trt.__version__
        trt.__version__ = "9.9.9"
        with pytest.raises(RunnerError, match=f"built by TensorRT {built}, here is 9.9.9: build it again"):
            Engine(tmp_path / "x.engine")
        (tmp_path / "x.engine.json").unlink()  # then TensorRT judges
        with pytest.raises(RunnerError, match=r"TensorRT does not load it: 1: .* Serialization assertion failed"):
            Engine(tmp_path / "x.engine")

    def test_an_engine_of_another_gpu(self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.install(generation, gpu="NVIDIA Tegra X1")
        build(onnx_file(), tmp_path / "x.engine")
        machine.install(generation, gpu="Orin")
        with pytest.raises(RunnerError, match=r"built for NVIDIA Tegra X1 \(5\.3\), here is Orin \(5\.3\)"):
            Engine(tmp_path / "x.engine")


def test_precision_of_a_comparison(machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
    machine.install("10.3")
    source, engine = onnx_file(), tmp_path / "x.engine"
    build(source, engine, precision="fp16")
    assert compare_engine(engine, source).allowed == float("inf")
    build(source, engine, tf32=False, overwrite=True)
    assert compare_engine(engine, source).allowed == 1e-3
    half = onnx_file("half.onnx", half=True)
    build(half, engine, overwrite=True)
    assert compare_engine(engine, half).agrees
    with pytest.raises(RunnerError, match=r"not made from .*tiny\.onnx but from another half\.onnx"):
        compare_engine(engine, source)


def test_layers_of_tensorrt_11_are_in_the_files_precision(machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
    machine.install("11")
    built = build(onnx_file("half.onnx", half=True), tmp_path / "x.engine", precision="fp16")
    assert built.summary() == ["Conv: 3 (FP16 3)", "LeakyRelu: 1 (FP16 1)", "MaxPool: 1 (FP16 1)"]


def test_a_wrong_engine_does_not_agree(machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
    machine.install("8.2")
    source, engine = onnx_file(), tmp_path / "x.engine"
    build(source, engine)
    onnx.save(network(), str(source))
    model = onnx.load(str(source))
    model.graph.node[1].attribute[0].f = 0.5  # leaky slope
    onnx.save(model, str(source))
    facts = json.loads((tmp_path / "x.engine.json").read_text())
    facts["onnx_sha256"] = ""
    (tmp_path / "x.engine.json").write_text(json.dumps(facts))
    assert not compare_engine(engine, source).agrees


def test_an_engine_that_does_not_belong_to_its_description(machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
    machine.install("8.5")
    engine = tmp_path / "x.engine"
    build(onnx_file(), engine)
    engine.write_bytes(engine.read_bytes() + b" ")
    with pytest.raises(RunnerError, match=r"x\.engine\.json describes another engine"):
        Engine(engine)
    (tmp_path / "x.engine.json").write_text("{")
    with pytest.raises(RunnerError, match="not JSON"):
        Engine(engine)
    (tmp_path / "x.engine.json").write_text("[]")
    with pytest.raises(RunnerError, match="not the description of an engine"):
        Engine(engine)


def test_int8_from_images(machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
    trt = machine.install("8.6")
    images = (np.full((3, SIZE, SIZE), index, np.float32) for index in range(3))
    build(onnx_file(), tmp_path / "x.engine", precision="int8", images=images)
    assert "calibration with 3 batches of 1" in trt._calls
    with pytest.raises(ExportError, match="there are no images"):
        build(onnx_file(), tmp_path / "y.engine", precision="int8", images=())
    assert not (tmp_path / "y.engine").exists()


class TestBadInput:
    def test_without_tensorrt_the_command_is_told(self, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.remove()
        with pytest.raises(ExportError) as error:
            build(onnx_file(), tmp_path / "x.engine", precision="fp16", where="jetson-nano")
        assert str(error.value) == (
            "tensorrt is not installed here; on Jetson Nano, TX1 run: /usr/src/tensorrt/bin/trtexec "
            f"--onnx={tmp_path}/tiny.onnx --saveEngine={tmp_path}/x.engine --workspace=512 --fp16 --buildOnly"
        )
        with pytest.raises(RunnerError, match="tensorrt: Python cannot import it"):
            Engine(tmp_path / "x.engine")

    def test_without_cuda(self, machine: Machine, onnx_file: Make, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
        machine.install("10.3")
        monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
        with pytest.raises(ExportError, match="libcudart: not found"):
            build(onnx_file(), tmp_path / "x.engine")

    def test_foreign_files(self, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.install("10.3")
        engine = tmp_path / "x.engine"
        with pytest.raises(ExportError, match="written by pytorch, not by darkprune"):
            build(onnx_file(producer="pytorch"), engine)
        (tmp_path / "bad.onnx").write_bytes(b"\x00nonsense")
        with pytest.raises(ExportError, match=r"bad\.onnx: is not an ONNX file"):
            build(tmp_path / "bad.onnx", engine)
        with pytest.raises(ExportError, match=r"none\.onnx: cannot be read \(No such file"):
            build(tmp_path / "none.onnx", engine)
        model = network(producer="onnx.quantize")
        onnx.helper.set_model_props(model, {"darkprune.cfg_sha256": "0"})
        onnx.save(model, str(tmp_path / "q.onnx"))
        build(tmp_path / "q.onnx", engine)

    def test_outputs_are_not_overwritten(self, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.install("10.3")
        engine = tmp_path / "x.engine"
        engine.write_bytes(b"precious")
        with pytest.raises(OutputError, match="exists; give --overwrite"):
            build(onnx_file(), engine)
        with pytest.raises(OutputError, match="is no folder to write to"):
            build(onnx_file(), tmp_path / "none" / "x.engine")
        for name in ("x.engine", "y.engine.json"):
            (tmp_path / "link" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "link" / name).symlink_to(engine)
            with pytest.raises(OutputError, match="is a link, a pipe or a device, which is never replaced"):
                build(onnx_file(), tmp_path / "link" / name.removesuffix(".json"), overwrite=True)
        assert engine.read_bytes() == b"precious"

    def test_a_failed_build_leaves_nothing(self, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        trt = machine.install("10.3")
        trt._refuse_build = "out of memory"
        source = onnx_file()
        with pytest.raises(ExportError, match="could not build it: out of memory"):
            build(source, tmp_path / "x.engine")
        assert list(tmp_path.iterdir()) == [source]

    def test_precision_and_target(self, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.install("10.3")
        with pytest.raises(ExportError, match="choose one of fp32, fp16, int8"):
            build(onnx_file(), tmp_path / "x.engine", precision="fp8")
        machine.remove()
        with pytest.raises(ExportError, match="has no TensorRT"):
            build(onnx_file(), tmp_path / "x.engine", where="onnxruntime")

    def test_inputs_that_do_not_fit(self, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.install("8.2")
        build(onnx_file(), tmp_path / "x.engine")
        engine = Engine(tmp_path / "x.engine")
        with pytest.raises(RunnerError, match=r"has shape \(1, 3, 8, 8\), the engine takes"):
            engine.run(np.zeros((1, 3, 8, 8), np.float32))

    def test_gpu_memory_runs_out(self, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        machine.install("8.2")
        build(onnx_file(), tmp_path / "x.engine")
        machine.cudart.memory = 100
        with pytest.raises(RunnerError, match=r"CUDA: cudaHostAlloc failed with 2 \(out of memory\)"):
            Engine(tmp_path / "x.engine").run(np.zeros((1, 3, SIZE, SIZE), np.float32))


@pytest.mark.gpu
def test_a_real_engine(onnx_file: Make, tmp_path: Path) -> None:
    if "tensorrt" not in sys.modules:
        pytest.importorskip("tensorrt", reason="needs TensorRT")
    try:
        from darkprune.kit.board.runtime.cuda import Cuda

        name, capability = Cuda().device()
    except Exception as error:
        pytest.skip(f"needs a CUDA device: {error}")
    source, engine = onnx_file(), tmp_path / "x.engine"
    report = build(source, engine, tf32=False)
    assert report.facts["gpu"] == name
    assert report.facts["capability"] == capability
    assert compare_engine(engine, source).agrees
