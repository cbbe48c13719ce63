"""Real checkpoints, full-size networks and the zoo's cfgs: parsed and built by TensorRT for RTX, never run."""

from __future__ import annotations

from pathlib import Path

import pytest

import darkprune as dp
from darkprune.errors import DarkpruneError
from darkprune.graph.graph import read_graph
from darkprune.onnx.options import ExportOptions, LeftOut
from darkprune.tensorrt.plans import PlannedNetwork, with_widths
from tests.assets import ASSETS, CHECKPOINTS, needs_assets
from tests.rtx.networks import PRECISIONS, check_plan, needs_rtx, planned

pytestmark = [needs_rtx, pytest.mark.slow]
REAL = sorted(path.name for path in CHECKPOINTS.glob("*")) if CHECKPOINTS.exists() else ["(absent)"]
ZOO = sorted(path.name for path in (ASSETS / "zoo").glob("*.cfg")) if ASSETS.exists() else ["(absent)"]
OPTIONS = ExportOptions("workstation")


@needs_assets
@pytest.mark.parametrize("compensate", ["", "fold", "carrier"])
@pytest.mark.parametrize("name", REAL)
def test_checkpoints_plain_and_pruned(name: str, compensate: str, tmp_path: Path) -> None:
    pair = dp.load(CHECKPOINTS / name / f"{name}.cfg", CHECKPOINTS / name / f"{name}.weights")
    graph, weights = pair.graph, pair.weights_file
    if compensate:
        dp.prune(pair, dp.PruneSettings(ratio=0.3, compensate=compensate, force=True), output=tmp_path / "slim")
        graph, weights = read_graph(tmp_path / "slim" / f"{name}.cfg"), tmp_path / "slim" / f"{name}.weights"
    plans = {precision: planned(graph, weights, tmp_path, precision, OPTIONS) for precision in PRECISIONS}
    assert plans["fp16"].bytes_written < 0.75 * plans["fp32"].bytes_written


@needs_assets
def test_low_rank_pairs(tmp_path: Path) -> None:
    name = "yolov3-tiny_coco"
    pair = dp.load(CHECKPOINTS / name / f"{name}.cfg", CHECKPOINTS / name / f"{name}.weights")
    dp.factorize(pair, dp.FactorizeSettings(target_macs=0.7, target="rtx"), output=tmp_path / "slim")
    slim = dp.load(tmp_path / "slim" / f"{name}.cfg", tmp_path / "slim" / f"{name}.weights")
    assert len(slim.graph) > len(pair.graph)
    for precision in PRECISIONS:
        planned(slim.graph, slim.weights_file, tmp_path, precision, OPTIONS)
    assert dp.export(slim, tmp_path / "slim.onnx", dp.ExportSettings(target="rtx", fp32=True)).comparison.agrees


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(
    "name", ["yolov3", "yolov4", "yolov4-csp", "yolov4-tiny", "mobilenet-yolov3-voc", "yolov3-spp"]
)
def test_full_size(name: str, precision: str) -> None:
    graph = dp.load(f"builtin:{name}").graph
    quantised = sum(layer.name == "convolutional" and not layer.is_depthwise for layer in graph) - 1 - len(graph.heads)
    check_plan(PlannedNetwork(graph, OPTIONS, precision, LeftOut()).plan(), quantised, raw_heads=True)


def test_odd_widths_cost_copies_and_multiples_of_8_do_not(tmp_path: Path) -> None:
    original = dp.load("builtin:yolov4-tiny")
    dp.init(original, tmp_path / "fresh.weights", dp.InitSettings(vary=True))
    pair = dp.load("builtin:yolov4-tiny", tmp_path / "fresh.weights")
    cut = {
        multiple: dp.prune(pair, dp.PruneSettings(ratio=0.3, round_to=multiple, force=True)).graph
        for multiple in (1, 8)
    }
    plans = {
        name: PlannedNetwork(graph, OPTIONS, "fp16", LeftOut()).plan()
        for name, graph in (("whole", original.graph), ("odd", cut[1]), ("round", cut[8]))
    }
    assert len(plans["round"].kernels) <= len(plans["whole"].kernels) < len(plans["odd"].kernels)
    assert plans["round"].copies <= plans["whole"].copies < plans["odd"].copies
    assert plans["odd"].bytes_written > 0.95 * plans["whole"].bytes_written  # half of the operations, all of the maps
    assert plans["round"].bytes_written < 0.85 * plans["whole"].bytes_written


@needs_assets
@pytest.mark.parametrize("name", ZOO)
def test_every_cfg_that_exports(name: str) -> None:
    """With an eighth of the channels, so that writing and building take a moment; the wiring is the same."""
    try:
        graph = read_graph(ASSETS / "zoo" / name)
        narrow = with_widths(graph, lambda width: max(8, width // 8 // 8 * 8))
        if narrow is None:
            pytest.skip("its widths do not divide")
        plan = PlannedNetwork(narrow, OPTIONS, "fp16", LeftOut()).plan()
    except DarkpruneError as error:
        if "network.onnx" in str(error):  # it was written, and TensorRT refuses it
            raise
        pytest.skip(f"is not exported: {error}")
    assert plan.kernels
