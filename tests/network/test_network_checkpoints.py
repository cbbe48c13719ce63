"""Real checkpoints against OpenCV's own Darknet reader."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from darkprune.network import Network, load_weights
from darkprune.runners import opencv_runner
from tests.assets import ABSENT, open_pair

from .building import CHECKPOINTS, images_for, relative

pytestmark = [
    pytest.mark.skipif(not CHECKPOINTS, reason=ABSENT),
    pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason="this OpenCV has no Darknet reader"),
]


READABLE = [folder for folder in CHECKPOINTS if folder.name != "yolo-fastest-1.1_160_person"]  # its relu6 is not


@pytest.mark.parametrize("folder", READABLE, ids=lambda folder: folder.name)
def test_opencv_agrees_layer_by_layer(folder: Path) -> None:
    (cfg,), (path,) = folder.glob("*.cfg"), folder.glob("*.weights")
    with open_pair(cfg, path) as weights:
        network = Network(weights.graph, channels_last=True).eval()
        load_weights(network, weights)
    theirs = opencv_runner.load(network.graph, path)
    image = images_for(network.graph, batch=1)
    maps = theirs.outputs(np.asarray(image[0]))
    assert len(maps) > len(network.graph) // 2
    with torch.inference_mode():
        taps = network(image, taps=maps).taps
    worst = max(relative(taps[index], values) for index, values in maps.items())
    assert worst <= 1e-4
