"""Every output form, precision, opset and batch: parsed and built by TensorRT for RTX on a processor, never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.onnx.options import OPSETS, ExportOptions
from darkprune.tensorrt.plan import plan_file
from tests.rtx.networks import FAMILY, PRECISIONS, needs_rtx, planned, write_file

pytestmark = needs_rtx


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Path]:
    graph = build_graph(parse_cfg(FAMILY, "family.cfg"))
    path = tmp_path_factory.mktemp("family") / "family.weights"
    with path.open("wb") as file:
        write_fresh(graph, file, seed=0, vary=True)
    return graph, path


CASES = [
    (precision, opset)
    for precision in PRECISIONS
    for opset in (11, 12, 13, 15, 17, 18, OPSETS[1])
    if precision != "int8" or opset >= 13  # DequantizeLinear per channel
]


@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize(("precision", "opset"), CASES)
@pytest.mark.parametrize("form", ["heads", "boxes", "deepstream"])
def test_builds(
    form: str, precision: str, opset: int, batch: int | None, family: tuple[Graph, Path], tmp_path: Path
) -> None:
    plan = planned(*family, tmp_path, precision, ExportOptions("workstation", opset, batch, form))
    assert plan.precision == precision
    assert sum(kernel.is_convolution for kernel in plan.kernels) == 11


@pytest.mark.parametrize("form", ["nms", "efficientnms"])
def test_suppression_is_parsed_as_far_as_the_library_goes(
    form: str, family: tuple[Graph, Path], tmp_path: Path
) -> None:
    graph, weights = family
    with NetworkWeights(graph, weights) as pair:
        write_file(pair, tmp_path / "x.onnx", "fp32", ExportOptions("workstation", outputs=form))
    plan = plan_file(tmp_path / "x.onnx")
    reasons = {
        "nms": "parsed; TensorRT for RTX has no kernel for NonMaxSuppression",
        "efficientnms": "TensorRT for RTX has no EfficientNMS_TRT",
    }
    assert plan.skipped == reasons[form]
    assert plan.to_json() == {"tensorrt_rtx": plan.version, "skipped": plan.skipped}
