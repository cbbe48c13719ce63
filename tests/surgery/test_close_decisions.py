"""Decisions where little makes the difference: scores close to a threshold, carriers that serve more than one layer."""

from __future__ import annotations

import numpy as np

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import build_graph
from darkprune.selection.voting import Marks, Members, merge

from .cutting import make, opened
from .networks import cfg, tensors_of

CONV = "convolutional size=1 batch_normalize=1 activation=leaky filters={}"
THICK = "convolutional size=3 pad=1 batch_normalize=1 activation=leaky filters={}"
HEAD = "convolutional size=1 activation=linear filters=2"


def test_a_depthwise_score_counts_as_one_member() -> None:
    """The mean over two convolutions and a depthwise one: each has the same weight."""
    depthwise = "convolutional size=3 pad=1 groups=4 filters=4 batch_normalize=1 activation=leaky"
    text = cfg(CONV.format(4), depthwise, CONV.format(4), "shortcut from=-2", HEAD)
    channels = map_channels(build_graph(parse_cfg(text)))
    labels = np.concatenate([channels.of_layer[layer] for layer in (0, 1, 2)])
    assert (channels.of_layer[0] == channels.of_layer[1]).all()
    scores = np.repeat([[0.9], [0.1], [0.5]], 4, 1).ravel()  # mean 0.5
    members = Members(
        layer=np.repeat([0, 1, 2], 4),
        channel=np.tile(np.arange(4), 3),
        label=labels,
        pool=np.repeat([0, -1, 0], 4),
        score=scores,
        threshold_pool=np.zeros(12, np.intp),
    )
    for threshold, stays in ((0.495, True), (0.505, False)):
        marks = Marks(np.zeros(12, bool), np.full(12, 0.5), np.array([threshold, -np.inf]))
        keep, _ = merge(channels, members, marks, "mean")
        assert set(keep[channels.of_layer[0]].tolist()) == {stays}


def test_one_carrier_serves_as_many_consumers_as_it_can() -> None:
    """A consumer of both producers, and one of the second alone: a channel of the second is enough."""
    text = cfg(
        THICK.format(8), "route layers=-1", CONV.format(8), "route layers=0,2", THICK.format(4),
        "route layers=2", THICK.format(4), "route layers=4,6", HEAD,
    )  # fmt: skip
    with opened(text, tensors_of(text, {})) as pair:
        plan = make(pair, ratio=0.5, min_channels=1, compensate="carrier").plan
    carriers = {layer: len(entry[2]) for layer, entry in plan.layers.items()}
    assert {layer: count for layer, count in carriers.items() if count} == {2: 1}
