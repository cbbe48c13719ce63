"""onnxruntime and TensorRT as runners: agreement with PyTorch, taps, layer times, files given for weights."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.errors import RunnerError
from darkprune.graph.graph import Graph, read_graph, with_input_size
from darkprune.kit.board.runtime.command import MODULES
from darkprune.runners.base import PREFERRED, RUNNERS, get_runner, load_with_any
from darkprune.runners.onnxruntime_runner import in_parts, layer_of, tensors_of_heads

sys.path.append(str(Path(__file__).parents[1] / "engines"))
from fake_cudart import FakeCudart
from fake_tensorrt import FakeTensorRT

CFG = """[net]
width=64
height=32
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
activation=mish

[shortcut]
from=-2
activation=linear

[maxpool]
size=2
stride=2

[convolutional]
filters=14
size=1
stride=1
pad=1
activation=linear

[yolo]
mask=0,1
anchors=10,14, 23,27, 40,40
classes=2
num=3

[route]
layers=-4

[convolutional]
filters=7
size=1
stride=1
pad=1
activation=linear

[yolo]
mask=2
anchors=10,14, 23,27, 40,40
classes=2
num=3
"""


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    path = tmp_path / "t.cfg"
    path.write_text(CFG, encoding="utf-8")
    return read_graph(path)


@pytest.fixture
def weights(graph: Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "t.weights"
    assert main(["init", str(graph.cfg.source), "-o", str(path), "--vary"]) == 0
    capsys.readouterr()
    return path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((3, 3, 32, 64), np.float32)


def export(graph: Graph, weights: Path, *how: str) -> Path:
    path = weights.with_suffix(".onnx")
    arguments = ["export", str(graph.cfg.source), str(weights), "-o", str(path), "--static", "--overwrite", *how]
    assert main(arguments) == 0
    return path


class TestOnnxRuntime:
    def test_heads_agree_with_torch(self, graph: Graph, weights: Path, images: np.ndarray) -> None:
        ours = get_runner("onnxruntime").load(graph, weights, taps=False).head_maps(images)
        theirs = get_runner("torch").load(graph, weights, taps=False).head_maps(images)
        assert [m.shape for m in ours] == [(3, 14, 8, 16), (3, 7, 16, 32)]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)

    def test_every_layer_is_shown(self, graph: Graph, weights: Path, images: np.ndarray) -> None:
        ours = get_runner("onnxruntime").load(graph, weights).outputs(images[0])
        theirs = get_runner("torch").load(graph, weights).outputs(images[0])
        assert set(ours) == {0, 1, 2, 3, 4, 7}  # 6 is layer 2 under another number
        for index, values in ours.items():
            np.testing.assert_allclose(values, theirs[index], atol=1e-5, err_msg=str(index))

    def test_without_taps_only_what_heads_read(self, graph: Graph, weights: Path, images: np.ndarray) -> None:
        assert set(get_runner("onnxruntime").load(graph, weights, taps=False).outputs(images[0])) == {4, 7}

    def test_layer_times(self, graph: Graph, weights: Path, images: np.ndarray) -> None:
        times = get_runner("onnxruntime").load(graph, weights, taps=False).layer_times(images)
        assert times is not None
        assert {0, 4, 7} <= set(times) <= set(range(len(graph)))
        assert all(0 <= ms < 1000 for ms in times.values())

    @pytest.mark.parametrize("batch", ["1", "2", "dynamic"])
    def test_a_file_for_weights(self, graph: Graph, weights: Path, images: np.ndarray, batch: str) -> None:
        expected = get_runner("onnxruntime").load(graph, weights, taps=False).head_maps(images)
        network = get_runner("onnxruntime").load(graph, export(graph, weights, "--batch", batch), taps=False)
        for a, b in zip(network.head_maps(images), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        assert network.layer_times(images[:1])

    def test_half_precision_is_run_as_it_is(self, graph: Graph, weights: Path, images: np.ndarray) -> None:
        expected = get_runner("onnxruntime").load(graph, weights, taps=False).head_maps(images)
        network = get_runner("onnxruntime").load(graph, export(graph, weights, "--fp16"))
        worst = max(np.abs(a - b).max() for a, b in zip(network.head_maps(images), expected, strict=True))
        assert 0 < worst < 2e-2

    def test_files_that_do_not_fit(self, graph: Graph, weights: Path) -> None:
        runner = get_runner("onnxruntime")
        with pytest.raises(RunnerError, match="gives boxes, not raw heads"):
            runner.load(graph, export(graph, weights, "--outputs", "boxes"))
        path = export(graph, weights)
        with pytest.raises(RunnerError, match="was not made from"):
            runner.load(with_input_size(graph, 128, 128), path)
        path.write_bytes(b"junk")
        with pytest.raises(RunnerError, match="onnx"):
            runner.load(graph, path)

    def test_layers_that_onnx_cannot_say(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cfg = tmp_path / "r.cfg"
        cfg.write_text("[net]\ninputs=8\ntime_steps=2\nbatch=2\n\n[rnn]\noutput=4\nhidden=4\nactivation=tanh\n")
        assert main(["init", str(cfg), "-o", str(tmp_path / "r.weights")]) == 0
        with pytest.raises(RunnerError, match=r"onnxruntime: layer 0 \(rnn"):
            get_runner("onnxruntime").load(read_graph(cfg), tmp_path / "r.weights")


class TestTensorRt:
    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
        cudart = FakeCudart("Orin")
        monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("10.3", cudart))

        def load(name: str, *rest: object, **more: object) -> FakeCudart:
            if "libcudart" not in str(name):
                raise OSError(name)
            return cudart

        monkeypatch.setattr(ctypes, "CDLL", load)
        return cudart

    def test_builds_an_engine(self, fake: FakeCudart, graph: Graph, weights: Path, images: np.ndarray) -> None:
        network = get_runner("tensorrt").load(graph, weights, taps=False)
        expected = get_runner("onnxruntime").load(graph, weights, taps=False).head_maps(images)
        for a, b in zip(network.head_maps(images), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        assert set(network.outputs(images[0])) == {4, 7}
        times = network.layer_times(images[:1])
        assert times is not None
        assert {0, 4, 7} <= set(times)

    def test_an_engine_for_weights(
        self, fake: FakeCudart, graph: Graph, weights: Path, images: np.ndarray, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine = weights.with_suffix(".engine")
        source = export(graph, weights, "--batch", "dynamic")
        assert main(["engine", str(source), "-o", str(engine), "--batch", "1,2,4"]) == 0
        expected = get_runner("onnxruntime").load(graph, weights, taps=False).head_maps(images)
        found = get_runner("tensorrt").load(graph, engine).head_maps(images)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        with pytest.raises(RunnerError, match="build it of this pair"):
            get_runner("tensorrt").load(with_input_size(graph, 128, 128), engine)
        capsys.readouterr()
        arguments = ["bench", str(graph.cfg.source), str(engine), "--runner", "tensorrt", "--runs", "2", "--json"]
        assert main(arguments) == 0
        found_json = json.loads(capsys.readouterr().out)
        assert found_json["runner"] == "tensorrt"
        assert found_json["networks"][0]["layers_ms"]

    def test_without_tensorrt(self, graph: Graph, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in MODULES:
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(RunnerError, match="TensorRT is not installed here"):
            get_runner("tensorrt").load(graph, weights)


@pytest.mark.gpu
def test_a_real_engine(graph: Graph, weights: Path, images: np.ndarray) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    found = get_runner("tensorrt").load(graph, weights, taps=False).head_maps(images)
    expected = get_runner("onnxruntime").load(graph, weights, taps=False).head_maps(images)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= 1e-2 * np.abs(b).max()


def test_tensorrt_only_when_asked_for(graph: Graph, weights: Path) -> None:
    assert set(PREFERRED) < set(RUNNERS)
    assert "tensorrt" not in PREFERRED
    assert load_with_any(graph, weights)[0] in PREFERRED


def test_parts_of_a_fixed_batch() -> None:
    calls = []

    def run(part: np.ndarray) -> list[np.ndarray]:
        calls.append(part.shape[0])
        return [part * 2, part.sum(axis=(1, 2, 3))]

    images = np.arange(5 * 12, dtype=np.float32).reshape(5, 3, 2, 2)
    doubled, sums = in_parts(run, images, 2)
    assert calls == [2, 2, 2]
    np.testing.assert_array_equal(doubled, images * 2)
    np.testing.assert_array_equal(sums, images.sum(axis=(1, 2, 3)))


def test_names_of_layers(graph: Graph) -> None:
    assert layer_of("012_convolutional/conv_nchwc_kernel_time") == 12
    assert layer_of("PWN(PWN(007_shortcut/add), 008_x)") == 7
    assert layer_of("ReorderInput_token_3_kernel_time") is None
    assert tensors_of_heads(graph, ["007_convolutional", "004_convolutional"]) == [
        "004_convolutional",
        "007_convolutional",
    ]
    assert tensors_of_heads(graph, ["a", "b"]) == ["a", "b"]
    with pytest.raises(RunnerError, match="2 heads, but there are 1 outputs"):
        tensors_of_heads(graph, ["a"])
