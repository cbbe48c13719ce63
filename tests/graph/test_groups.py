"""Division of a network into groups: presets to the layer, and what decides where a group ends."""

from __future__ import annotations

import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError, UsageError
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.groups import divide
from darkprune.zoo import resolve

CONV = "convolutional filters=8 size=1"
DOWN = "convolutional filters=8 size=3 stride=2 pad=1"
PREDICT = "convolutional filters=18 size=1"
YOLO = "yolo classes=1 mask=0,1,2 num=3 anchors=1,1,2,2,3,3"


def network(*sections: str, size: int = 64) -> Graph:
    lines = ["[net]", f"width={size}", f"height={size}", "channels=3"]
    for section in sections:
        name, *keys = section.split()
        lines += [f"[{name}]", *keys]
    return build_graph(parse_cfg("\n".join(lines)))


def ranges(graph: Graph, how: str) -> list[tuple[int, int]]:
    return [(group.first, group.last) for group in divide(graph, how)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yolov4", [(0, 55), (56, 85), (86, 116), (117, 136), (137, 161)]),  # Chu et al. 2023, §5
        ("yolov3", [(0, 34), (35, 60), (61, 83), (84, 95), (96, 106)]),
    ],
)
def test_presets_are_the_published_ones(name: str, expected: list[tuple[int, int]]) -> None:
    assert ranges(read_graph(resolve(f"builtin:{name}")), name) == expected


def test_a_preset_is_for_its_own_network() -> None:
    with pytest.raises(PlanError, match="is for a network of 162 layers, this one has 1; use auto"):
        divide(network(CONV), "yolov4")


def test_the_two_coarsest_scales_of_the_backbone_are_groups() -> None:
    # 32, 16, 8 and 4 pixels; layer 5 feeds the upsampling, so that the backbone ends before it
    found = network(DOWN, DOWN, CONV, DOWN, DOWN, CONV, "upsample", CONV, PREDICT, YOLO)
    assert ranges(found, "auto") == [(0, 2), (3, 3), (4, 4), (5, 9)]


def test_a_side_branch_of_one_position_is_no_scale() -> None:
    squeeze = ("avgpool", CONV, "scale_channels from=-3")
    plain = network(DOWN, DOWN, CONV, CONV, CONV, DOWN, "upsample", CONV, PREDICT, YOLO)
    squeezed = network(DOWN, DOWN, *squeeze, DOWN, "upsample", CONV, PREDICT, YOLO)
    assert ranges(squeezed, "auto") == ranges(plain, "auto")


def test_the_neck_ends_where_the_first_head_branches_off() -> None:
    graph = network(
        DOWN, CONV, DOWN, CONV, "upsample",  # 0-4: the backbone ends at 2
        CONV, CONV,  # 5, 6: read by the branch to the first head and by what follows
        CONV, PREDICT, YOLO,  # 7-9
        "route layers=6", DOWN, CONV, PREDICT, YOLO,  # 10-14
    )  # fmt: skip
    assert ranges(graph, "auto")[-2:] == [(3, 6), (7, 14)]


def test_the_neck_ends_before_what_feeds_the_last_upsampling_where_the_first_head_hangs_on_the_backbone() -> None:
    graph = network(
        DOWN, CONV, DOWN, CONV, PREDICT, YOLO,  # 0-5: the backbone ends at 3, as in YOLOv3
        "route layers=3", CONV, "upsample", CONV, PREDICT, YOLO,  # 6-11
        "route layers=9", CONV, "upsample", PREDICT, YOLO,  # 12-16
    )  # fmt: skip
    assert ranges(graph, "auto") == [(0, 1), (2, 3), (4, 12), (13, 16)]


def test_a_range_whose_last_layer_is_its_only_convolution_stands_alone() -> None:
    graph = network(CONV, "maxpool size=2 stride=2", CONV, DOWN, CONV, CONV, "upsample", CONV, PREDICT, YOLO)
    assert ranges(graph, "auto") == [(0, 0), (1, 2), (3, 4), (5, 9)]


def test_a_range_without_any_convolution_joins_the_one_before() -> None:
    graph = network(CONV, CONV, "maxpool size=2 stride=2", "dropout", DOWN, CONV, "upsample", CONV, PREDICT, YOLO)
    assert ranges(graph, "auto") == [(0, 3), (4, 4), (5, 9)]


def test_a_range_without_any_convolution_joins_no_earlier_one_than_the_one_before() -> None:
    # 0: as large as the input; 1-2: the first of the two coarsest scales; 3: the second, by the pooling alone
    found = network(CONV, DOWN, CONV, "maxpool size=2 stride=2", CONV, "upsample", CONV, PREDICT, YOLO)
    assert ranges(found, "auto") == [(0, 0), (1, 3), (4, 8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-1,1-2", "0-1 and 1-2 overlap"),
        ("0-2,1-1", "0-2 and 1-1 overlap"),
        ("2-1", "2-1 does not lie within layers 0-2"),
        ("0-3", "0-3 does not lie within layers 0-2"),
        ("0-1;2-2", "is no range"),
    ],
)
def test_ranges_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        divide(network(CONV, CONV, CONV), text)


def test_a_range_may_hold_one_layer_and_reach_the_end() -> None:
    assert ranges(network(CONV, CONV, CONV), "2-2,0-1") == [(2, 2), (0, 1)]
