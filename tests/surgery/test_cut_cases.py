"""Cuts whose trouble a random network meets seldom."""

from __future__ import annotations

import struct

import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.strict import strict_problems
from darkprune.graph.graph import build_graph
from darkprune.selection.settings import Selection

from .cutting import check, make, opened, slim_of
from .networks import Network, cfg

CONV = "convolutional size=3 pad=1 batch_normalize=1 activation=leaky filters={}"


CASES = {
    # the sharer's cfg does not say batch_normalize, yet it is normalised: its constant is a mean too
    "shared weights": cfg(
        CONV.format(6), CONV.format(6), "route layers=0",
        "convolutional filters=6 size=3 pad=1 share_index=1 activation=mish", "route layers=1,3", CONV.format(2),
    ),
    # the inputs of both are pinned, not only the sharer's
    "shared weights on two maps": cfg(
        CONV.format(4), CONV.format(4), CONV.format(5), "route layers=0",
        "convolutional filters=5 size=3 pad=1 share_index=2 activation=leaky",
        "route layers=2,4", CONV.format(2),
    ),
    # relu6 holds no carrier: its channels are folded, in the masked stand-in too
    "relu6": cfg(CONV.format(8).replace("leaky", "relu6"), CONV.format(4), CONV.format(2)),
    "batchnorm": cfg(CONV.format(8), "batchnorm", CONV.format(4), CONV.format(2)),
    "spatial scale": cfg(
        CONV.format(8), "convolutional filters=1 size=1 activation=logistic", "scale_channels from=-2 scale_wh=1",
        CONV.format(4), CONV.format(2),
    ),
    # the constants in one block of a reorganisation differ
    "reorg": cfg(CONV.format(16), "reorg stride=2", CONV.format(4), CONV.format(2)),
    "reorg in reverse": cfg(CONV.format(16), "reorg stride=2 reverse=1", CONV.format(4), CONV.format(2)),
    # … and so do the carriers: none can be had
    "reorg of two activations": cfg(
        CONV.format(6), "convolutional filters=6 size=1 batch_normalize=1 activation=logistic", "route layers=0,1",
        "reorg stride=2 reverse=1", CONV.format(4), CONV.format(2),
    ),
    "connected": cfg(CONV.format(9), "maxpool size=2 stride=2", "connected output=12 activation=leaky",
                     "connected output=9 activation=mish batch_normalize=1", "connected output=2", "softmax"),
    "dontload": cfg(CONV.format(9), "maxpool size=2 stride=1", CONV.format(6) + " dontload=1", CONV.format(5),
                    CONV.format(7), CONV.format(2)),
    "dontloadscales": cfg(CONV.format(9), CONV.format(6) + " dontloadscales=1", CONV.format(5), CONV.format(2)),
    "cbn": cfg("convolutional size=3 pad=1 cbn=1 activation=leaky filters=8", CONV.format(4), CONV.format(2)),
    "local": cfg(CONV.format(8), CONV.format(6), "local filters=4 size=3 pad=1 activation=leaky", CONV.format(6),
                 CONV.format(2)),
    "a chain of shared weights": cfg(
        CONV.format(5), CONV.format(5), "convolutional size=3 pad=1 activation=leaky filters=5 share_index=1",
        "convolutional size=3 pad=1 activation=leaky filters=5 share_index=-1", "route layers=1,2,3",
        CONV.format(6), CONV.format(2),
    ),
    "heads in the middle": cfg(
        CONV.format(8), "convolutional size=1 filters=14", "yolo classes=2 num=2", "route layers=0", CONV.format(8),
        "convolutional size=1 filters=12", "region classes=1 num=2",
    ),
    "grouped behind a slice": cfg(
        CONV.format(16), "route layers=0 groups=2 group_id=1",
        "convolutional size=3 pad=1 groups=2 filters=8 activation=leaky", "route layers=0,2", CONV.format(2),
    ),
    # the pooled image has no class; the last class, which goes, is one inside the unit
    "a pooled image": cfg("maxpool size=2 stride=2", CONV.format(6), CONV.format(9), CONV.format(6),
                          "shortcut from=-3"),
    "connected behind softmax": cfg(CONV.format(9), "connected output=8", "softmax", "connected output=3"),
}  # fmt: skip


@pytest.mark.parametrize("merge", ["vote", "max"])
@pytest.mark.parametrize("compensate", ["fold", "carrier", "none"])
@pytest.mark.parametrize("case", CASES)
def test_cut(case: str, compensate: str, merge: str) -> None:
    removed = False
    for seed in range(3):
        for constant in ("mean", "beta"):
            chosen = Selection(ratio=0.5, min_channels=1, merge=merge, compensate=compensate, constant=constant)
            removed |= not check(Network(CASES[case], seed, False), chosen).cut.keep.all()
    assert removed


def test_connected_weights_stored_input_major() -> None:
    """Ancient files: the header says so, and the slim file has the same header."""
    network = Network(CASES["connected"], 3, False)
    header = struct.pack("<3iQ", 1001, 0, 0, 7)
    network.__dict__["weights"] = header + network.weights[20:]
    for compensate in ("fold", "carrier"):
        decision = check(network, Selection(ratio=0.5, min_channels=1, compensate=compensate))
        assert {0, 2, 3} <= set(decision.plan.layers)
        with opened(network.text, network.weights) as pair:
            assert slim_of(pair, decision.cut).weights[:20] == header


@pytest.mark.parametrize("header", [struct.pack("<3iI", 0, 1, 0, 77), struct.pack("<3iQ", 0, 2, 0, 2**40)])
def test_header_stays_as_it_was(header: bytes) -> None:
    network = Network(CASES["batchnorm"], 3, False)
    network.__dict__["weights"] = header + network.weights[20:]
    decision = check(network, Selection(ratio=0.5, min_channels=1))
    with opened(network.text, network.weights) as pair:
        assert slim_of(pair, decision.cut).weights[: len(header)] == header


def test_strict_readers_find_nothing_new() -> None:
    text = CASES["grouped behind a slice"] + "\n[convolutional]\nfilters=8 # eight\nunknown=1\nfilters=9\n[avgpool]\n"
    with opened(text, Network(text, 1, False).weights) as pair:
        slim = slim_of(pair, make(pair, ratio=0.5, min_channels=1).cut)
    problems = [
        [(problem.line, problem.section, problem.message) for problem in strict_problems(parse_cfg(t, "net.cfg"))]
        for t in (text, slim.text)
    ]
    assert problems[0] == problems[1] != []
    assert "filters=" in slim.text
    assert len(slim.text.splitlines()) == len(text.splitlines())


@pytest.mark.parametrize("kind", ["reorg", "reorg3d"])
@pytest.mark.parametrize(("side", "warned"), [(8, False), (9, True)])
def test_reorganisation_of_an_odd_map_is_warned_of(kind: str, side: int, warned: bool) -> None:
    graph = build_graph(parse_cfg(cfg(CONV.format(8), f"{kind} stride=2", side=side), "net.cfg"))
    assert bool(graph.warnings) == warned
    assert not warned or f"a stride of 2 does not divide {side}x{side}" in graph.warnings[0]
