"""The operator tables, and what the check finds."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from darkprune.errors import ExportError
from darkprune.targets import target, targets
from darkprune.tensorrt.operators import check_model, file_precision, operator_facts, tensor_types
from tests.engines.models import network

FACTS = operator_facts()
TABLES = FACTS["tables"]
TYPES = {
    "FP32": TensorProto.FLOAT,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP64": TensorProto.DOUBLE,
    "INT8": TensorProto.INT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
}


def model_of(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto] | None = None,
    outputs: list[tuple[str, int]] | None = None,
    kind: int = TensorProto.FLOAT,
    batch: int | str = 1,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [batch, 4, 8, 8])],
        [helper.make_tensor_value_info(name, type_, None) for name, type_ in outputs or [("y", kind)]],
        weights or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    return model


def test_every_table_names_its_source_and_only_known_types() -> None:
    known = set(TYPES) | {"UINT8", "FP8", "FP4", "INT4"}
    for table in TABLES.values():
        assert table["source"]["repository"]
        for operator, row in table["operators"].items():
            assert row["types"], operator
            assert set(row["types"]) <= known, operator
            assert onnx.defs.has(operator), operator
    assert set(FACTS["data_inputs"]) - {"note"} <= set(TABLES["10.3"]["operators"])


def test_what_darknet_needs_is_in_every_table() -> None:
    needed = "Conv LeakyRelu Softplus Tanh Mul Add Sigmoid Clip Concat Slice Resize MaxPool GlobalAveragePool Reshape"
    for table in TABLES.values():
        assert set(needed.split()) <= set(table["operators"])
    # known from reports of users: Mish as one node only from 10, HardSwish only from 8.5 (in fact opset 14)
    assert [name for name, table in TABLES.items() if "Mish" not in table["operators"]] == ["8.2", "8.5", "8.6"]
    assert "HardSwish" not in TABLES["8.2"]["operators"]
    assert "ScatterND" not in TABLES["8.2"]["operators"]


@pytest.mark.parametrize("name", list(targets()))
def test_a_plain_network_suits_every_target(name: str) -> None:
    assert check_model(network(), name) == []


def test_opset_and_ir_version_of_each_target() -> None:
    ceilings = {name: (item.opset[1], item.ir) for name, item in targets().items()}
    assert ceilings["jetson-nano"] == ceilings["tx2"] == ceilings["xavier"] == (13, 7)
    assert ceilings["orin"] == (17, 8)
    assert ceilings["thor"][0] == 24
    problems = check_model(network(opset=17, ir=10), "jetson-nano")
    assert problems == [
        "IR version 10: jetson-nano reads up to 7",
        "opset 17: jetson-nano reads 7 to 13",
    ]


def test_an_unknown_target_is_told() -> None:
    with pytest.raises(ExportError, match="choose one of jetson-nano"):
        target("nano")


def test_an_operator_that_one_generation_lacks() -> None:
    node = helper.make_node("Mish", ["x"], ["y"], "mish_1")
    assert check_model(model_of([node]), "thor") == []
    assert check_model(model_of([node]), "orin") == [
        "node 'mish_1' (Mish): TensorRT 8.6 has no such operator",
        "node 'mish_1' (Mish): TensorRT 8.5 has no such operator",
    ]


def test_int64_outputs_and_their_cure() -> None:
    boxes = numpy_helper.from_array(np.zeros((1, 5, 4), np.float32), "boxes")
    scores = numpy_helper.from_array(np.zeros((1, 2, 5), np.float32), "scores")
    most = numpy_helper.from_array(np.array([3], np.int64), "most")
    nms = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"], "nms")
    weights = [boxes, scores, most]
    found = check_model(model_of([nms], weights, [("kept", TensorProto.INT64)]), "jetson-nano")
    assert any("output 'kept': INT64" in line for line in found)
    cast = helper.make_node("Cast", ["kept"], ["y"], "cast", to=TensorProto.INT32)
    assert check_model(model_of([nms, cast], weights, [("y", TensorProto.INT32)]), "jetson-nano") == []


def test_resize_as_darknet_upsamples_and_as_it_does_not() -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")

    def upsample(**attributes: str) -> onnx.ModelProto:
        return model_of([helper.make_node("Resize", ["x", "", "scales"], ["y"], "up", **attributes)], [scales])

    good = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    assert check_model(upsample(**good), "jetson-nano") == []
    assert "mode=cubic" in check_model(upsample(**{**good, "mode": "cubic"}), "thor")[0]


def test_pooling_rules() -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y", "where"], "pool", kernel_shape=[2, 2], dilations=[2, 2])
    found = check_model(model_of([pool]), "thor")
    assert [line.split(": ", 1)[1] for line in found] == [
        "TensorRT 10.13 has no second output (indices)",
        "TensorRT 10.13 does not dilate pooling windows",
    ]


@pytest.mark.parametrize(
    ("zero", "good"),
    [(np.int8(0), True), (np.int8(3), False), (np.uint8(0), False), (None, False)],
)
def test_quantisation_is_symmetric(zero: np.generic | None, good: bool) -> None:
    weights = [numpy_helper.from_array(np.float32(0.1), "scale")]
    inputs = ["scale"]
    if zero is not None:
        weights.append(numpy_helper.from_array(np.asarray(zero), "zero"))
        inputs.append("zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *inputs], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", *inputs], ["y"], "dq"),
    ]
    assert (check_model(model_of(nodes, weights), "xavier") == []) is good


def test_an_int32_bias_of_onnxruntimes_quantiser_is_found() -> None:
    weights = [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int32(0), "zero"),
        numpy_helper.from_array(np.zeros(4, np.int32), "bias"),
    ]
    node = helper.make_node("DequantizeLinear", ["bias", "scale", "zero"], ["y"], "dq")
    assert any("does not take INT32" in line for line in check_model(model_of([node], weights), "xavier"))


@pytest.mark.parametrize(
    ("step", "problem"),
    [("DequantizeLinear", ""), ("Neg", "needs input 1 ('k') as an initializer or dequantised")],
)
def test_kernels_pass_through_pairs_in_every_generation(step: str, problem: str) -> None:
    inputs = ["w", "scale", "zero"] if step == "DequantizeLinear" else ["f"]
    nodes = [helper.make_node(step, inputs, ["k"], "made"), helper.make_node("Conv", ["x", "k", "b"], ["y"], "conv")]
    weights = [
        numpy_helper.from_array(np.ones((4, 4, 1, 1), np.int8), "w"),
        numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "f"),
        numpy_helper.from_array(np.float32(1), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
        numpy_helper.from_array(np.zeros(4, np.float32), "b"),
    ]
    for place in ("xavier", "orin"):
        found = [line for line in check_model(model_of(nodes, weights), place) if "8.2" in line]
        assert found == ([f"node 'conv' (Conv): TensorRT 8.2 {problem}"] if problem and place == "xavier" else [])
    computed = [*nodes, helper.make_node("Neg", ["b"], ["c"], "negated")]
    computed[1].input[2] = "c"
    assert any(
        "needs input 2 ('c') as an initializer" in line for line in check_model(model_of(computed, weights), "xavier")
    )


def test_inputs_that_must_be_initializers() -> None:
    node = helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"], "slice")
    numbers = {name: numpy_helper.from_array(np.array([0], np.int64), name) for name in ("starts", "ends", "axes")}
    assert check_model(model_of([node], list(numbers.values())), "jetson-nano") == []
    shape = helper.make_node("Shape", ["x"], ["axes"], "shape")
    found = check_model(model_of([shape, node], [numbers["starts"], numbers["ends"]]), "jetson-nano")
    assert found == ["node 'slice' (Slice): TensorRT 8.2 needs input 3 ('axes') as an initializer"]


def test_open_sizes() -> None:
    assert check_model(network(batch="n"), "orin") == []
    assert "open batch size" in check_model(network(batch="n"), "jetson-nano")[0]
    node = helper.make_node("Relu", ["x"], ["y"])
    model = model_of([node])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    assert check_model(model, "thor") == ["input 'x': open image size, a kit needs a fixed one"]


def nms_plugin(**attributes: float) -> onnx.ModelProto:
    whole = {
        "score_threshold": 0.25,
        "iou_threshold": 0.45,
        "max_output_boxes": 100,
        "background_class": -1,
        "score_activation": 0,
        "box_coding": 1,
        **attributes,
    }
    weights = [
        numpy_helper.from_array(np.zeros((1, 5, 4), np.float32), "boxes"),
        numpy_helper.from_array(np.zeros((1, 5, 2), np.float32), "scores"),
    ]
    outputs = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    node = helper.make_node("EfficientNMS_TRT", ["boxes", "scores"], outputs, "nms", domain="TRT", **whole)
    types = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    return model_of([node], weights, list(zip(outputs, types, strict=True)))


def test_the_nms_plugin() -> None:
    assert check_model(nms_plugin(), "jetson-nano") == []
    assert tensor_types(nms_plugin().graph)["num_dets"] == "INT32"
    found = check_model(nms_plugin(class_agnostic=1), "orin")
    assert found == ["node 'nms' (EfficientNMS_TRT): the plugin of TensorRT 8.5 has no attribute 'class_agnostic'"]
    assert check_model(nms_plugin(class_agnostic=1), "thor") == []
    found = check_model(nms_plugin(max_output_boxes=3000), "jetson-nano")
    assert "considers 2000 boxes on jetson-nano" in found[0]
    assert check_model(nms_plugin(max_output_boxes=3000), "orin") == []


def test_what_a_file_is_written_in() -> None:
    assert file_precision(network()) == "fp32"
    assert file_precision(network(half=True)) == "fp16"
    assert file_precision(network(quantised=True)) == "int8"


# operators with one input that do not change its type, so that one node is a whole network
TEXT = """Abs Ceil CumSum Det Elu Erf Exp Floor HardSwish Identity LeakyRelu Log Mish Neg NonZero Reciprocal Relu Selu
Sigmoid Sinh Softplus Softsign Sqrt Tanh"""
UNARY = tuple(TEXT.split())


@settings(max_examples=150, deadline=None)
@given(
    operator=st.sampled_from(UNARY),
    kind=st.sampled_from(sorted(TYPES)),
    place=st.sampled_from([name for name, item in targets().items() if item.tensorrt]),
)
def test_one_node_is_refused_exactly_where_a_table_refuses_it(operator: str, kind: str, place: str) -> None:
    model = model_of([helper.make_node(operator, ["x"], ["y"], "n")], kind=TYPES[kind])
    refusing = []
    for generation in target(place).tensorrt:
        row = TABLES[generation]["operators"].get(operator)
        cast = "INT32" if kind == "INT64" and generation.startswith("8.") else kind
        if row is None or cast not in row["types"]:
            refusing.append(generation)
    found = [line for line in check_model(model, place) if line.startswith("node")]
    assert [line.split("TensorRT ")[1].split()[0] for line in found] == refusing
    assert all(f"node 'n' ({operator})" in line for line in found)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), place=st.sampled_from([name for name, item in targets().items() if item.tensorrt]))
def test_chains_have_the_problems_of_their_links(data: st.DataObject, place: str) -> None:
    chain = data.draw(st.lists(st.sampled_from(UNARY), min_size=1, max_size=6))
    names = ["x", *(f"t{index}" for index in range(len(chain)))]
    nodes = [helper.make_node(op, [a], [b], b) for op, a, b in zip(chain, names, names[1:], strict=False)]
    whole = set(check_model(model_of(nodes, outputs=[(names[-1], TensorProto.FLOAT)]), place))
    parts = set()
    for node in nodes:
        alone = helper.make_node(node.op_type, ["x"], ["y"], node.name)
        parts |= set(check_model(model_of([alone]), place))
    assert {line.split(" (")[0] for line in whole} == {line.split(" (")[0] for line in parts}
