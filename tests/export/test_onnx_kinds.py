"""Every section kind and activation as ONNX nodes, through onnxruntime against the reference forward pass."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

sys.path.append(str(Path(__file__).parents[1]))
from reference import forward, load, random_weights
from reference.test_against_darknet import ACTIVATIONS, CONV, SYNTHETIC, everywhere, net

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import ExportError
from darkprune.graph.graph import build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.layers import KINDS
from darkprune.layers.heads import Head
from darkprune.onnx.model import build_onnx
from darkprune.onnx.network import OnnxNetwork, assemble, values_of
from darkprune.onnx.nodes.builder import INPUT_NAME, GraphBuilder
from darkprune.onnx.nodes.layer_writer import UNSUPPORTED, WRITERS
from darkprune.onnx.nodes.layers import write_layers
from darkprune.onnx.nodes.outputs import Output
from darkprune.onnx.options import ExportOptions
from darkprune.tensorrt.operators import check_model

MORE = {
    "deep padding": net(7, 7, 3, f"{CONV} filters=3", "maxpool size=2 stride=2 padding=5"),
    "maxpool_depth that does not divide": net(6, 5, 3, f"{CONV} filters=7", "maxpool maxpool_depth=1 out_channels=3"),
    "antialiasing seen from afar": net(
        12, 12, 3, "convolutional antialiasing=1 filters=6 size=3 stride=2 pad=1", f"{CONV} filters=4",
    ),
    "relu6": everywhere("relu6"),
}  # fmt: skip
CASES = SYNTHETIC | MORE | {f"activation {name}": everywhere(name) for name in ACTIVATIONS}
CHECKED = ("jetson-nano", "xavier", "orin", "thor", "workstation")


def open_text(text: str, weights: bytes, folder: Path) -> NetworkWeights:
    """Opens a pair that exists as text and bytes."""
    path = folder / "net.weights"
    path.write_bytes(weights)
    return NetworkWeights(build_graph(parse_cfg(text, "net.cfg")), path)


def complete(network: OnnxNetwork) -> onnx.ModelProto:
    """Returns the model with all values in it."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for tensor in model.graph.initializer:
        tensor.raw_data = values_of(tensor.name, network.constants[tensor.name]).tobytes()
    return model


def session(model: onnx.ModelProto | OnnxNetwork | Path) -> onnxruntime.InferenceSession:
    """Runs a model in onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if isinstance(model, OnnxNetwork):
        model = complete(model)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | OnnxNetwork | Path, image: np.ndarray) -> dict[str, np.ndarray]:
    runner = session(model)
    names = [value.name for value in runner.get_outputs()]
    return dict(zip(names, runner.run(names, {INPUT_NAME: image.astype(np.float32)}), strict=True))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference over the largest value."""
    assert ours.size == theirs.size, (ours.shape, theirs.shape)
    return float(abs(ours.reshape(-1) - theirs.reshape(-1)).max() / max(abs(theirs).max(), 1e-30))


def every_layer(weights: NetworkWeights, opset: int, batch: int | None) -> tuple[onnx.ModelProto, dict[int, str]]:
    """Makes a model that gives every layer's output, in its own form, and says which output is which layer's."""
    graph, builder = weights.graph, GraphBuilder(opset, batch)
    ends = {layer.index for layer in graph.heads}
    wanted = [layer.index for layer in graph if layer.index not in ends and not ends & set(layer.sources)]
    signals = write_layers(builder, weights, wanted)
    names, first = {}, "batch" if batch is None else batch
    outputs: dict[str, Output] = {}
    for index in wanted:
        signal = signals[index].blurred or signals[index]
        names[index] = signal.name
        feature = signal.feature
        sizes = (feature.c, feature.h, feature.w) if signal.as_map else (feature.outputs,)
        if signal.name not in (INPUT_NAME, *builder.constants):
            outputs[signal.name] = Output(signal.name, TensorProto.FLOAT, (first, *sizes))
    shape = graph.net.input
    given = Output(INPUT_NAME, TensorProto.FLOAT, (first, shape.c, shape.h, shape.w))
    model = assemble("all", builder.nodes, builder.constants, [given], list(outputs.values()), opset, 7)
    network = OnnxNetwork(model, builder.constants, frozenset(builder.full_precision), ())
    return complete(network), {index: name for index, name in names.items() if name in outputs}


def check_every_layer(name: str, opset: int, folder: Path) -> onnx.ModelProto:
    """Demands that every layer of a case gives what the reference gives, and returns the model."""
    data = random_weights(CASES[name], seed=7)
    reference = load(CASES[name], data)
    image = np.random.default_rng(1).uniform(0, 1, reference.inputs)
    expected = forward(reference, image)
    with open_text(CASES[name], data, folder) as weights:
        model, names = every_layer(weights, opset, 1)
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    got = run(model, image.reshape(1, *reference.input_shape))
    assert names
    for index, output in names.items():
        difference = relative(got[output], expected[index])
        assert difference <= 1e-5, f"layer {index} ({reference.layers[index].kind}): {difference:.2e}"
    return model


@pytest.mark.parametrize("opset", [11, 13, 20])
@pytest.mark.parametrize("name", CASES)
def test_every_layer_agrees_with_the_reference(name: str, opset: int, tmp_path: Path) -> None:
    check_every_layer(name, opset, tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_readable_everywhere(name: str, tmp_path: Path) -> None:
    with open_text(CASES[name], random_weights(CASES[name], seed=7), tmp_path) as weights:
        model, _ = every_layer(weights, 13, 1)
    assert [problem for place in CHECKED for problem in check_model(model, place)] == []


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("name", ["gates", "connected", "local", "reorder", "route", "maxpool", "shortcut"])
def test_images_of_a_batch_are_independent(name: str, batch: int | None, tmp_path: Path) -> None:
    data = random_weights(CASES[name], seed=7)
    reference = load(CASES[name], data)
    images = np.random.default_rng(2).uniform(0, 1, (3, *reference.input_shape))
    with open_text(CASES[name], data, tmp_path) as weights:
        model, names = every_layer(weights, 13, batch)
    onnx.checker.check_model(model, full_check=True)
    got = run(model, images)
    for number, image in enumerate(images):
        expected = forward(reference, image)
        for index, output in names.items():
            assert relative(got[output][number], expected[index]) <= 1e-5, index


@pytest.mark.parametrize(
    "layer", ["convolutional filters=2 activation=linear size=3 stride=2", "maxpool size=3 stride=2 padding=0"]
)
def test_a_window_larger_than_the_map_has_one_position(layer: str, tmp_path: Path) -> None:
    # darknet divides towards zero; what is missing at the end counts as padding there
    text, taller = net(5, 2, 3, layer), net(5, 3, 3, layer)
    data = random_weights(taller, seed=7)
    image = np.random.default_rng(1).uniform(0, 1, (3, 2, 5))
    with open_text(text, data, tmp_path) as weights:
        got = run(build_onnx(weights, ExportOptions()), image[None])
    expected = forward(load(taller, data), np.concatenate([image, np.zeros((3, 1, 5))], axis=1))[-1]
    assert relative(next(iter(got.values())), expected) <= 1e-5


def test_every_kind_is_written_refused_or_a_head() -> None:
    kinds = set(KINDS.values())
    heads = {kind for kind in kinds if issubclass(kind, Head)}
    assert set(WRITERS) | set(UNSUPPORTED) | heads == kinds
    assert not set(WRITERS) & (set(UNSUPPORTED) | heads)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (["crnn output=4 hidden=4"], r"layer 0 \(crnn, line 6\): keeps a state"),
        (["convolutional filters=4 xnor=1 size=3 pad=1"], r"layer 0 \(convolutional, line 6\): xnor=1"),
        (["convolutional filters=4 dontload=1"], r"layer 0 \(convolutional, line 6\): dontload=1"),
        (["convolutional filters=4 size=3 pad=0 dilation=2"], r"layer 0 \(convolutional.*overruns its memory"),
        (["local filters=2 size=5 pad=1"], r"layer 0 \(local.*misreads"),
        (["local_avgpool size=2 stride=2 padding=5"], r"layer 0 \(local_avgpool.*padding"),
        (["convolutional filters=3", "upsample stride=-3"], r"layer 1 \(upsample.*no multiple of 3"),
        (["convolutional filters=6 size=1", "reorg stride=2"], r"layer 1 \(reorg.*no multiple of 4"),
        (["convolutional filters=8 size=1", "reorg3d stride=2 reverse=1"], r"layer 1 \(reorg3d.*no multiple of 16"),
        (["convolutional filters=8 size=1", "reorg3d stride=3"], r"layer 1 \(reorg3d.*no multiple of the stride 3"),
        (["convolutional", "maxpool size=2 stride=2", "shortcut from=0"], r"layer 2 \(shortcut.*different sizes"),
        (["softmax tree=x.tree"], r"layer 0 \(softmax.*tree"),
        (["dropout"], r"layer 0 \(dropout\): the network computes nothing"),
        (["cost"], "nothing but a training loss"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_named(sections: list[str], message: str, tmp_path: Path) -> None:
    graph = build_graph(parse_cfg(net(10, 10, 3, *sections), "net.cfg"))
    data = bytes(20 + 4 * sum(blob.count for layer in graph for blob in layer.stored))
    (tmp_path / "net.weights").write_bytes(data[:4] + b"\2" + data[5:])
    with NetworkWeights(graph, tmp_path / "net.weights") as weights, pytest.raises(ExportError, match=message) as error:
        build_onnx(weights, ExportOptions())
    assert "\n" not in str(error.value)


def test_weights_of_a_shared_layer_are_stored_once(tmp_path: Path) -> None:
    text = SYNTHETIC["share_index"]
    with open_text(text, random_weights(text, seed=7), tmp_path) as weights:
        model, _ = every_layer(weights, 13, 1)
    kernels = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith("/weights")]
    assert kernels == ["000_convolutional/weights", "001_convolutional/weights", "002_convolutional/weights"]


def test_dontloadscales_takes_darknets_initial_statistics(tmp_path: Path) -> None:
    text = net(6, 6, 3, f"{CONV} filters=4 dontloadscales=1", "convolutional filters=2 activation=linear")
    size = 4 + 4 * 3 * 9 + 2 + 8
    data = b"\0\0\0\0\2\0\0\0\5\0\0\0" + bytes(8)
    data += np.random.default_rng(3).normal(0, 0.01, size).astype("<f4").tobytes()
    reference = load(text, data)
    image = np.random.default_rng(1).uniform(0, 1, reference.inputs)
    with open_text(text, data, tmp_path) as weights:
        got = run(build_onnx(weights, ExportOptions()), image.reshape(1, 3, 6, 6))
    assert relative(next(iter(got.values())), forward(reference, image)[-1]) <= 1e-5


def test_an_ancient_file_with_transposed_connections(tmp_path: Path) -> None:
    text = net(3, 3, 2, "connected output=5 activation=linear")
    values = np.random.default_rng(3).normal(0, 1, 5 + 18 * 5).astype("<f4")
    data = np.array([2000, 0, 0], "<i4").tobytes() + bytes(8) + values.tobytes()
    image = np.random.default_rng(1).uniform(0, 1, 18)
    with open_text(text, data, tmp_path) as weights:
        got = run(build_onnx(weights, ExportOptions()), image.reshape(1, 2, 3, 3))
    expected = values[:5] + image @ values[5:].reshape(18, 5)
    assert relative(next(iter(got.values())), expected) <= 1e-5
