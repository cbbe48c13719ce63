"""How many operations a layer takes, by hand from darknet's formulas; every layer reads 8 channels of 7 x 9."""

from __future__ import annotations

import pytest
from golden_cfgs import CONV, network

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import Layer, build_graph

CELLS = 7 * 9
INNER = 9 * (8 * 6 + 6 * 6 + 6 * 4)  # of [crnn]: input, self, output
STATE, GIVEN = 9 * 4 * 4, 9 * 8 * 4  # of [conv_lstm]: a convolution of the state, one of the input


def last(section: str) -> Layer:
    return build_graph(parse_cfg(network("9 7 3", CONV, CONV, section)))[2]


@pytest.mark.parametrize(
    ("section", "operations"),
    [
        ("conv filters=12 size=3 pad=1 groups=2", 2 * 9 * 4 * 12 * CELLS),
        ("conv filters=12 size=3 pad=1 groups=2 xnor=1", 2 * 9 * 8 * 12 * CELLS / 32),
        ("conv filters=4 size=3 stride=2", 2 * 9 * 8 * 4 * 3 * 4),
        ("maxpool size=3 stride=2", 9 * 8 * 4 * 5),
        ("maxpool maxpool_depth=1 out_channels=4 size=1", 8 * CELLS),
        ("local_avgpool size=3 stride=2", 9 * 8 * 4 * 5),
        ("shortcut from=-2,-1", 2 * 8 * CELLS),
        ("shortcut from=-2,-1 weights_type=per_feature weights_normalization=relu", 4 * 8 * CELLS),
        ("crnn output=4 hidden=6 size=3 pad=1", 2 * INNER * CELLS),
        ("crnn output=4 hidden=6 size=3 pad=1 xnor=1", 2 * INNER * CELLS / 32),
        ("conv_lstm output=4 size=3 pad=1", 2 * 4 * (STATE + GIVEN) * CELLS + 9 * 4 * CELLS),
        ("conv_lstm output=4 size=3 pad=1 peephole=1", 2 * (7 * STATE + 4 * GIVEN) * CELLS + 12 * 4 * CELLS),
        ("conv_lstm output=4 size=3 pad=1 bottleneck=1", 2 * (9 * 8 * 4 + 4 * GIVEN) * CELLS + 9 * 4 * CELLS),
        ("upsample", 0),
    ],
)
def test_operations_that_darknet_counts(section: str, operations: float) -> None:
    assert last(section).bflops == pytest.approx(operations / 1e9, rel=1e-6, abs=0)  # 32-bit floats


@pytest.mark.parametrize(
    ("section", "macs"),
    [
        ("conv filters=12 size=3 pad=1 groups=2", 9 * 4 * 12 * CELLS),
        ("local filters=2 size=3", 9 * 8 * 2 * 5 * 7),
        ("local filters=2 size=3 stride=2 pad=1", 9 * 8 * 2 * 4 * 5),
        ("connected output=5", 8 * CELLS * 5),
        ("crnn output=4 hidden=6 size=3 pad=1", INNER * CELLS),
        ("conv_lstm output=4 size=3 pad=1 peephole=1", (7 * STATE + 4 * GIVEN) * CELLS),
        ("rnn output=5 hidden=4", 8 * CELLS * 4 + 4 * 4 + 4 * 5),
        ("gru output=5", 3 * (8 * CELLS + 5) * 5),
        ("lstm output=5", 4 * (8 * CELLS + 5) * 5),
        ("shortcut from=-2", 0),
    ],
)
def test_multiply_adds_for_one_image(section: str, macs: int) -> None:
    assert last(section).macs == macs
