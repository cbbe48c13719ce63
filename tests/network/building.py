"""Networks for these tests: small ones as text, with random weights, as graph, file and torch module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from reference import random_weights
from reference.test_against_darknet import CONV, net

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network, load_weights
from tests import assets

CHECKPOINTS = sorted(assets.CHECKPOINTS.glob("*"))
#: a detector with a bit of everything that matters
DETECTOR = net(
    32, 32, 3, f"{CONV} filters=8", "convolutional batch_normalize=1 filters=16 size=3 stride=2 pad=1 activation=mish",
    f"{CONV} filters=16", "shortcut from=-2", "route layers=-1 groups=2 group_id=1", "route layers=-1,3",
    "maxpool size=5 stride=1", "maxpool size=2 stride=2", f"{CONV} filters=8", "upsample", "route layers=-1,3",
    "convolutional filters=16 size=1 activation=linear", "yolo classes=3 mask=0,1 num=2 anchors=3,4,5,6",
    "route layers=8", "convolutional filters=16 size=1 activation=linear", "yolo classes=3 num=2 anchors=3,4,5,6",
)  # fmt: skip


def graph_of(text: str) -> Graph:
    """Builds a graph."""
    return build_graph(parse_cfg(text, "net.cfg"))


def open_text(text: str, folder: Path, data: bytes | None = None) -> NetworkWeights:
    """Opens a pair that exists as text and bytes (random ones by default)."""
    path = folder / "net.weights"
    path.write_bytes(random_weights(text, seed=7) if data is None else data)
    return NetworkWeights(graph_of(text), path)


def loaded(text: str, folder: Path, **options: bool) -> Network:
    """Makes a network with random weights, in inference."""
    with open_text(text, folder) as weights:
        network = Network(weights.graph, **options)
        load_weights(network, weights)
    network.eval()
    return network


def images_for(graph: Graph, batch: int = 2, seed: int = 1) -> torch.Tensor:
    """Draws images."""
    shape = graph.net.input
    values = np.random.default_rng(seed).uniform(0, 1, (batch, shape.c, shape.h, shape.w))
    return torch.from_numpy(values.astype(np.float32))


def relative(ours: torch.Tensor | np.ndarray, theirs: torch.Tensor | np.ndarray) -> float:
    """The largest difference over the largest value."""
    a, b = (torch.as_tensor(values).detach().double().numpy().ravel() for values in (ours, theirs))
    assert a.size == b.size, (ours.shape, theirs.shape)
    return float(abs(a - b).max() / max(abs(b).max(), 1e-30))
