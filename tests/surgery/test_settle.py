"""Widths that can be: floors, multiples, equal blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.channels import ChannelMap, map_channels
from darkprune.graph.graph import build_graph
from darkprune.selection.constraints import Limits, Settled, settle

from .networks import Network, cfg, networks

CONV = "convolutional size=1 activation=leaky filters={}"
HEAD = "convolutional size=1 activation=linear filters=2"


def channels_of(text: str) -> ChannelMap:
    return map_channels(build_graph(parse_cfg(text, "net.cfg")))


def settled(text: str, kept: dict[int, list[int]], **limits: int) -> tuple[ChannelMap, Settled]:
    """Settles a wish of kept channels per layer; the dearest channels are the first ones."""
    channels = channels_of(text)
    keep = np.ones(channels.count, bool)
    for layer, positions in kept.items():
        keep[channels.of_layer[layer]] = False
        keep[channels.of_layer[layer][positions]] = True
    priority = -np.arange(channels.count, dtype=float)
    return channels, settle(channels, keep, priority, Limits(**{"min_channels": 1, **limits}))


def kept_in(channels: ChannelMap, result: Settled, layer: int) -> list[int]:
    return np.flatnonzero(result.keep[channels.of_layer[layer]]).tolist()


@pytest.mark.parametrize(
    ("width", "limits", "floor"),
    [(4, {}, 4), (8, {}, 8), (100, {}, 8), (801, {}, 9), (2048, {}, 21), (4, {"min_channels": 1}, 1),
     (1000, {"min_channels": 1}, 10), (20, {"min_channels": 16}, 16), (1, {"min_channels": 16}, 1)],
)  # fmt: skip
def test_floor(width: int, limits: dict[str, int], floor: int) -> None:
    assert Limits(**limits).floor(width) == floor


def test_floor_gives_back_the_dearest() -> None:
    channels, result = settled(cfg(CONV.format(12), HEAD), {0: [11]}, min_channels=4)
    assert kept_in(channels, result, 0) == [0, 1, 2, 11]
    assert result.at_floor == (0,)
    assert not result.rounded.any()


def test_no_layer_reaches_zero() -> None:
    channels, result = settled(cfg(CONV.format(12), HEAD), {0: []})
    assert kept_in(channels, result, 0) == [0]


def test_round_to_goes_up_and_says_what_it_gave_back() -> None:
    channels, result = settled(cfg(CONV.format(12), HEAD), {0: [0, 3, 5, 7, 11]}, round_to=4)
    assert kept_in(channels, result, 0) == [0, 1, 2, 3, 4, 5, 7, 11]
    assert np.flatnonzero(result.rounded).tolist() == [1, 2, 4]
    _, all_of_it = settled(cfg(CONV.format(6), HEAD), {0: [0, 1, 2, 3, 4]}, round_to=4)
    assert all_of_it.keep.all()  # the next multiple is more than there is


def test_each_atom_of_a_concatenation_is_rounded() -> None:
    # layer 3 adds to both halves of the route: two atoms make its width
    text = cfg(CONV.format(6), CONV.format(10), "route layers=0,1", CONV.format(16), "shortcut from=-2", HEAD)
    channels, result = settled(text, {0: [0], 1: [0, 1, 2, 3, 4]}, round_to=4)
    assert [len(kept_in(channels, result, layer)) for layer in (0, 1, 3)] == [4, 8, 12]


def test_slices_keep_equal_counts() -> None:
    text = cfg(CONV.format(8), "route layers=-1 groups=2 group_id=1", CONV.format(4), "route layers=0", HEAD)
    channels, result = settled(text, {0: [0, 1, 2, 7]})
    assert kept_in(channels, result, 0) == [0, 1, 2, 4, 5, 7]
    channels, result = settled(text, {0: [0, 1, 2, 7]}, round_to=2)
    assert kept_in(channels, result, 0) == list(range(8))  # 4 of each slice: a slice is a multiple


def test_blocks_of_a_grouped_convolution_are_rounded_together() -> None:
    grouped = "convolutional size=1 groups=4 filters=16 activation=leaky"
    text = cfg(CONV.format(32), grouped, HEAD)
    channels, result = settled(text, {0: [0, 8, 9, 10, 16, 24], 1: [0, 4, 5, 8, 12]}, round_to=8)
    # 3 per block would be 12: up to 4, which is 16; the filters 2 per block, which is 8
    assert [len(kept_in(channels, result, layer)) for layer in (0, 1)] == [16, 8]
    kept = np.array(kept_in(channels, result, 0))
    assert np.bincount(kept // 8).tolist() == [4, 4, 4, 4]


def test_nested_blocks_settle_together() -> None:
    # layer 0 is read in halves by the route, and the second half in quarters by the grouped convolution
    text = cfg(
        CONV.format(16), "route layers=0 groups=2 group_id=1",
        "convolutional size=1 groups=4 filters=8 activation=leaky", "route layers=0", HEAD,
    )  # fmt: skip
    channels, result = settled(text, {0: [0, 1, 2, 8]})
    kept = np.array(kept_in(channels, result, 0))
    assert np.bincount(kept // 8).tolist() == [4, 4]
    assert np.bincount(kept[kept >= 8] // 2)[4:].tolist() == [1, 1, 1, 1]


def test_blocks_that_overlap_are_pinned() -> None:
    text = cfg(
        CONV.format(12), "route layers=0 groups=3 group_id=1", CONV.format(4), "route layers=0 groups=2 group_id=0",
        CONV.format(4), "route layers=0,2,4", HEAD,
    )  # fmt: skip
    channels = channels_of(text)
    reasons = {channels.pinned[number] for number in channels.of_layer[0].tolist()}
    assert all("overlap without nesting" in reason[0] for reason in reasons)
    assert "layers 1 and 3" in next(iter(reasons))[0]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**20), st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_settled_widths_of_random_networks(network: Network, seed: int, round_to: int, least: int) -> None:
    channels = channels_of(network.text)
    assume(channels.free.any())
    random = np.random.default_rng(seed)
    wish = ~channels.free | (random.random(channels.count) < random.uniform(0, 1))
    limits = Limits(least, round_to)
    result = settle(channels, wish, random.normal(size=channels.count), limits)
    keep = result.keep
    assert (keep | ~wish).all()  # channels are only given back
    assert (keep & ~wish >= result.rounded).all()
    for layer in channels.producers:
        classes = channels.of_layer[layer]
        assert keep[classes].sum() >= limits.floor(len(classes))
    for split in channels.splits:
        counts = np.where(split.classes < 0, True, keep[split.classes]).sum(axis=1)
        assert len(set(counts.tolist())) == 1
        whole = (split.classes < 0).any() or keep[split.classes].all()
        number = len(counts) if split.aligned_total else 1
        assert whole or counts[0] * number % round_to == 0 or counts[0] == split.classes.shape[1]
    grouped = {c for split in channels.splits if split.aligned_total for c in split.classes.ravel().tolist()}
    for atom in channels.atoms:
        if int(atom[0]) not in grouped:
            kept = int(keep[atom].sum())
            assert kept % round_to == 0 or kept == len(atom)
    again = settle(channels, keep, random.normal(size=channels.count), limits)
    assert (again.keep == keep).all()
    assert not again.rounded.any()
