"""A small detector with all that recovery has to treat apart: depthwise, grouped, a shortcut behind dropout, a head."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from darkprune.darknet.weights import Header
from darkprune.graph.graph import read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network, initialise, save_weights
from darkprune.surgery.apply import Cut
from darkprune.surgery.plan import Plan
from darkprune.surgery.surgery import Surgery

DETECTOR = """[net]
width=32
height=32
channels=3
[convolutional]
filters=12
size=3
stride=2
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=24
size=1
batch_normalize=1
activation=leaky
[convolutional]
filters=24
groups=24
size=3
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=12
size=1
batch_normalize=1
activation=linear
[dropout]
probability=.2
[shortcut]
from=0
activation=linear
[convolutional]
filters=16
size=3
stride=2
pad=1
batch_normalize=1
activation=mish
[convolutional]
filters=16
groups=2
size=3
pad=1
activation=leaky
[maxpool]
size=3
stride=1
[convolutional]
filters=18
size=1
activation=linear
[yolo]
mask=0,1,2
anchors=4,4, 8,8, 16,16
classes=1
num=3
"""


def write_pair(folder: Path, text: str, seed: int = 0, edit: object = None) -> NetworkWeights:
    """Writes a cfg and random weights whose batch normalisation does something; `edit(network)` may change them."""
    cfg, path = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(text)
    graph = read_graph(cfg)
    network = Network(graph)
    initialise(network, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in network.layers:
            for name, low, high in (
                ("scales", 0.5, 1.5),
                ("biases", -0.3, 0.5),
                ("rolling_mean", -0.2, 0.2),
                ("rolling_variance", 0.2, 0.6),
            ):
                if isinstance(getattr(module, name, None), torch.Tensor):
                    getattr(module, name).uniform_(low, high, generator=generator)
        if callable(edit):
            edit(network)
    with path.open("wb") as file:
        save_weights(network, file, Header())
    return NetworkWeights(graph, path)


def write_images(folder: Path, count: int, size: int = 32, seed: int = 0) -> Path:
    """Writes smooth random images."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:03}.png"), cv2.resize(coarse, (size, size)))
    return folder


def surgery_of(weights: NetworkWeights, cut: Cut) -> Surgery:
    """Returns a surgery of a cut that no plan describes."""
    return Surgery(original=weights, plan=Plan("", "", ("", ""), {}, (), {}), cut=cut)
