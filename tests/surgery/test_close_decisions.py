"""Decisions where little makes the difference: scores close to a threshold, carriers that serve more than one layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference import random_weights

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import build_graph, read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.voting import Marks, Members, merge
from darkprune.surgery.units import choose_units, find_units

from .cutting import make, opened
from .networks import cfg, tensors_of

CONV = "convolutional size=1 batch_normalize=1 activation=leaky filters={}"
THICK = "convolutional size=3 pad=1 batch_normalize=1 activation=leaky filters={}"
HEAD = "convolutional size=1 activation=linear filters=2"


@pytest.mark.parametrize("how", ["mean", "max"])
def test_merged_scores_are_compared_with_the_threshold_itself(how: str) -> None:
    """Two coupled convolutions; their mean (or largest) score lies 1 % below, 1 % above, or at the threshold."""
    channels = map_channels(build_graph(parse_cfg(cfg(CONV.format(4), CONV.format(4), "shortcut from=-2", HEAD))))
    threshold = 0.6
    wanted = np.array([0.99, 1.01, 1.0, 1.0]) * threshold
    spread = np.array([0.2, 0.2, 0.0, 0.0])
    scores = np.concatenate([wanted - spread, wanted + spread] if how == "mean" else [wanted - 2 * spread, wanted])
    members = Members(
        layer=np.repeat([0, 1], 4),
        channel=np.tile(np.arange(4), 2),
        label=np.concatenate([channels.of_layer[0], channels.of_layer[1]]),
        pool=np.zeros(8, np.intp),
        score=scores,
        threshold_pool=np.zeros(8, np.intp),
    )
    # what both have marked or not is the opposite of what the scores say, except at the threshold, where it decides
    marked = np.tile([False, True, True, False], 2)
    keep, _ = merge(channels, members, Marks(marked, np.full(8, 0.5), np.array([threshold, -np.inf])), how)
    assert keep[channels.of_layer[0]].tolist() == [False, True, False, True]


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


def test_of_nested_units_one_is_chosen(tmp_path: Path) -> None:
    conv = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n\n"
    text = (
        "[net]\nwidth=16\nheight=16\nchannels=3\n\n" + 3 * conv + "[shortcut]\nfrom=-3\nactivation=linear\n\n" + conv
        + "[shortcut]\nfrom=0\nactivation=linear\n\n" + conv
    )  # fmt: skip
    (tmp_path / "nested.cfg").write_text(text)
    (tmp_path / "nested.weights").write_bytes(random_weights(text, np.random.default_rng(0)))
    with NetworkWeights(read_graph(tmp_path / "nested.cfg"), tmp_path / "nested.weights") as weights:
        assert [(unit.first, unit.last) for unit in find_units(weights.graph)] == [(1, 3), (1, 5)]
        assert len(choose_units(weights, 1)) == 1
        assert len(choose_units(weights, ratio=1.0)) == 1
        with pytest.raises(PlanError, match="has 1 residual units that can be cut out"):
            choose_units(weights, 2)
