"""Which channels go: ranks and thresholds, public masks, allocations, groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.weights import Header
from darkprune.errors import PlanError, UsageError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.groups import divide
from darkprune.graph.weights import NetworkWeights, weights_bytes
from darkprune.selection.allocation import RATIO_PRESETS, TABLE1, ratios_of
from darkprune.selection.decide import decide, rank
from darkprune.selection.importance import LayerScores, score_channels
from darkprune.selection.settings import Selection
from darkprune.selection.voting import Members, gather_members, mark, merge
from darkprune.surgery.result import PruneResult
from darkprune.surgery.surgery import Surgery
from darkprune.zoo import resolve

from .cutting import make, opened
from .networks import cfg, gammas, random_tensors, tensors_of

CONV = "convolutional size=1 batch_normalize=1 activation=leaky filters={}"
BARE = "convolutional size=1 activation=leaky filters={}"
HEAD = "convolutional size=1 activation=linear filters=2"


def members(layer: list[int], channel: list[int], pool: list[int], score: list[float]) -> Members:
    columns = (np.array(layer), np.array(channel), np.arange(len(layer)), np.array(pool), np.array(score))
    return Members(*columns, np.array(pool))


def removed(text: str, weights: bytes, **chosen: object) -> dict[int, list[int]]:
    """Returns layer -> channels that go, with a floor of one channel."""
    with opened(text, weights) as pair:
        decision = make(pair, **{"min_channels": 1, "ratio": 0.5, "groups": f"0-{len(pair.graph) - 1}", **chosen})
    return {
        layer: sorted(set(range(channels)) - set(kept)) for layer, (channels, kept, _) in decision.plan.layers.items()
    }


# ---- ranks and thresholds


def test_what_is_said_of_a_group_has_the_median_of_its_gammas() -> None:
    text = cfg(CONV.format(5), CONV.format(4), CONV.format(4), HEAD)
    given = gammas(text, _0=[1, 2, 8, 4, 16], _1=[1, 2, 8, 4], _2=[3, 3, 3, 3])
    with opened(text, given) as pair:
        groups = make(pair, ratio=0.2, min_channels=1, groups="0-0,1-1,2-3").plan.groups
    assert [group.median for group in groups] == [4, 3, 3]


@pytest.mark.parametrize(
    ("channels", "ratio", "count"), [(5, 0.5, 3), (4, 0.1, 0), (10, 0.25, 3), (5, 0.1, 1), (7, 0, 0), (3, 0.99, 3)]
)
def test_marked_count_rounds_half_up(channels: int, ratio: float, count: int) -> None:
    ranked = members([0] * channels, list(range(channels)), [0] * channels, list(np.arange(channels)[::-1] / 8))
    marks = mark(ranked, [ratio])
    assert marks.marked.tolist() == [i >= channels - count for i in range(channels)]
    assert marks.thresholds[0] == ((count - 1) / 8 if count else -np.inf)


def test_ties_go_by_layer_and_channel() -> None:
    ranked = members([7, 7, 3, 3, 3], [0, 1, 2, 0, 1], [0] * 5, [1, 1, 1, 1, 0.5])
    assert mark(ranked, [0.6]).marked.tolist() == [False, False, True, True, True]
    assert mark(ranked, [0.8]).marked.tolist() == [True, False, True, True, True]


def test_pools_are_ranked_apart_unless_global() -> None:
    ranked = members([0, 0, 5, 5], [0, 1, 0, 1], [0, 0, 2, 2], [1, 2, 3, 4])
    assert mark(ranked, [0.5, 0.5]).marked.tolist() == [True, False, True, False]
    assert mark(ranked, [0.5, 0]).marked.tolist() == [True, False, False, False]
    together = mark(ranked, [0.5, 0.5], one_pool=True)
    assert together.marked.tolist() == [True, True, False, False]
    assert together.thresholds.tolist() == [2, -np.inf, 2, -np.inf]


def test_members_without_a_pool_are_not_ranked() -> None:
    marks = mark(members([0, 0, 1], [0, 1, 0], [0, 0, -1], [1, 2, 0]), [0.5])
    assert marks.marked.tolist() == [True, False, False]
    assert np.isnan(marks.rank[2])
    together = mark(members([0, 0, 1], [0, 1, 0], [0, 0, -1], [1, 2, 0]), [0.5], one_pool=True)
    assert together.marked.tolist() == [True, False, False]


def test_sign_of_gamma_does_not_matter() -> None:
    text = cfg(CONV.format(4), HEAD)
    assert removed(text, gammas(text, _0=[-0.9, 0.1, -0.2, 0.8])) == {0: [1, 2]}


# ---- public masks

STREAM = cfg(CONV.format(4), CONV.format(4), "shortcut from=-2", CONV.format(4), "shortcut from=-2", HEAD)
STREAM_GAMMAS = gammas(STREAM, _0=[0.1, 0.2, 0.9, 0.95], _1=[0.3, 0.8, 0.4, 0.85], _3=[0.5, 0.7, 0.75, 0.6])


@pytest.mark.parametrize(
    ("merge", "gone"),
    [
        ("vote", [0]),  # marks per channel 3, 1, 1, 1 of 3
        ("any", [0, 1, 2]),  # all four are marked; the floor gives the dearest back
        ("all", [0]),
        ("mean", [0, 1]),  # means 0.3, 0.57, 0.68, 0.8; threshold 0.6
        ("max", [0]),  # largest 0.5, 0.8, 0.9, 0.95
    ],
)
def test_merges_of_three_members(merge: str, gone: list[int]) -> None:
    assert removed(STREAM, STREAM_GAMMAS, merge=merge) == {0: gone, 1: gone, 3: gone}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=12, max_size=12), st.sampled_from([0.2, 0.4, 0.5, 0.7]))
def test_two_members_vote_as_any(values: list[float], ratio: float) -> None:
    text = cfg(CONV.format(6), CONV.format(6), "shortcut from=-2", HEAD)
    weights = gammas(text, _0=values[:6], _1=values[6:])
    assert removed(text, weights, ratio=ratio) == removed(text, weights, ratio=ratio, merge="any")


@pytest.mark.parametrize(
    ("merge", "second", "third", "fourth", "ratio"),
    [
        ("mean", [0.3, 0.6, 0.882], [0.4, 0.7, 0.718], [2, 2, 2], 0.5),  # means 1 % below and above the threshold
        ("max", [0.2, 0.594, 0.594], [0.606, 0.606, 0.606], [0.6, 2, 2], 7 / 12),  # the same for the largest
    ],
)
def test_merged_scores_are_compared_exactly(
    merge: str, second: list[float], third: list[float], fourth: list[float], ratio: float
) -> None:
    columns = [[0.1, 0.1, 0.1], second, third, fourth]
    layers = {f"_{layer}": [column[i] for column in columns] for i, layer in enumerate((0, 1, 3))}
    gone = removed(STREAM, gammas(STREAM, **layers), merge=merge, ratio=ratio)
    assert gone == {0: [0, 1], 1: [0, 1], 3: [0, 1]}


def test_members_vote_by_the_threshold_of_their_own_group() -> None:
    ratios = {"groups": "0-1,2-5", "allocation": "explicit"}
    # in the first group the four lowest of eight are marked, in the second none or all but one of four
    few = removed(STREAM, STREAM_GAMMAS, ratios=(0.5, 0.0), **ratios)
    many = removed(STREAM, STREAM_GAMMAS, ratios=(0.5, 0.75), **ratios)
    assert few[0] == [0]  # marks 2, 1, 1, 0
    assert many[0] == [0, 1]  # marks 3, 2, 1, 1 (0, 1 and 3 of the second group)


def test_layers_outside_the_groups_hold_what_they_are_coupled_with() -> None:
    assert removed(STREAM, STREAM_GAMMAS, groups="0-1") == {}


def test_same_convolution_twice_through_a_concatenation() -> None:
    text = cfg(CONV.format(2), "route layers=-1,-1", CONV.format(4), "shortcut from=-2", HEAD)
    # a class is one channel of layer 0 and two of layer 2: three votes, two decide
    weights = gammas(text, _0=[0.9, 0.1], _2=[0.2, 0.8, 0.3, 0.7])
    assert removed(text, weights) == {0: [0], 2: [0, 2]}
    # one of three does not
    weights = gammas(text, _0=[0.1, 0.9], _2=[0.8, 0.2, 0.7, 0.3])
    assert removed(text, weights) == {0: [1], 2: [1, 3]}


def test_what_nobody_votes_on_is_dearest() -> None:
    text = cfg(CONV.format(4), CONV.format(4), HEAD)
    with opened(text, gammas(text, _0=[4, 3, 2, 1], _1=[1, 2, 3, 4])) as weights:
        channels, groups = map_channels(weights.graph), divide(weights.graph, "0-2")
        scores = {0: LayerScores(0, "gamma", np.array([4.0, 3.0, 2.0, 1.0]), voting=True)}
        ranked = gather_members(channels, scores, groups, frozenset())
        keep, priority = merge(channels, ranked, mark(ranked, [0.5]), "vote")
    assert keep.tolist() == [True, True, False, False] + [True] * 6
    assert priority.tolist() == [0.875, 0.625, 0.375, 0.125] + [np.inf] * 6


def test_priority_is_the_mean_rank_of_the_voters() -> None:
    with opened(STREAM, STREAM_GAMMAS) as weights:
        channels, groups = map_channels(weights.graph), divide(weights.graph, "0-5")
        ranked = gather_members(channels, score_channels(weights, channels, "bn_gamma"), groups, frozenset())
        priority = merge(channels, ranked, mark(ranked, [0.5]), "vote")[1]
    # of twelve: ranks 0, 2, 4; 1, 8, 6; 10, 3, 7; 11, 9, 5
    assert priority[:4] * 36 == pytest.approx([6 + 1.5, 15 + 1.5, 20 + 1.5, 25 + 1.5])


@pytest.mark.parametrize(("criterion", "norm"), [("l1", np.mean), ("l2", lambda w: np.sqrt(np.mean(w**2)))])
@pytest.mark.parametrize("flipped", [0, 1])
def test_filters_are_scored_by_all_their_weights(criterion: str, norm: Any, flipped: int) -> None:
    text = cfg(CONV.format(8), f"{CONV.format(5)} flipped={flipped}", HEAD)
    with opened(text, random_tensors(text, 1, False)) as weights:
        filters = np.abs(np.array(weights.read(weights.graph[1], "weights"), np.float64))
        filters = np.moveaxis(filters, -1, 0) if flipped else filters
        found = score_channels(weights, map_channels(weights.graph), criterion)[1].values
    np.testing.assert_allclose(found, [norm(each) for each in filters], rtol=1e-6)


def test_measured_means_are_used_where_channels_go() -> None:
    text = cfg(CONV.format(4), CONV.format(4), HEAD)
    chosen = Selection(ratio=0.5, min_channels=1, exclude=(1,))
    with opened(text, gammas(text, _0=[4, 3, 2, 1])) as weights:
        ranking = replace(rank(weights, chosen), measured={0: np.arange(4.0), 1: np.arange(4.0)})
        assert set(decide(ranking, chosen).cut.measured) == {0}
        for given, constant in ((ranking, "measured"), (rank(weights, chosen), "mean")):
            assert PruneResult.of(decide(given, chosen), {}).compensation["constant"] == constant


def test_excluded_layer_keeps_its_coupled_set() -> None:
    assert removed(STREAM, STREAM_GAMMAS, exclude=(3,)) == {}
    free = cfg(CONV.format(4), CONV.format(4), HEAD)
    assert removed(free, gammas(free, _0=[4, 3, 2, 1], _1=[1, 2, 3, 4]), exclude=(0,)) == {1: [0, 1]}


@pytest.mark.parametrize("merge", ["vote", "any", "all", "mean", "max"])
def test_convolution_without_batch_normalisation_follows(merge: str) -> None:
    text = cfg(CONV.format(4), BARE.format(4), "shortcut from=-2", HEAD)
    filters = np.array([9, 8, 0.1, 0.2]).reshape(4, 1, 1, 1)
    weights = tensors_of(text, {(0, "scales"): [0.1, 0.2, 0.8, 0.9], (1, "weights"): filters})
    assert removed(text, weights, merge=merge) == {0: [0, 1], 1: [0, 1]}


def test_convolution_without_batch_normalisation_is_scored_by_its_filters() -> None:
    text = cfg(BARE.format(4), CONV.format(4), HEAD)
    filters = np.array([-9, 0.1, 8, -0.2]).reshape(4, 1, 1, 1)
    weights = tensors_of(text, {(0, "weights"): filters, (1, "scales"): [100, 200, 300, 400]})
    assert removed(text, weights) == {0: [1, 3], 1: [0, 1]}


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_weight_criteria(criterion: str) -> None:
    text = cfg(CONV.format(4), HEAD, channels=2)
    # mean |w|: 1, 1.5, 2, 0.5; root mean square: 1, 2.1, 2, 0.5
    filters = np.array([[1, -1], [3, 0], [2, 2], [0.5, 0.5]]).reshape(4, 2, 1, 1)
    weights = tensors_of(text, {(0, "weights"): filters, (0, "scales"): [9, 1, 2, 8]})
    assert removed(text, weights, criterion=criterion, ratio=0.75) == {0: [0, 1, 3] if criterion == "l1" else [0, 2, 3]}


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("merge", ["vote", "any", "all", "mean", "max"])
def test_squeeze_and_excitation_branch_follows(merge: str, normalised: bool) -> None:
    branch = (CONV if normalised else BARE).format(4)
    text = cfg(CONV.format(4), "avgpool", branch, "scale_channels from=0", HEAD)
    given = {(0, "scales"): [0.1, 0.2, 0.8, 0.9]}
    if normalised:
        given[2, "scales"] = [9, 8, 0.001, 0.002]
    assert removed(text, tensors_of(text, given), merge=merge) == {0: [0, 1], 2: [0, 1]}


@pytest.mark.parametrize(("merge", "gone"), [("vote", [0, 1]), ("any", [0, 1]), ("mean", [0, 2]), ("max", [0])])
def test_gamma_of_a_depthwise_layer_counts_under_mean_and_max(merge: str, gone: list[int]) -> None:
    depthwise = "convolutional size=3 pad=1 groups=4 filters=4 batch_normalize=1 activation=leaky"
    text = cfg(CONV.format(4), depthwise, HEAD)
    # threshold 0.4 (the second of layer 0); means 0.2, 1.15, 0.35, 0.9, largest 0.3, 1.9, 0.6, 1
    weights = gammas(text, _0=[0.1, 0.4, 0.6, 0.8], _1=[0.3, 1.9, 0.1, 1])
    assert removed(text, weights, merge=merge) == {0: gone}


def test_grouped_merges_agree_on_one_member() -> None:
    text = cfg(CONV.format(8), HEAD)
    weights = gammas(text, _0=[5, 1, 7, 3, 2, 8, 4, 6])
    for how in ("vote", "any", "all", "mean", "max"):
        assert removed(text, weights, merge=how) == {0: [1, 3, 4, 6]}


@pytest.mark.parametrize("channels", [1, 3])
def test_first_convolution_of_a_grayscale_network_can_be_pruned(channels: int) -> None:
    """One group of one input channel is no depthwise convolution."""
    text = cfg(CONV.format(4), HEAD, channels=channels)
    assert removed(text, gammas(text, _0=[4, 1, 3, 2])) == {0: [1, 3]}


def test_network_with_nothing_to_prune() -> None:
    for text in (cfg("maxpool size=2 stride=2"), cfg(HEAD), cfg("convolutional groups=3 filters=3 size=3", "avgpool")):
        assert removed(text, gammas(text)) == {}


def test_nan_among_the_scores_is_an_error() -> None:
    text = cfg(CONV.format(4), HEAD)
    with pytest.raises(PlanError, match=r"layer 0 \(convolutional\): channel 2 has a weight that is NaN"):
        removed(text, gammas(text, _0=[1, 2, np.nan, 3]))


# ---- allocation


def test_allocations() -> None:
    assert ratios_of("uniform", 0.4, (), [10, 20]) == (0.4, 0.4)
    assert ratios_of("global", 0.4, (), [10, 20]) == (0.4, 0.4)
    assert ratios_of("proportional", 0.3, (), [10, 20]) == pytest.approx((0.1, 0.2))
    assert ratios_of("proportional", 0.3, (), [0, 0]) == (0, 0)
    assert ratios_of("explicit", 0.0, (0.1, 0.9), [10, 20]) == (0.1, 0.9)


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("allocation", ["uniform", "global", "proportional"])
def test_ratio_outside_its_range(ratio: float, allocation: str) -> None:
    with pytest.raises(UsageError, match=r"outside \[0, 1\)"):
        ratios_of(allocation, ratio, (), [10, 20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"round_to": 0}, "--round-to 0: must be at least 1"),
        ({"min_channels": 0}, "--min-channels 0: must be at least 1"),
        ({"units": -1}, "--units -1: must be at least 0"),
        ({"unit_ratio": 1.1}, "--unit-ratio 1.1: must be at least 0 and at most 1"),
        ({"similarity": 1.5}, "--similarity 1.5: must be at least 0 and at most 1"),
        ({"allocation": "sensitivity"}, "measures each group"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    text = cfg(CONV.format(4), HEAD)
    with opened(text, gammas(text, _0=[4, 3, 2, 1])) as weights, pytest.raises(UsageError, match=message):
        decide(rank(weights, selection := Selection(ratio=0.5, **options)), selection)


def test_wrong_number_of_ratios() -> None:
    with pytest.raises(UsageError, match="2 ratios for 3 groups"):
        ratios_of("explicit", 0, (0.1, 0.2), [1, 2, 3])


def test_table_1_as_printed() -> None:
    percent = ["10 20 96 87 45", "10 25 96 87 50", "10 25 97 85 55", "15 25 96 85 70", "15 27 96 85 90"]
    for number, row in enumerate(percent, start=1):
        assert TABLE1[f"table1-model{number}"] == pytest.approx([int(value) / 100 for value in row.split()])
    assert len(TABLE1) == 5


def test_ratios_of_the_other_presets() -> None:
    """The authors' program for YOLOv3; for MobileNet-YOLOv3 the paper gives the total of 65 % only."""
    assert RATIO_PRESETS["yolov3"] == ("yolov3", (0.32, 0.55, 0.95, 0.85, 0.5))
    assert RATIO_PRESETS["mobilenet-yolov3"] == ("mobilenet-yolov3", (0.65,) * 5)
    assert {groups for name, (groups, _) in RATIO_PRESETS.items() if name in TABLE1} == {"yolov4"}


# ---- groups


def lasts(graph: Graph, how: str) -> list[int]:
    return [group.last for group in divide(graph, how)]


def test_automatic_groups_of_yolov4_are_close_to_the_preset() -> None:
    graph = read_graph(resolve("builtin:yolov4"))
    assert lasts(graph, "yolov4") == [55, 85, 116, 136, 161]
    found = divide(graph, "auto")
    assert len(found) == 5
    assert max(abs(a - b) for a, b in zip(lasts(graph, "auto"), lasts(graph, "yolov4"), strict=True)) <= 1
    assert [group.first for group in found] == [0, *(group.last + 1 for group in found[:-1])]


@pytest.mark.parametrize(
    "name", ["yolov3", "yolov4-tiny", "yolov4-csp", "yolov2-tiny", "mobilenet-yolov3-voc", "yolov3-tiny"]
)
def test_automatic_groups_cover_every_layer_once(name: str) -> None:
    graph = read_graph(resolve(f"builtin:{name}"))
    found = divide(graph, "auto")
    assert [i for group in found for i in range(group.first, group.last + 1)] == list(range(len(graph)))
    assert [group.name for group in found] == [f"g{number}" for number in range(1, len(found) + 1)]


def test_yolov3_preset() -> None:
    assert lasts(read_graph(resolve("builtin:yolov3")), "yolov3") == [34, 60, 83, 95, 106]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("0-3,3-5", "overlap"),
        ("0-5,2-3", "overlap"),
        ("3-1", "does not lie within"),
        ("0-6", "does not lie within"),
        ("0-3,x", "'x' is no range"),
        ("", "is no range"),
        ("yolov5", "is no range"),
        ("0-" + "9" * 30, "is no range"),
    ],
)
def test_ranges_that_make_no_sense(how: str, message: str) -> None:
    graph = build_graph_of(STREAM)
    with pytest.raises(UsageError, match=message):
        divide(graph, how)


def test_ranges_in_any_order_and_with_gaps() -> None:
    found = divide(build_graph_of(STREAM), " 4 - 5 , 0-1")
    assert [(group.first, group.last) for group in found] == [(4, 5), (0, 1)]


def test_group_preset_of_another_network() -> None:
    with pytest.raises(PlanError, match="162 layers, this one has 6"):
        divide(build_graph_of(STREAM), "yolov4")


def build_graph_of(text: str) -> Graph:
    return build_graph(parse_cfg(text, "net.cfg"))


# ---- yolov4 with 20 classes


@pytest.fixture(scope="module")
def yolov4_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of yolov4-voc that takes no room: its γ are random, all else is a hole."""
    graph = read_graph(resolve("builtin:yolov4-voc"))
    path = tmp_path_factory.mktemp("yolov4") / "yolov4-voc.weights"
    with path.open("wb") as file:
        file.write(Header().encode())
        file.truncate(weights_bytes(graph))
    random = np.random.default_rng(3)
    with NetworkWeights(graph, path) as weights, path.open("r+b") as file:
        for (_, name), blob in weights.file.blobs.items():
            if name == "scales":
                file.seek(blob.offset)
                file.write(random.uniform(0.01, 1, blob.shape).astype("<f4").tobytes())
    return path


def decide_yolov4(path: Path, **chosen: object) -> tuple[Surgery, Graph]:
    with NetworkWeights(read_graph(resolve("builtin:yolov4-voc")), path) as weights:
        decision = make(weights, **chosen)
    return decision, decision.graph


def test_chu2022_gives_the_published_size(yolov4_voc: Path) -> None:
    decision, slim = decide_yolov4(yolov4_voc, preset="chu2022")
    assert slim.params == 24_074_243
    convolutions = sum(layer.bflops for layer in slim if layer.name == "convolutional")
    assert f"{convolutions:.2f}" == "39.53"
    assert f"{2 * slim.macs / 1e9:.3f}" == "39.528"
    # what it keeps in a layer is what is dearest there
    classes = decision.cut.channels.of_layer[0]
    assert len(classes) == 32
    assert slim[0].output.c == 26
    widths = json.loads((Path(__file__).parents[2] / "darkprune/selection/chu2022.json").read_text())["filters"]
    assert {i: slim[i].output.c for i in map(int, widths)} == {int(i): width for i, width in widths.items()}


def test_chu2022_is_for_yolov4_only() -> None:
    text = cfg(CONV.format(4), HEAD)
    with pytest.raises(PlanError, match="162 layers"):
        removed(text, gammas(text), preset="chu2022", ratio=0.0, groups="0-1")


def test_proportional_removes_a_tenth_of_yolov4(yolov4_voc: Path) -> None:
    decision, _ = decide_yolov4(yolov4_voc, ratio=0.4, allocation="proportional", groups="yolov4")
    groups = decision.plan.groups
    total = sum(group.channels for group in groups)
    assert [group.ratio for group in groups] == pytest.approx([0.4 * group.channels / total for group in groups])
    assert 0.08 < sum(group.marked for group in groups) / total < 0.12


@pytest.mark.parametrize("merge", ["vote", "any", "all", "mean", "max"])
def test_ratio_of_yolov4(yolov4_voc: Path, merge: str) -> None:
    decision, slim = decide_yolov4(yolov4_voc, ratio=0.4, merge=merge)
    for group in decision.plan.groups:
        assert group.marked == int(0.4 * group.channels + 0.5)
        assert group.threshold == pytest.approx(0.4, abs=0.03)
        assert 0.2 < group.removed / group.channels < 0.75
    original = decision.cut.channels.graph
    for before, after in zip(original, slim, strict=True):
        assert after.output[1:3] == before.output[1:3]
        if before.name == "yolo":
            assert after.output == before.output
    heads = [head.sources[0] for head in original.heads]
    assert all(index not in decision.plan.layers for index in heads)
    # coupled convolutions keep the same channels
    for layers in map_channels(original).coupled_sets:
        assert len({decision.plan.layers[layer][1] for layer in layers if layer in decision.plan.layers}) <= 1


def test_table_presets_of_yolov4(yolov4_voc: Path) -> None:
    decision, _ = decide_yolov4(yolov4_voc, preset="table1-model2")
    assert [group.ratio for group in decision.plan.groups] == [0.10, 0.25, 0.96, 0.87, 0.50]
    assert [group.last for group in decision.plan.groups] == [55, 85, 116, 136, 161]


def test_excluded_layers_of_yolov4(yolov4_voc: Path) -> None:
    decision, _ = decide_yolov4(yolov4_voc, ratio=0.5, exclude=(107, 117, 127))
    assert not {107, 117, 127} & set(decision.plan.layers)
    assert {106, 114, 126} <= set(decision.plan.layers)
