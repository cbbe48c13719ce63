"""The windows of a convolution, against torch's unfold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from darkprune.graph.graph import read_graph
from darkprune.network import Network
from darkprune.network.modules.convolution import Convolution
from darkprune.network.windows import Scratch, windows

CFG = """[net]
width=11
height=9
channels=4
[convolutional]
filters=4
activation=linear
"""


@pytest.mark.parametrize(
    "keys",
    [
        "size=1",
        "size=1\nstride=2",
        "size=1\npadding=1",
        "size=3\npad=1",
        "size=3\npad=1\nstride=2\ngroups=2",
        "size=3\npad=1\ndilation=2",
        "size=2\nstride_x=3\nstride_y=1",
        "size=5\npad=1\ngroups=4",
    ],
)
@pytest.mark.parametrize("drawn", [False, True])
def test_windows_are_those_of_unfold(tmp_path: Path, keys: str, drawn: bool) -> None:
    (tmp_path / "net.cfg").write_text(CFG + keys)
    module = Network(read_graph(tmp_path / "net.cfg")).layers[0]
    assert isinstance(module, Convolution)
    x = torch.randn(3, 4, 9, 11, generator=torch.Generator().manual_seed(0))
    expected = functional.unfold(x, module.size, module.dilation, module.padding, module.stride)
    expected = expected.transpose(0, 1).reshape(module.groups, -1, 3 * expected.shape[-1])
    chosen = torch.randperm(expected.shape[-1])[:7] if drawn else None
    scratch = Scratch()
    for _ in range(2):  # the memory is used again
        found = windows(module, x, chosen, scratch)
        assert torch.equal(found, expected if chosen is None else expected[..., chosen])
    sums = module.convolve(x, module.kernel(), None)
    whole = windows(module, x, None, scratch)
    again = module.kernel().reshape(module.groups, -1, whole.shape[1]) @ whole
    torch.testing.assert_close(again.reshape(4, 3, -1), sums.transpose(0, 1).flatten(2), rtol=1e-4, atol=1e-5)
