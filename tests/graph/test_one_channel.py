"""Networks of one input channel, and layers of one channel: groups=1 on them is an ordinary convolution."""

from __future__ import annotations

import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.channels import depthwise_layers, map_channels
from darkprune.graph.graph import build_graph

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\npad=1\nactivation=leaky\n"


@pytest.mark.parametrize(
    ("depth", "filters"), [(1, (8, 4)), (3, (1, 8)), (1, (1, 8))], ids=["grayscale", "one filter", "both"]
)
def test_it_makes_channels_of_its_own(depth: int, filters: tuple[int, int]) -> None:
    text = f"[net]\nwidth=16\nheight=16\nchannels={depth}\n" + "".join(CONV.format(count) for count in filters)
    found = map_channels(build_graph(parse_cfg(text + CONV.format(2))))
    assert depthwise_layers(found) == ()
    for layer, count in enumerate(filters):
        assert layer in found.producers
        assert len(np.unique(found.of_layer[layer])) == count
        assert found.free[found.of_layer[layer]].all()
    assert not set(found.of_layer[0].tolist()) & set(found.of_layer[1].tolist())
