"""Real networks and images that tests use where they are at hand; tests/README.md says how to get them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from darkprune.graph.graph import read_graph
from darkprune.graph.weights import NetworkWeights

ASSETS = Path(os.environ.get("DARKPRUNE_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
CHECKPOINTS = ASSETS / "checkpoints"
IMAGES = ASSETS / "images"
ZOO = ASSETS / "zoo"
COCO_VAL = ASSETS / "data" / "coco_val"
#: small inputs that reproduce public reports
CASES = ASSETS.parent / "cases"
BCCD = ASSETS / "data" / "bccd"

ABSENT = "no real networks and images here: tests/README.md says how to get them"
needs_assets = pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason=ABSENT)
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the inputs of public reports are not here")


def open_pair(cfg: Path, weights: Path) -> NetworkWeights:
    """Reads a cfg and opens its weights."""
    return NetworkWeights(read_graph(cfg), weights)
