"""Every opset that is written: operators in the form that each has, and the same numbers from all of them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from test_onnx_forms import HEADS, PLAIN, head_maps, images_for
from test_onnx_kinds import check_every_layer, open_text, random_weights

from darkprune.errors import ExportError
from darkprune.onnx.check import verify_onnx
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.options import OPSETS, ExportOptions

ALL = range(OPSETS[0], OPSETS[1] + 1)
#: operator -> opset from which it takes its axes as an input; an attribute before
AXES_AS_INPUT = {"ReduceSum": 13, "ReduceMax": 18, "ReduceMean": 18}


@pytest.mark.parametrize("opset", ALL)
@pytest.mark.parametrize(
    "name",
    [
        "maxpool", "deep padding", "maxpool_depth that does not divide", "upsample", "connected", "local", "crop",
        "detection", "reorder", "route",
        "activation relu6", "activation normalize_channels", "activation normalize_channels_softmax",
        "activation normalize_channels_softmax_maxval", "activation stair", "normalization",
    ],
)  # fmt: skip
def test_layers_agree_with_the_reference(name: str, opset: int, tmp_path: Path) -> None:
    model = check_every_layer(name, opset, tmp_path)
    for node in model.graph.node:
        if node.op_type in AXES_AS_INPUT:
            as_input = opset >= AXES_AS_INPUT[node.op_type]
            assert len(node.input) == (2 if as_input else 1), node.name
            assert any(attribute.name == "axes" for attribute in node.attribute) != as_input, node.name
        if node.op_type == "Resize":  # the region of interest, which is of no use here, may be left out from 13 on
            assert (node.input[1] == "") == (opset >= 13)


@pytest.mark.parametrize("opset", ALL)
@pytest.mark.parametrize("form", ["boxes", "deepstream", "nms"])
@pytest.mark.parametrize("name", ["Gaussian_yolo center", "region with softmax", "yolo"])
def test_heads_agree_with_the_reference(name: str, form: str, opset: int, tmp_path: Path) -> None:
    text, data = HEADS[name], random_weights(HEADS[name], seed=3)
    with open_text(text, data, tmp_path) as weights:
        network = build_onnx(weights, ExportOptions("workstation", opset, 2, form, (), PLAIN))
        write_onnx(network, tmp_path / "x.onnx")
        images = images_for(text, 2)
        agreement = verify_onnx(tmp_path / "x.onnx", weights.graph, lambda x: head_maps(text, data, x), images)
    onnx.checker.check_model(str(tmp_path / "x.onnx"), full_check=True)
    assert network.opset == opset
    assert max(agreement.deviations.values()) <= 1e-5
    assert agreement.agrees


@pytest.mark.parametrize("opset", [OPSETS[0] - 1, OPSETS[1] + 1])
def test_other_opsets_are_refused(opset: int, tmp_path: Path) -> None:
    with open_text(HEADS["yolo"], random_weights(HEADS["yolo"], seed=3), tmp_path) as weights:
        options = ExportOptions(opset=opset)
        with pytest.raises(ExportError, match=f"opset {opset}: for onnxruntime darkprune writes 11 to 20"):
            build_onnx(weights, options)


@pytest.mark.parametrize(("opset", "ir"), [(11, 6), (12, 7), (13, 7), (15, 8), (19, 9), (20, 9)])
def test_the_ir_version_is_the_lowest_that_has_the_opset(opset: int, ir: int, tmp_path: Path) -> None:
    with open_text(HEADS["yolo"], random_weights(HEADS["yolo"], seed=3), tmp_path) as weights:
        assert build_onnx(weights, ExportOptions(opset=opset)).model.ir_version == ir
