"""All 87 cfgs of AlexeyAB's repository against what his program says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.weights import weights_bytes
from tests.assets import ABSENT, ZOO

TRUTH = ZOO / "truth.json"
pytestmark = pytest.mark.skipif(not TRUTH.is_file(), reason=ABSENT)
NETWORKS: list[dict[str, Any]] = json.loads(TRUTH.read_text("utf-8"))["networks"] if TRUTH.is_file() else []


def difference(graph: Graph, truth: dict[str, Any]) -> list[object]:
    """Layers that differ from the truth in kind, shape, number of values or operations."""
    found: list[object] = []
    for layer, (kind, *shape, bflops) in zip(graph, truth["layers"], strict=True):
        same_kind = layer.kind.names[0] == kind or kind in layer.kind.names
        if not same_kind or list(layer.output) != shape or abs(layer.bflops - bflops) > 0.6e-6:
            found.append((layer.index, layer.name, layer.output, layer.bflops, kind, shape, bflops))
    return found


def test_the_zoo_is_whole() -> None:
    assert len(NETWORKS) == 87
    assert {network["cfg"] for network in NETWORKS} == {path.name for path in ZOO.glob("*.cfg")}
    assert sum(not network["loads"] for network in NETWORKS) == 9


@pytest.mark.parametrize("truth", NETWORKS, ids=[network["cfg"] for network in NETWORKS])
def test_shapes_operations_and_bytes(truth: dict[str, Any]) -> None:
    graph = read_graph(ZOO / truth["cfg"])
    assert len(graph) == truth["n_layers"]
    assert difference(graph, truth) == []
    assert weights_bytes(graph) == truth["weights_bytes"]
    assert graph.bflops == pytest.approx(truth["bflops_total"], abs=1e-3)
    assert graph.net.input.outputs == truth["net"]["inputs"]
    stops = [warning for warning in graph.warnings if "aborts" in warning or "stops" in warning]
    assert bool(stops) is not truth["loads"]
