"""Cuts whose trouble a random network meets seldom."""

from __future__ import annotations

import pytest

from darkprune.pruning.prune import PruneSettings

from .cutting import check
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
    "connected behind softmax": cfg(CONV.format(9), "connected output=8", "softmax", "connected output=3"),
}  # fmt: skip


@pytest.mark.parametrize("merge", ["vote", "max"])
@pytest.mark.parametrize("compensate", ["fold", "carrier", "none"])
@pytest.mark.parametrize("case", CASES)
def test_cut(case: str, compensate: str, merge: str) -> None:
    removed = False
    for seed in range(3):
        for constant in ("mean", "beta"):
            chosen = PruneSettings(ratio=0.5, min_channels=1, merge=merge, compensate=compensate, constant=constant)
            removed |= not check(Network(CASES[case], seed, False), chosen).cut.keep.all()
    assert removed
