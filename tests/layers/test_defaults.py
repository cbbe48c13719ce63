"""Keys that a section leaves out have the values that darknet's parser.c gives them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from golden_cfgs import network

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import build_graph
from darkprune.layers import KINDS

GEOMETRY = {"filters": 1, "groups": 1, "size": 1, "stride_x": 1, "stride_y": 1, "dilation": 1, "padding": 0}
WINDOW = {"size": 1, "stride_x": 1, "stride_y": 1, "padding": 0}
HEAD = {"classes": 20, "all_anchors": ((0.5, 0.5),)}
NMS = {"mask": (0,), "scale_x_y": 1.0, "nms_kind": "default", "beta_nms": 0.6}
#: the section with the fewest keys -> channels that it needs, and its fields
DEFAULTS: dict[str, tuple[int, dict[str, Any]]] = {
    "convolutional": (
        8,
        {"geometry": GEOMETRY, "activation": "logistic", "batch_normalize": False, "antialiasing": 0,
         "share_index": None, "binary": False, "xnor": False, "bin_output": False, "flipped": False},
    ),
    "local": (8, {"filters": 1, "size": 1, "stride": 1, "pad": False, "activation": "logistic"}),
    "connected": (8, {"outputs": 1, "activation": "logistic", "batch_normalize": False}),
    "maxpool": (8, {"window": WINDOW, "depth": False, "out_channels": 1, "antialiasing": 0}),
    "local_avgpool": (8, {"window": WINDOW}),
    "avgpool": (8, {}),
    "dropout": (8, {"probability": 0.2}),
    "empty": (8, {}),
    "activation": (8, {"activation": "linear"}),
    "implicit": (8, {"filters": 128, "atoms": 1, "mean": 0.0, "std": 0.2}),
    "softmax": (8, {"groups": 1, "temperature": 1.0, "spatial": False, "has_tree": False}),
    "cost": (8, {}),
    "contrastive": (8, {"classes": 1000, "yolo_layer": 0}),
    "yolo": (25, {**HEAD, **NMS, "listed": 0, "new_coords": False, "embedding_layer": None}),
    "Gaussian_yolo": (29, {**HEAD, **NMS, "listed": 0, "yolo_point": "center"}),
    "region": (25, {**HEAD, "listed": 0, "coords": 4, "num": 1, "softmax": False, "tree": ""}),
    "detection": (1, {"classes": 1, "coords": 1, "num": 1, "side": 7, "softmax": False, "sqrt": False}),
    "route layers=-1": (8, {"layers": (-1,), "groups": 1, "group_id": 0}),
    "shortcut from=-1": (
        8, {"layers": (-1,), "activation": "linear", "weights_type": "none", "weights_normalization": "none"}
    ),
    "scale_channels from=-1": (8, {"layer": -1, "scale_wh": False, "activation": "linear"}),
    "sam from=-1": (8, {"layer": -1, "activation": "linear"}),
    "batchnorm": (8, {}),
    "normalization": (8, {"alpha": 0.0001, "beta": 0.75, "kappa": 1.0, "size": 5}),
    "crnn": (
        8,
        {"geometry": {**GEOMETRY, "size": 3}, "hidden": 1, "activation": "logistic", "batch_normalize": False,
         "xnor": False, "shortcut": False},
    ),
    "conv_lstm": (
        8,
        {"geometry": {**GEOMETRY, "size": 3}, "activation": "linear", "batch_normalize": False, "xnor": False,
         "peephole": False, "bottleneck": False},
    ),
    "rnn": (8, {"outputs": 1, "hidden": 1, "activation": "logistic", "batch_normalize": False}),
    "gru": (8, {"outputs": 1, "batch_normalize": False}),
    "lstm": (8, {"outputs": 1, "batch_normalize": False}),
    "history": (8, {"history_size": 4}),
    "upsample": (8, {"stride": 2, "scale": 1.0}),
    "reorg3d": (8, {"stride": 1, "reverse": False}),
    "reorg": (8, {"stride": 1, "reverse": False}),
    "crop": (8, {"height": 1, "width": 1, "noadjust": False, "flip": False}),
}  # fmt: skip


def test_every_kind_is_in_the_table() -> None:
    assert {KINDS[section.split()[0]] for section in DEFAULTS} == set(KINDS.values())


@pytest.mark.parametrize("section", DEFAULTS)
def test_keys_left_out(section: str) -> None:
    channels, expected = DEFAULTS[section]
    before = f"conv filters={channels}"
    if section == "detection":  # reads 7 x 7 x (1 + 1 · (1 + 1)) values
        before = "connected output=147"
    elif section.startswith("scale_channels"):
        before = f"conv filters={channels} size=9"  # one position, which scales itself
    kind = build_graph(parse_cfg(network("9 9 3", before, section)))[1].kind
    found = asdict(kind)
    assert {name: found[name] for name in expected} == expected
    assert set(found) == set(expected)


def test_a_head_has_as_many_anchors_as_it_names() -> None:
    """Width and height in turn; pairs that are missing are 0.5, as darknet fills them."""
    head = "yolo classes=1 mask=0,2 num=3 anchors=10,20,30,40"
    built = build_graph(parse_cfg(network("9 9 3", "conv filters=12", head)))
    assert asdict(built[1].kind)["all_anchors"] == ((10.0, 20.0), (30.0, 40.0), (0.5, 0.5))


@pytest.mark.parametrize("mask", ["-1,1", "1,2"])
def test_anchors_that_a_mask_does_not_name(mask: str) -> None:
    """darknet reads past its list on either side; such an anchor is 0.5 here, and said."""
    built = build_graph(
        parse_cfg(network("9 9 3", "conv filters=12", f"yolo classes=1 num=2 mask={mask} anchors=1,2,3,4"))
    )
    named = {"-1,1": ((0.5, 0.5), (3, 4)), "1,2": ((3, 4), (0.5, 0.5))}[mask]
    assert built[1].kind.anchors == named
    assert f"darknet reads past its 2 anchors: mask={mask} with num=2" in built.warnings[0]


@pytest.mark.parametrize(("kind", "values"), [("yolo", 6), ("Gaussian_yolo", 10)])
def test_the_commas_of_a_comment_count_for_no_anchor(kind: str, values: int) -> None:
    """darknet counts commas up to a `#`, in the mask as in the anchors."""
    head = f"{kind} classes=1 num=3 mask=0,1#,2 anchors=1,2,3,4#,5,6"
    built = build_graph(parse_cfg(network("9 9 3", f"conv filters={2 * values}", head)))
    found = asdict(built[1].kind)
    assert (found["mask"], found["listed"]) == ((0, 1), 4)
    assert found["all_anchors"][:2] == ((1, 2), (3, 4))
