"""FP16 and INT8 files: types where they belong, rules of the targets, numbers through onnxruntime."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from test_onnx_forms import HEADS, PLAIN, checkpoints, images_for, open_checkpoint, picture
from test_onnx_kinds import CASES, forward, load, net, open_text, random_weights, relative, run

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import DataError, ExportError
from darkprune.graph.graph import build_graph
from darkprune.kit.board.runtime.build import batches
from darkprune.onnx.calibration import (
    calibration_cache,
    calibration_files,
    measure_ranges,
    scales,
)
from darkprune.onnx.check import check_structure
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.network import OnnxNetwork
from darkprune.onnx.nodes.outputs import FORMS
from darkprune.onnx.options import ExportOptions, LeftOut
from darkprune.onnx.precision import to_half
from darkprune.onnx.quantize import left_out_layers, quantised_share, quantize_onnx
from darkprune.onnx.read import facts_of_file
from darkprune.targets import target
from darkprune.tensorrt.operators import check_model, file_precision, tensor_types

TEXT = net(
    32, 32, 3, "convolutional filters=8 size=3 pad=1 activation=mish batch_normalize=1",
    "convolutional filters=8 size=3 pad=1 groups=2 activation=leaky batch_normalize=1", "shortcut from=-2",
    "upsample stride=2", "maxpool size=3 stride=2", "convolutional filters=8 size=1 activation=swish",
    "convolutional filters=24 size=1 activation=linear",
    "yolo mask=0,1,2 classes=3 num=4 anchors=10,14,23,27,37,58,81,82",
)  # fmt: skip
PLACES = ("xavier", "orin", "thor", "workstation")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HEADS)
def test_half_files_are_valid_and_keep_their_ends_in_fp32(name: str, form: str, tmp_path: Path) -> None:
    with open_text(HEADS[name], random_weights(HEADS[name], seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions("workstation", outputs=form, limits=PLAIN))
        half = to_half(network)
        check_structure(half, weights.graph)
        write_onnx(half, tmp_path / "half.onnx")
    model = onnx.load(str(tmp_path / "half.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [problem for place in PLACES for problem in check_model(model, place)] == []
    assert file_precision(model) == facts_of_file(tmp_path / "half.onnx")["precision"] == "fp16"
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert [(o.name, o.type) for o in model.graph.output] == [(o.name, o.type) for o in network.model.graph.output]
    types = tensor_types(model.graph)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "LeakyRelu"):
            assert {types[name] for name in node.input} == {"FP16"}
        if node.op_type in ("Exp", "Softplus", "NonMaxSuppression", "EfficientNMS_TRT", "TopK"):
            assert types[node.input[0]] == "FP32", node.name


@pytest.mark.parametrize("name", ["gates", "shortcut", "maxpool", "upsample", "reorder", "local", "normalization",
                                  "deep padding", "activation mish", "activation normalize_channels"])  # fmt: skip
def test_half_networks_compute_about_the_same(name: str, tmp_path: Path) -> None:
    text = CASES[name]
    data = random_weights(text, seed=7)
    reference = load(text, data)
    image = np.random.default_rng(1).uniform(0, 1, reference.inputs)
    with open_text(text, data, tmp_path) as weights:
        half = to_half(build_onnx(weights, ExportOptions(opset=13)))
        got = run(half, image.reshape(1, *reference.input_shape))
    assert relative(next(iter(got.values())), forward(reference, image)[-1]) <= 2e-2


def test_layers_can_be_kept_in_fp32(tmp_path: Path) -> None:
    with open_text(TEXT, random_weights(TEXT, seed=3), tmp_path) as weights:
        model = to_half(build_onnx(weights, ExportOptions()), keep_layers=[1]).model
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["001_convolutional/weights"] == TensorProto.FLOAT
    assert kinds["000_convolutional/weights/half"] == TensorProto.FLOAT16


def test_weights_beyond_half_precision_are_named(tmp_path: Path) -> None:
    data = bytearray(random_weights(TEXT, seed=3))
    data[-4:] = struct.pack("<f", 1e6)
    with open_text(TEXT, bytes(data), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions())
        with pytest.raises(ExportError, match=r"006_convolutional/weights: holds 1e\+06, half precision ends"):
            write_onnx(to_half(network), tmp_path / "x.onnx")
        write_onnx(to_half(network, [6]), tmp_path / "x.onnx")


@pytest.fixture
def quantised(
    tmp_path: Path,
) -> Iterator[tuple[OnnxNetwork, dict[str, float], np.ndarray, dict[str, np.ndarray], str]]:
    """The small network in INT8, steps of its tensors, an image, its FP32 outputs, and its calibration cache."""
    images = images_for(TEXT, 4)
    with open_text(TEXT, random_weights(TEXT, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions("orin", outputs="boxes"))
        ranges = measure_ranges(network, [image[None] for image in images])
        eight = quantize_onnx(network, weights.graph, ranges, LeftOut(), target("orin"))
        left = left_out_layers(weights.graph, LeftOut())
        cache = calibration_cache(network, scales(ranges), left, target("orin"))
        yield eight, scales(ranges), images[:1], run(network, images[:1]), cache


def test_quantised_files_follow_tensorrts_rules(quantised: tuple, tmp_path: Path) -> None:
    write_onnx(quantised[0], tmp_path / "q.onnx")
    model = onnx.load(str(tmp_path / "q.onnx"))
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=True)
    assert [problem for place in PLACES[1:] for problem in check_model(model, place)] == []
    assert file_precision(model) == facts_of_file(tmp_path / "q.onnx")["precision"] == "int8"
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    quantised_convolutions = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert tensors[node.input[2]].dtype == np.int8
            assert not tensors[node.input[2]].any()
        if node.op_type == "Conv" and producers.get(node.input[1]) is not None:
            quantised_convolutions.add(node.name)
            pair = producers[producers[node.input[1]].input[0]]
            assert pair.op_type == "QuantizeLinear"
            assert pair.input[0] == f"{node.name.removesuffix('/conv')}/weights"
            largest = abs(tensors[pair.input[0]]).max(axis=(1, 2, 3))
            assert tensors[pair.input[1]] == pytest.approx(largest / 127, rel=1e-6)
            assert producers[node.input[0]].op_type == "DequantizeLinear"
            assert node.input[2] in tensors  # the bias stays a float
    assert quantised_convolutions == {"001_convolutional/conv", "005_convolutional/conv"}
    assert {
        producers[name].op_type for name in next(n for n in model.graph.node if n.name == "002_shortcut/add").input
    } == {"DequantizeLinear"}
    assert quantised_share(model) == 0.5
    assert model.ir_version == 7
    assert {item.domain for item in model.opset_import} == {""}


def test_quantised_networks_compute_about_the_same(quantised: tuple) -> None:
    network, _, image, expected, _ = quantised
    got = run(network, image)
    assert relative(got["boxes"], expected["boxes"]) < 0.1
    assert 0 < relative(got["scores"], expected["scores"]) < 0.1


def test_a_calibration_cache_lists_what_may_be_quantised(quantised: tuple) -> None:
    _, steps, _, _, cache = quantised
    header, *lines = cache.splitlines()
    assert header == "TRT-100300-EntropyCalibration2"
    values = {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in (li.split(": ") for li in lines)}
    assert values["input"] == pytest.approx(1 / 127, rel=0.05)
    assert values["001_convolutional"] == pytest.approx(steps["001_convolutional"])
    names = set(values)
    assert "002_shortcut" in names
    assert not {name for name in names if name.startswith(("000_", "006_", "007_"))}  # first, before the head, head
    assert not {name for name in names if "softplus" in name or name in ("boxes", "scores")}
    assert header_for("xavier") == "TRT-8500-EntropyCalibration2"


def header_for(place: str) -> str:
    nothing = OnnxNetwork(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), {}, frozenset(), ())
    return calibration_cache(nothing, {"input": 1.0}, [], target(place)).splitlines()[0]


@pytest.mark.parametrize("place", ["workstation", "onnxruntime"])
def test_targets_without_caches_say_so(place: str) -> None:
    with pytest.raises(ExportError, match="calibration cache"):
        header_for(place)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_by_every_method(method: str, tmp_path: Path) -> None:
    images = images_for(TEXT, 3)
    with open_text(TEXT, random_weights(TEXT, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions(batch=None))
        steps = scales(measure_ranges(network, iter([images[:2], images[2:]]), method))
    assert 0 < steps["001_convolutional"] < 1
    assert steps["input"] <= 1.001 / 127


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_are_those_of_onnxruntimes_calibrators(method: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    images = images_for(TEXT, 3)
    with open_text(TEXT, random_weights(TEXT, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions(batch=None))
        write_onnx(network, tmp_path / "x.onnx")
        ranges = measure_ranges(network, [images[:2], images[2:]], method)
        some = measure_ranges(network, [images[:2], images[2:]], method, {"001_convolutional"})
    kind = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[method]
    calibrator = create_calibrator(
        str(tmp_path / "x.onnx"), None, str(tmp_path / "more.onnx"), getattr(CalibrationMethod, kind),
        extra_options={"symmetric": True},
    )  # fmt: skip

    class Reader:
        def __init__(self) -> None:
            self.feeds = [{"input": images[:2]}, {"input": images[2:]}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.feeds.pop(0) if self.feeds else None

    if method != "minmax":  # those collect what a reader gives at once into arrays of equal size
        for feed in Reader().feeds:
            one = Reader()
            one.feeds = [feed]
            calibrator.collect_data(one)
    else:
        calibrator.collect_data(Reader())
    expected = {
        name: tuple(float(np.ravel(value)[0]) for value in data.range_value)
        for name, data in calibrator.compute_data().items()
    }
    assert {name: tuple(range_) for name, range_ in ranges.items()} == expected
    assert some["001_convolutional"] == ranges["001_convolutional"]
    assert some.keys() == {"input", "001_convolutional"}


def test_what_feeds_the_plugin_is_calibrated_through_another_form(tmp_path: Path) -> None:
    with open_text(TEXT, random_weights(TEXT, seed=3), tmp_path) as weights:
        plain = build_onnx(weights, ExportOptions("orin", outputs="boxes"))
        ranges = measure_ranges(plain, [images_for(TEXT, 1)])
        network = build_onnx(weights, ExportOptions("orin", outputs="efficientnms"))
        model = quantize_onnx(network, weights.graph, ranges, LeftOut(), target("orin")).model
    assert check_model(model, "orin") == []
    assert model.graph.node[-1].op_type == "EfficientNMS_TRT"


def test_depthwise_convolutions_are_not_quantised_unless_asked_for() -> None:
    conv = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=relu\ngroups={}\n"
    text = "[net]\nwidth=8\nheight=8\nchannels=8\n" + "".join(conv.format(groups) for groups in (1, 8, 4, 1))
    graph = build_graph(parse_cfg(text, "x.cfg"))
    assert [layer.index for layer in left_out_layers(graph, LeftOut())] == [0, 1, 3]  # first, depthwise, output
    assert [layer.index for layer in left_out_layers(graph, LeftOut(depthwise=False))] == [0, 3]


@pytest.mark.parametrize(
    ("place", "opset", "choice", "message"),
    [
        ("jetson-nano", 13, LeftOut(), "jetson-nano does not compute in INT8"),
        ("orin", 11, LeftOut(), "opset 11: INT8 needs 13"),
        ("orin", 13, LeftOut(layers=frozenset({99})), "layer 99: cannot be left out"),
        ("orin", 13, LeftOut(layers=frozenset(range(8))), "no layer is left to quantise"),
    ],
)
def test_int8_that_cannot_be_is_refused(place: str, opset: int, choice: LeftOut, message: str, tmp_path: Path) -> None:
    with open_text(TEXT, random_weights(TEXT, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions(place, opset))
        with pytest.raises(ExportError, match=message):
            quantize_onnx(network, weights.graph, {}, choice, target(place))


def test_images_of_a_folder(tmp_path: Path) -> None:
    inside = tmp_path / "deep"
    inside.mkdir()
    for index in range(5):
        cv2.imwrite(str(inside / f"{index}.png"), np.full((2, 2, 3), index, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    assert [path.stem for path in calibration_files(tmp_path, limit=3)] == ["0", "2", "4"]
    images = (np.full((3, 2, 2), int(path.stem), np.float32) for path in calibration_files(tmp_path))
    found = list(batches(images, 2))
    assert [batch[:, 0, 0, 0].tolist() for batch in found] == [[0, 1], [2, 3], [4, 4]]


@pytest.mark.parametrize(("name", "message"), [("nothing", "no such file or folder"), ("empty", "holds no images")])
def test_folders_without_images_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        calibration_files(tmp_path / name)


def test_no_images_at_all(tmp_path: Path) -> None:
    with (
        open_text(TEXT, random_weights(TEXT, seed=3), tmp_path) as weights,
        pytest.raises(DataError, match="no images"),
    ):
        measure_ranges(build_onnx(weights, ExportOptions()), [])


@pytest.mark.skipif(not checkpoints(), reason="the real checkpoints are not here")
@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_real_checkpoints_in_half_precision(folder: Path) -> None:
    with open_checkpoint(folder) as weights:
        image = picture(weights)
        network = build_onnx(weights, ExportOptions("orin", outputs="boxes"))
        expected = run(network, image)
        half = run(to_half(network), image)
    for name, values in expected.items():
        assert relative(half[name], values) <= 3e-2


@pytest.mark.skipif(not checkpoints(), reason="the real checkpoints are not here")
@pytest.mark.parametrize("folder", checkpoints()[::3], ids=lambda folder: folder.name)
def test_real_checkpoints_in_eight_bits(folder: Path) -> None:
    with open_checkpoint(folder) as weights:
        image = picture(weights)
        network = build_onnx(weights, ExportOptions("xavier", outputs="boxes"))
        expected = run(network, image)
        choice = LeftOut(depthwise=False)
        quantised = quantize_onnx(network, weights.graph, measure_ranges(network, [image]), choice, target("xavier"))
        eight = run(quantised, image)
    for name, values in expected.items():
        assert np.corrcoef(eight[name].ravel(), values.ravel())[0, 1] > 0.5
    assert quantised_share(quantised.model) > 0.7
