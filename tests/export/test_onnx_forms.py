"""Output forms: decoded heads against darkprune's own decoding, suppression, options, metadata, files on disk."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from test_onnx_kinds import complete, forward, load, net, open_text, random_weights, relative, run

from darkprune import __version__
from darkprune.darknet.output import checked_file
from darkprune.errors import ExportError, OutputError
from darkprune.graph.weights import NetworkWeights
from darkprune.onnx import file
from darkprune.onnx.check import check_structure, verify_onnx
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.nodes.outputs import FORMS, Suppression
from darkprune.onnx.options import ExportOptions
from darkprune.onnx.read import facts_of_file
from darkprune.tensorrt.operators import check_model
from tests.assets import CHECKPOINTS, IMAGES, open_pair

ANCHORS = "anchors=10,14,23,27,37,58,81,82 num=4"
CONV = "convolutional size=3 stride=2 pad=1 filters=8 activation=mish batch_normalize=1"
HEADS = {
    "yolo": net(
        32, 24, 3, CONV, "convolutional filters=24 size=1 activation=linear",
        f"yolo mask=0,1,2 classes=3 scale_x_y=1.2 {ANCHORS}", "route layers=0", CONV,
        "convolutional filters=16 size=1 activation=linear", f"yolo mask=3,0 classes=3 {ANCHORS}",
    ),
    "new_coords": net(
        32, 24, 3, CONV, "convolutional filters=24 size=1 activation=logistic",
        f"yolo mask=1,2,3 classes=3 scale_x_y=2 new_coords=1 nms_kind=diounms {ANCHORS}",
    ),
    **{
        f"Gaussian_yolo {point}": net(
            32, 24, 3, CONV, "convolutional filters=36 size=1 activation=linear",
            f"Gaussian_yolo mask=0,2,3 classes=3 scale_x_y=1.1 yolo_point={point} {ANCHORS}",
        )
        for point in ("center", "left_top", "right_bottom")
    },
    "region with softmax": net(
        32, 24, 3, CONV, "convolutional filters=24 size=1 activation=linear",
        "region classes=3 coords=4 num=3 softmax=1 anchors=1,2,3,4,5,6",
    ),
    "region": net(
        32, 24, 3, CONV, "convolutional filters=24 size=1 activation=linear",
        "region classes=3 coords=4 num=3 anchors=1,2,3,4,5,6",
    ),
}  # fmt: skip
ONE_CLASS = net(
    16, 16, 1, "convolutional filters=12 size=3 pad=1 activation=linear", "yolo classes=1 num=2 anchors=5,6,7,8"
)
PLAIN = Suppression(0.3, 0.4, 20)


def head_maps(text: str, data: bytes, images: np.ndarray) -> list[np.ndarray]:
    """The map that every head takes, of every image, by the reference."""
    reference = load(text, data)
    sources = [layer.sources[0] for layer in reference.layers if layer.kind in ("yolo", "Gaussian_yolo", "region")]
    outputs = [forward(reference, image) for image in images]
    return [np.stack([layers[index] for layers in outputs]).astype(np.float32) for index in sources]


def images_for(text: str, count: int) -> np.ndarray:
    shape = load(text, None).input_shape
    return np.random.default_rng(5).uniform(0, 1, (count, *shape)).astype(np.float32)


@pytest.mark.parametrize(("opset", "batch"), [(11, 1), (13, None), (18, 2)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HEADS)
def test_every_form_of_every_head_agrees_with_the_reference(
    name: str, form: str, opset: int, batch: int | None, tmp_path: Path
) -> None:
    text, data = HEADS[name], random_weights(HEADS[name], seed=3)
    options = ExportOptions("workstation", opset, batch, form, tuple("abc"), PLAIN)
    images = images_for(text, batch or 3)
    with open_text(text, data, tmp_path) as weights:
        network = build_onnx(weights, options)
        check_structure(network, weights.graph)
        write_onnx(network, tmp_path / "x.onnx")
        agreement = verify_onnx(tmp_path / "x.onnx", weights.graph, lambda x: head_maps(text, data, x), images)
    onnx.checker.check_model(str(tmp_path / "x.onnx"), full_check=True)
    assert max(agreement.deviations.values()) <= 1e-5, agreement.deviations
    assert agreement.agrees


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HEADS)
def test_every_form_is_readable_everywhere(name: str, form: str, tmp_path: Path) -> None:
    with open_text(HEADS[name], random_weights(HEADS[name], seed=3), tmp_path) as weights:
        for place in ("jetson-nano", "tx2", "xavier", "orin", "thor", "workstation"):
            network = build_onnx(weights, ExportOptions(place, outputs=form, limits=PLAIN))
            assert check_model(complete(network), place) == []


@pytest.mark.parametrize("form", FORMS)
def test_detections_of_one_class_and_channel(form: str, tmp_path: Path) -> None:
    data, images = random_weights(ONE_CLASS, seed=3), images_for(ONE_CLASS, 1)
    with open_text(ONE_CLASS, data, tmp_path) as weights:
        write_onnx(build_onnx(weights, ExportOptions("workstation", outputs=form, limits=PLAIN)), tmp_path / "x.onnx")
        maps = head_maps(ONE_CLASS, data, images)
        agreement = verify_onnx(tmp_path / "x.onnx", weights.graph, lambda _: maps, images)
    assert max(agreement.deviations.values()) <= 1e-5


def test_nothing_found_is_an_empty_table(tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions(outputs="nms", limits=Suppression(0.999999)))
        assert run(network, images_for(text, 1))["detections"].shape == (0, 7)


def test_no_integers_of_64_bits_leave_the_file(tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        for form in FORMS:
            model = build_onnx(weights, ExportOptions("workstation", outputs=form)).model
            kinds = {output.type.tensor_type.elem_type for output in model.graph.output}
            assert onnx.TensorProto.INT64 not in kinds
            operators = {node.op_type for node in model.graph.node}
            assert not operators & {"Split", "ScatterND", "Mish", "HardSwish", "Where"}


def test_the_plugin_has_the_attributes_that_tensorrt_reads(tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        model = build_onnx(weights, ExportOptions("jetson-nano", outputs="efficientnms", limits=PLAIN)).model
    node = model.graph.node[-1]
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert (node.op_type, node.domain) == ("EfficientNMS_TRT", "TRT")
    assert values == {
        "plugin_version": b"1", "score_threshold": pytest.approx(0.3), "iou_threshold": pytest.approx(0.4),
        "max_output_boxes": 20, "background_class": -1, "score_activation": 0, "box_coding": 0,
    }  # fmt: skip
    # what the creator in libnvinfer_plugin.so of tensorrt 8.5.3.1 lists (getFieldNames): one value each
    real, whole = onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT
    assert {item.name: item.type for item in node.attribute if item.name != "plugin_version"} == {
        "score_threshold": real, "iou_threshold": real,
        "max_output_boxes": whole, "background_class": whole, "score_activation": whole, "box_coding": whole,
    }  # fmt: skip
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    assert shapes == {"num_dets": [1, 1], "det_boxes": [1, 20, 4], "det_scores": [1, 20], "det_classes": [1, 20]}


def test_names_carry_darknets_layer_numbers(tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        model = build_onnx(weights, ExportOptions()).model
    assert [output.name for output in model.graph.output] == ["001_convolutional", "005_convolutional"]
    assert [node.name for node in model.graph.node][:4] == [
        f"000_convolutional/{step}" for step in ("conv", "softplus", "tanh", "mish")
    ]
    assert model.graph.node[4].input[0] == "000_convolutional"


def test_the_file_describes_itself(tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        write_onnx(build_onnx(weights, ExportOptions(names=("a", "b", "c"), plan_hash="f00")), tmp_path / "x.onnx")
    facts = facts_of_file(tmp_path / "x.onnx")
    assert (facts["darkprune_version"], facts["names"], facts["plan_hash"]) == (__version__, ["a", "b", "c"], "f00")
    assert facts["input"] == {
        "name": "input", "batch": 1, "channels": 3, "height": 24, "width": 32, "letterbox": False, "colour": "RGB",
        "scaling": "1/255",
    }  # fmt: skip
    assert [(head["output"], head["kind"], head["scale_x_y"]) for head in facts["heads"]] == [
        ("001_convolutional", "yolo", 1.2),
        ("005_convolutional", "yolo", 1.0),
    ]
    assert len(facts["cfg_sha256"]) == 64
    assert json.loads(json.dumps(facts["heads"]))[1]["anchors"] == [[81, 82], [10, 14]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions("jetson-tk1"), "unknown"),
        (ExportOptions("jetson-nano", opset=14), "opset 14: for jetson-nano darkprune writes 11 to 13"),
        (ExportOptions(opset=9), "writes 11 to"),
        (ExportOptions("jetson-nano", batch=None), "no open batch size"),
        (ExportOptions(batch=0), "out of range"),
        (ExportOptions(outputs="everything"), "unknown"),
        (ExportOptions(outputs="efficientnms"), "only TensorRT has"),
        (ExportOptions("jetson-nano", outputs="efficientnms", limits=Suppression(most=3000)), "at most 2000"),
        (ExportOptions(names=("a", "b")), "2 class names, but the heads have 3 classes"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options: ExportOptions, message: str, tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        with pytest.raises(ExportError, match=message) as error:
            build_onnx(weights, options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (net(8, 8, 3, "convolutional filters=4", "avgpool", "softmax"), "no detection head"),
        (HEADS["region"].replace("num=3", "num=3\ntree=9k.tree"), r"layer 2 \(region.*tree"),
        (net(8, 8, 3, "convolutional filters=27 size=1", "region classes=3 coords=5 num=3"), "coords=5"),
        (net(8, 8, 3, "convolutional filters=8 size=1", "yolo classes=3 num=1", "convolutional filters=8",
             "yolo classes=3 num=1"), "detection head that another layer reads"),
        (net(8, 8, 3, "convolutional filters=8 size=1", "yolo classes=3 num=1", "route layers=0",
             "convolutional filters=9", "yolo classes=4 num=1"), r"different numbers of classes \(\[3, 4\]\)"),
    ],
)  # fmt: skip
def test_networks_that_a_form_does_not_fit_are_refused(text: str, message: str, tmp_path: Path) -> None:
    known = text.replace("tree=9k.tree", "").replace("coords=5", "coords=4").replace("filters=27", "filters=24")
    data = random_weights(known, seed=3)
    if known.count("filters") == 1 and "coords=5" in text:  # three more filters of three weights and a bias each
        data += bytes(3 * 4 * 4)
    with open_text(text, data, tmp_path) as weights, pytest.raises(ExportError, match=message):
        build_onnx(weights, ExportOptions(outputs="boxes"))


def test_a_tree_does_not_keep_raw_heads_from_being_written(tmp_path: Path) -> None:
    text = HEADS["region"]
    with open_text(text.replace("num=3", "num=3\ntree=9k.tree"), random_weights(text, seed=3), tmp_path) as weights:
        assert "heads" not in build_onnx(weights, ExportOptions()).metadata


def test_heads_that_take_the_same_map_have_outputs_of_their_own(tmp_path: Path) -> None:
    head = "yolo classes=1 num=1 mask=0"
    text = net(8, 8, 3, "convolutional filters=6", head, "route layers=0", head)
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        got = run(build_onnx(weights, ExportOptions()), images_for(text, 1))
    assert list(got) == ["000_convolutional", "003_yolo"]
    assert np.array_equal(*got.values())


def test_a_classifier_gives_its_probabilities(tmp_path: Path) -> None:
    text = net(8, 8, 3, CONV, "convolutional filters=5 activation=linear", "avgpool", "softmax", "cost")
    data, images = random_weights(text, seed=3), images_for(text, 2)
    reference = load(text, data)
    with open_text(text, data, tmp_path) as weights:
        got = run(build_onnx(weights, ExportOptions(batch=2)), images)
    assert list(got) == ["003_softmax"]
    for values, image in zip(got["003_softmax"], images, strict=True):
        assert relative(values, forward(reference, image)[3]) <= 1e-5


def test_a_suppression_that_differs_from_darknets_is_said(tmp_path: Path) -> None:
    text = HEADS["new_coords"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        assert "nms_kind=diounms" in build_onnx(weights, ExportOptions(outputs="nms")).remarks[0]
        assert build_onnx(weights, ExportOptions(outputs="boxes")).remarks == ()


def test_weights_lie_beside_a_file_that_would_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = net(8, 8, 3, f"{CONV} filters=64", "convolutional filters=40 size=3 activation=linear")
    images = images_for(text, 1)
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions())
        write_onnx(network, tmp_path / "y.onnx")
        monkeypatch.setattr(file, "MAX_PROTO", 0)
        write_onnx(network, tmp_path / "x.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.weights", "x.onnx", "x.onnx.data", "y.onnx"]
    assert (tmp_path / "x.onnx").stat().st_size < 10_000
    onnx.checker.check_model(str(tmp_path / "x.onnx"), full_check=True)
    for (name, beside), inside in zip(
        run(tmp_path / "x.onnx", images).items(), run(tmp_path / "y.onnx", images).values(), strict=True
    ):
        assert np.array_equal(beside, inside), name


def test_what_is_written_is_what_the_library_would_write(tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        write_onnx(build_onnx(weights, ExportOptions()), tmp_path / "x.onnx")
        assert onnx.load(str(tmp_path / "x.onnx")) == complete(build_onnx(weights, ExportOptions()))


def test_nothing_is_left_behind_or_overwritten(tmp_path: Path) -> None:
    text = HEADS["yolo"]
    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions())
        (tmp_path / "x.onnx").write_text("mine")
        with pytest.raises(OutputError, match="exists"):
            write_onnx(network, tmp_path / "x.onnx")
        with pytest.raises(OutputError, match="exists"):
            write_onnx(network, tmp_path / "net.weights")
    text = net(8, 8, 3, f"{CONV} filters=64", "convolutional filters=40 size=3 activation=linear")
    data = bytearray(random_weights(text, seed=3))
    data[-8:] = np.array([np.nan, 1], "<f4").tobytes()
    with open_text(text, bytes(data), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions())
        with pytest.raises(ExportError, match="001_convolutional/weights: holds values that are NaN"):
            write_onnx(network, tmp_path / "z.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.weights", "x.onnx"]
    assert (tmp_path / "x.onnx").read_text() == "mine"


def test_a_file_that_fails_its_check_never_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_PROTO", 0)
    path = tmp_path / "x.onnx"
    text = net(8, 8, 3, f"{CONV} filters=64", "convolutional filters=40 size=3 activation=linear")

    def make(check: bool = True, overwrite: bool = False) -> None:
        with checked_file(path, overwrite=overwrite) as made:
            write_onnx(network, made)
            run(made, images_for(text, 1))
            if not check:
                raise ExportError("wrong")

    with open_text(text, random_weights(text, seed=3), tmp_path) as weights:
        network = build_onnx(weights, ExportOptions())
        with pytest.raises(ExportError, match="wrong"):
            make(check=False)
        assert [file.name for file in tmp_path.iterdir()] == ["net.weights"]
        make()
        with pytest.raises(OutputError, match=r"x\.onnx: exists"):
            make()
        make(overwrite=True)
        path.unlink()
        with pytest.raises(OutputError, match=r"x\.onnx\.data: exists"):
            make()
        assert not path.exists()
        make(overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.weights", "x.onnx", "x.onnx.data"]
    run(path, images_for(text, 1))


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_files_of_other_tools_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    if content is None:
        model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
        onnx.save(model, str(path))
    else:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"other\.onnx"):
        facts_of_file(path)


def checkpoints() -> list[Path]:
    return sorted(CHECKPOINTS.glob("*"))


def open_checkpoint(folder: Path) -> NetworkWeights:
    (cfg,), (weights,) = folder.glob("*.cfg"), folder.glob("*.weights")
    return open_pair(cfg, weights)


def picture(weights: NetworkWeights) -> np.ndarray:
    """dog.jpg in the network's input form."""
    shape = weights.graph.net.input
    flag = cv2.IMREAD_GRAYSCALE if shape.c == 1 else cv2.IMREAD_COLOR
    image = cv2.resize(cv2.imread(str(IMAGES / "dog.jpg"), flag), (shape.w, shape.h))
    planes = image[None] if shape.c == 1 else image[..., ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(planes[None], np.float32) / 255


@pytest.mark.skipif(not checkpoints(), reason="the real checkpoints are not here")
@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_real_checkpoints_in_every_form(folder: Path, tmp_path: Path) -> None:
    (cfg,), (path,) = folder.glob("*.cfg"), folder.glob("*.weights")
    with open_checkpoint(folder) as weights:
        image = picture(weights)
        maps = head_maps(cfg.read_text(), path.read_bytes(), image)
        for form in FORMS:
            options = ExportOptions("workstation", outputs=form, limits=Suppression(0.1, 0.45, 300))
            network = build_onnx(weights, options)
            check_structure(network, weights.graph)
            write_onnx(network, tmp_path / f"{form}.onnx")
            agreement = verify_onnx(tmp_path / f"{form}.onnx", weights.graph, lambda _: maps, image)
            assert agreement.agrees, (form, agreement.deviations)


@pytest.mark.skipif(not checkpoints(), reason="the real checkpoints are not here")
@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
@pytest.mark.parametrize("opset", [11, 13])
def test_opencv_reads_raw_heads(folder: Path, opset: int, tmp_path: Path) -> None:
    with open_checkpoint(folder) as weights:
        write_onnx(build_onnx(weights, ExportOptions(opset=opset)), tmp_path / "x.onnx")
        image = picture(weights)
    expected = run(tmp_path / "x.onnx", image)
    reader = cv2.dnn.readNetFromONNX(str(tmp_path / "x.onnx"))
    reader.setInput(image)
    for name, values in zip(expected, reader.forward(list(expected)), strict=True):
        assert relative(values, expected[name]) <= 1e-4
