"""Channel labels: what is coupled, what has to split equally, what stays and why."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.channels import ChannelMap, depthwise_layers, map_channels, removed_in
from darkprune.graph.graph import build_graph, read_graph

ROOT = Path(__file__).parents[2]


def channels(*sections: str, size: str = "16 16 3") -> ChannelMap:
    """Maps a network given as `name key=value …` per layer; `conv8` is a convolution of 8 filters."""
    width, height, depth = size.split()
    lines = ["[net]", f"width={width}", f"height={height}", f"channels={depth}"]
    for section in sections:
        name, *keys = section.split()
        if name.startswith("conv") and name[4:].isdigit():
            keys = [f"filters={name[4:]}", "batch_normalize=1", "activation=leaky", *keys]
            name = "convolutional"
        lines += [f"[{name}]", *keys]
    return map_channels(build_graph(parse_cfg("\n".join(lines))))


def published(name: str) -> ChannelMap:
    return map_channels(read_graph(ROOT / "cfg" / f"{name}.cfg"))


def reasons(found: ChannelMap, layer: int) -> set[str]:
    """Reasons for which any channel of a layer stays; empty if all are free."""
    return {reason for number in found.of_layer[layer].tolist() if number >= 0 for reason in found.pinned[number]}


def pinned_layers(found: ChannelMap) -> set[int]:
    return {layer for layer in found.producers if reasons(found, layer)}


# ---- published networks


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("yolov4", [(4, 6), (14, 16, 19), (27, *range(29, 51, 3)), (58, *range(60, 82, 3)), (89, *range(91, 101, 3))]),
        ("yolov3", [(1, 3), (5, 7, 10), (12, *range(14, 36, 3)), (37, *range(39, 61, 3)), (62, *range(64, 74, 3))]),
        ("yolov4-csp",
         [(1, 3), (8, 10, 13), (21, *range(23, 45, 3)), (52, *range(54, 76, 3)), (83, *range(85, 95, 3))]),
        ("yolov4-tiny", []),
        ("yolov3-tiny", []),
        ("mobilenet-yolov3-voc", []),
    ],
)  # fmt: skip
def test_coupled_sets_of_published_networks(name: str, sets: list[tuple[int, ...]]) -> None:
    assert list(published(name).coupled_sets) == sets


def test_only_the_predictions_of_yolov4_are_pinned() -> None:
    found = published("yolov4")
    assert pinned_layers(found) == {138, 149, 160}
    assert reasons(found, 138) == {"read by [yolo]", "an output of the network"}
    assert sum(not free for free in found.free) == 3 * 255
    assert found.splits == ()
    assert found.followers == frozenset()


def test_route_slices_of_yolov4_tiny_split_equally() -> None:
    found = published("yolov4-tiny")
    assert [(split.layer, split.classes.shape, split.aligned_total) for split in found.splits] == [
        (3, (2, 32), False),
        (11, (2, 64), False),
        (19, (2, 128), False),
    ]
    for split, source in zip(found.splits, (2, 10, 18), strict=True):
        np.testing.assert_array_equal(split.classes.ravel(), found.of_layer[source])
        np.testing.assert_array_equal(split.classes[1], found.of_layer[split.layer])  # group_id=1


def test_depthwise_convolutions_pass_channels_on() -> None:
    found = published("mobilenet-yolov3-voc")
    layers = depthwise_layers(found)
    assert [layer.index for layer in layers] == list(range(1, 27, 2))
    for layer in layers:
        np.testing.assert_array_equal(found.of_layer[layer.index], found.of_layer[layer.sources[0]])
        assert layer.index not in found.producers
    assert found.splits == ()


# ---- kinds that pass on, join and cut


def test_passing_kinds_keep_labels() -> None:
    found = channels(
        "conv8", "maxpool size=2", "local_avgpool size=2", "upsample", "dropout", "empty", "batchnorm",
        "activation activation=relu", "crop crop_height=9 crop_width=9", "avgpool", "conv3",
    )  # fmt: skip
    for layer in range(1, 10):
        np.testing.assert_array_equal(found.of_layer[layer], found.of_layer[0])
    assert found.producers == (0, 10)
    assert found.free[:8].all()


def test_route_concatenates_in_its_own_order() -> None:
    found = channels("conv4", "conv3", "route layers=1,0,-1", "conv2")
    assert found.of_layer[2].tolist() == [4, 5, 6, 0, 1, 2, 3, 4, 5, 6]
    assert found.inputs(found.graph[3]).tolist() == found.of_layer[2].tolist()
    keep = np.array([True, False, False, True, False, True, True, True, True])
    assert found.kept_channels(keep, found.of_layer[2]).tolist() == [1, 2, 3, 6, 8, 9]
    assert found.inputs(found.graph[0]).tolist() == [-1, -1, -1]
    assert found.kept_channels(keep, found.inputs(found.graph[0])).tolist() == [0, 1, 2]


def test_route_slices_each_input_by_itself() -> None:
    found = channels("conv4", "conv6", "route layers=0,1 groups=2 group_id=1", "conv2")
    assert found.of_layer[2].tolist() == [2, 3, 7, 8, 9]
    assert [split.classes.tolist() for split in found.splits] == [[[0, 1], [2, 3]], [[4, 5, 6], [7, 8, 9]]]


def test_route_slices_through_a_channel_pin_it() -> None:
    found = channels("conv4", "conv5", "route layers=0,1 groups=2", "conv2")
    assert pinned_layers(found) == {0, 1, 2, 3}
    assert reasons(found, 1) == {"cut into 2 slices that do not divide its channels"}
    assert len(found.of_layer[2]) == found.graph[2].output.c == 4


@pytest.mark.parametrize(
    "join",
    ["shortcut from=0", "sam from=0", "shortcut from=0 weights_type=per_channel weights_normalization=relu"],
)
def test_sums_and_products_couple_channel_by_channel(join: str) -> None:
    found = channels("conv4", "conv4", join, "conv2")
    assert found.coupled_sets == ((0, 1),)
    assert found.of_layer[0].tolist() == found.of_layer[1].tolist() == found.of_layer[2].tolist() == [0, 1, 2, 3]
    assert found.followers == (frozenset({1}) if join.startswith("sam") else frozenset())


def test_a_sum_of_many_couples_all() -> None:
    found = channels("conv4", "conv4", "conv4", "shortcut from=0,1", "conv4", "shortcut from=-2", "conv2")
    assert found.coupled_sets == ((0, 1, 2, 4),)


def test_squeeze_and_excitation_follows_what_it_scales() -> None:
    found = channels("conv8", "avgpool", "conv2", "conv8", "scale_channels from=0", "conv2")
    assert found.coupled_sets == ((0, 3),)
    assert found.followers == frozenset({3})
    assert found.of_layer[4].tolist() == found.of_layer[0].tolist()


def test_the_channel_of_a_spatial_scale_stays() -> None:
    found = channels("conv8", "conv1", "scale_channels from=0 scale_wh=1", "conv2")
    assert reasons(found, 1) == {"the one channel of a spatial scale"}
    assert not reasons(found, 0)
    assert found.of_layer[2].tolist() == found.of_layer[0].tolist()


def test_implicit_values_follow_what_they_are_joined_with() -> None:
    found = channels("conv4", "implicit filters=4", "route layers=0", "conv4", "shortcut from=0", "conv2")
    assert found.followers == frozenset({1})


def test_shortcut_between_widths_pins_both() -> None:
    found = channels("conv4", "conv6", "shortcut from=0", "conv2")
    assert reasons(found, 0) == reasons(found, 1) == {"added by a [shortcut] to a map of another width"}


def test_whatever_is_added_to_the_input_stays() -> None:
    found = channels("dropout", "conv3", "shortcut from=0", "conv2")
    assert reasons(found, 1) == {"joined with the network's input"}
    assert found.of_layer[0].tolist() == [-1, -1, -1]


# ---- cells that move


def test_reorg_couples_blocks_of_four_and_spreads_them() -> None:
    found = channels("conv8", "reorg stride=2", "conv2", size="8 8 3")
    assert found.of_layer[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.of_layer[1].tolist() == [*[0] * 4, *[1] * 4] * 4
    keep = np.array([False, True, True, True])
    assert len(found.kept_channels(keep, found.of_layer[1])) == 16


def test_reorg3d_repeats_channels() -> None:
    found = channels("conv3", "reorg3d stride=2", "conv2", size="8 8 3")
    assert found.of_layer[1].tolist() == [0, 1, 2] * 4


def test_reversed_reorg_couples_what_ends_in_one_channel() -> None:
    found = channels("conv8", "reorg stride=2 reverse=1", "conv2", size="8 8 3")
    assert found.of_layer[0].tolist() == [0, 1] * 4
    assert found.of_layer[1].tolist() == [0, 1]


def test_reversed_reorg3d_pins() -> None:
    found = channels("conv16", "reorg3d stride=2 reverse=1", "conv2", size="8 8 3")
    assert reasons(found, 0) == {"read by a reorganisation that cuts channels apart"}
    assert reasons(found, 1) == {"made by a reorganisation that cuts channels apart"}


def test_reorg_of_channels_that_four_does_not_divide_pins() -> None:
    assert reasons(channels("conv6", "reorg stride=2", "conv2", size="8 8 3"), 0)


def test_maxpool_over_channels_couples_those_that_compete() -> None:
    found = channels("conv12", "maxpool maxpool_depth=1 out_channels=4", "conv2")
    assert found.of_layer[0].tolist() == [0, 1, 2, 3] * 3
    assert found.of_layer[1].tolist() == [0, 1, 2, 3]
    odd = channels("conv10", "maxpool maxpool_depth=1 out_channels=4", "conv2")
    assert reasons(odd, 0) == {"read by maxpool_depth, whose out_channels does not divide them"}


def test_connected_layers_make_channels_and_read_maps() -> None:
    found = channels("conv4", "connected output=6 activation=relu", "connected output=3", "softmax", size="4 4 3")
    assert found.producers == (0, 1, 2)
    assert pinned_layers(found) == {2}
    assert found.inputs(found.graph[1]).tolist() == [0, 1, 2, 3]
    # each channel owns a column block of rows x columns weights
    (weights,) = [blob for blob in found.graph[1].blobs if blob.name == "weights"]
    assert weights.axes[1].size == 4 * 16


# ---- grouped convolutions


def test_grouped_convolutions_split_input_and_output_equally() -> None:
    found = channels("conv8", "conv12 groups=4 size=3 pad=1", "conv2")
    assert [(s.layer, s.classes.shape, s.aligned_total) for s in found.splits] == [(1, (4, 2), True), (1, (4, 3), True)]
    assert found.splits[0].classes.ravel().tolist() == found.of_layer[0].tolist()
    assert found.splits[1].classes.ravel().tolist() == found.of_layer[1].tolist()
    assert pinned_layers(found) == {2}


def test_depthwise_multipliers_make_consecutive_copies() -> None:
    found = channels("conv3", "conv6 groups=3", "conv2")
    assert found.of_layer[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_blocks_that_nest_are_no_conflict() -> None:
    found = channels("conv8", "conv8 groups=4", "route layers=0", "conv8 groups=2", "conv2")
    assert len(found.splits) == 4
    assert found.free[found.of_layer[0]].all()


def test_blocks_that_overlap_without_nesting_pin() -> None:
    found = channels("conv6", "conv6 groups=3", "route layers=0", "conv6 groups=2", "route layers=1,3", "conv2")
    (reason,) = reasons(found, 0)
    assert reason.startswith("divided into blocks by layers 1 and 3, whose blocks overlap")
    assert pinned_layers(found) == {0, 5}


def test_one_channel_in_two_blocks_of_a_split_pins() -> None:
    found = channels("conv4", "route layers=0,0", "conv8 groups=2", "conv2")
    assert reasons(found, 0)
    assert not reasons(found, 2)


def test_atoms_have_one_signature_each() -> None:
    found = published("yolov4-tiny")
    members = np.concatenate(found.atoms)
    assert sorted(members.tolist()) == np.flatnonzero(found.free).tolist()
    halves = [atom for atom in found.atoms if set(atom.tolist()) <= set(found.of_layer[2].tolist())]
    assert [len(half) for half in halves] == [32, 32]


# ---- what stays


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ("yolo classes=3 num=1", "read by [yolo]"),
        ("region classes=3 num=1", "read by [region]"),
        ("softmax", "read by [softmax]"),
        ("cost", "read by [cost]"),
        ("normalization", "normalised by its neighbour channels ([normalization])"),
        ("local filters=2", "read by [local]"),
        ("crnn output=2", "read by [crnn], which has no channel rule"),
        ("rnn output=2", "read by [rnn], which has no channel rule"),
        ("gru output=2", "read by [gru], which has no channel rule"),
        ("lstm output=2", "read by [lstm], which has no channel rule"),
        ("conv_lstm output=2", "read by [conv_lstm], which has no channel rule"),
        ("history", "read by [history], which has no channel rule"),
        ("conv2 xnor=1", "read by a binary convolution, whose weights' scale depends on all of its inputs"),
        ("conv2 binary=1", "read by a binary convolution, whose weights' scale depends on all of its inputs"),
        ("activation activation=normalize_channels", "activation normalize_channels mixes the channels of a pixel"),
        ("maxpool size=2 antialiasing=1", "blurred after the pooling (antialiasing)"),
        ("conv2 dontload=1", "read or made by a layer whose tensors are not in the file (dontload)"),
    ],
)
def test_what_a_layer_reads_stays_with_a_reason(section: str, reason: str) -> None:
    assert reason in reasons(channels("conv8", section, "route layers=-1"), 0)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (
            "convolutional filters=8 activation=normalize_channels_softmax",
            "activation normalize_channels_softmax mixes",
        ),
        ("conv8 antialiasing=1", "blurred after the convolution"),
        ("local filters=2", "made by [local]"),
        ("conv_lstm output=2", "made by [conv_lstm]"),
        ("conv2 dontload=1", "read or made by a layer whose tensors are not in the file (dontload)"),
    ],
)
def test_what_a_layer_makes_stays_with_a_reason(section: str, reason: str) -> None:
    found = reasons(channels("conv8", section, "conv2"), 1)
    assert any(text.startswith(reason) for text in found), found


def test_outputs_of_the_network_stay() -> None:
    found = channels("conv4", "conv4", "route layers=0", "conv4")
    assert pinned_layers(found) == {1, 3}
    assert reasons(found, 1) == {"an output of the network"}


def test_layers_that_give_embeddings_stay() -> None:
    found = channels("conv8", "conv8", "conv8", "yolo classes=3 num=1 embedding_layer=0", "route layers=0")
    assert "read as embeddings by a [yolo] (embedding_layer)" in reasons(found, 0)
    assert not reasons(found, 1)


def test_shared_weights_couple_the_outputs_and_hold_both_inputs() -> None:
    shared = "conv8 size=3 pad=1 share_index=1"
    found = channels("conv8", "conv8 size=3 pad=1", "conv8", shared, "conv2")
    held = {"read by convolutions that share their weights"}
    assert reasons(found, 0) == reasons(found, 2) == held
    assert found.coupled_sets == ((1, 3),)
    assert not reasons(found, 1)
    assert not reasons(found, 3)


def test_every_layer_has_one_label_per_channel() -> None:
    for path in sorted((ROOT / "cfg").glob("*.cfg")):
        found = map_channels(read_graph(path))
        for layer in found.graph:
            assert len(found.of_layer[layer.index]) == layer.output.c
        assert found.count == len(set(found.class_of.tolist()))
        assert len(found.producer) == len(found.position) == len(found.class_of)
        for layer in found.producers:
            mine = found.producer == layer
            np.testing.assert_array_equal(found.class_of[mine], found.of_layer[layer])
            np.testing.assert_array_equal(found.position[mine], np.arange(mine.sum()))


def test_a_channel_takes_a_few_bytes() -> None:
    tracemalloc.start()
    try:
        found = channels(f"conv{1 << 18}", f"conv{1 << 18} groups={1 << 18}", "conv8")
        assert [len(atom) for atom in found.atoms] == [1 << 18]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * found.count


def test_widths_that_a_range_of_layers_loses() -> None:
    """Both ends count; followers (the factors of a squeeze-and-excitation branch) do not."""
    found = channels("conv4", "conv6", "avgpool", "conv6", "scale_channels from=1", "conv8")
    keep = np.ones(found.count, bool)
    for layer, count in ((0, 1), (1, 2), (5, 3)):
        keep[found.of_layer[layer][:count]] = False
    lost = {(0, 0): 1, (0, 1): 3, (1, 4): 2, (3, 3): 0, (1, 5): 5, (5, 5): 3}
    assert {ends: removed_in(found, keep, *ends) for ends in lost} == lost
