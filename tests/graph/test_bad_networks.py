"""Whatever stands in a cfg, it is a network or an error of ours, and nothing is allocated for a claim in it."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import CfgError, DarkpruneError, GraphError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import build_graph
from darkprune.graph.weights import weights_bytes
from darkprune.layers import KINDS

KEYS = """
    filters size stride stride_x stride_y pad padding groups group_id dilation antialiasing share_index
    activation batch_normalize layers from output hidden classes num mask anchors coords side reverse maxpool_depth
    out_channels weights_type weights_normalization scale_wh scale crop_height crop_width atoms embedding_layer
    yolo_layer peephole bottleneck history_size dontload dontloadscales flipped xnor binary alpha softmax width
    temperature height channels inputs batch subdivisions time_steps
"""
SMALL = [0, 1, 2, 3, 4, 5, 8, 16, 18, 21, 64, -1, -2, -3]
NUMBERS = [*SMALL, 4096, 65536, 999_999_999, 2**31 - 1, 2**31, -(2**31), 10**30]
value = st.one_of(
    *[st.sampled_from(["1", "2", "3", "4", "-1", "-2", "0"])] * 3,
    st.sampled_from(NUMBERS).map(str),
    st.lists(st.sampled_from(SMALL), min_size=1, max_size=6).map(lambda items: ",".join(map(str, items))),
    st.sampled_from(["", "nan", "-inf", "1e9", "1e999", "0x10", "mish", "relu", "normalize_channels", "per_channel",
                     "none", "#", "=", ",", ",,,", "[", "\xff", "9" * 5000]),
    st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=6),
)  # fmt: skip
#: what makes a kind likely to fit behind a small map; keys written before these win over them
SENSIBLE = {
    "conv": "filters=8\nsize=3\npad=1", "convolutional": "filters=8", "route": "layers=-1", "shortcut": "from=-1",
    "sam": "from=-1", "scale_channels": "from=-2", "maxpool": "size=2", "connected": "output=6", "reorg": "stride=2",
    "reorg3d": "stride=2", "local": "filters=2", "crnn": "output=4\nhidden=4", "conv_lstm": "output=4\npad=1",
}  # fmt: skip
section = st.builds(
    lambda name, keys: "\n".join([f"[{name}]", *(f"{key}={text}" for key, text in keys), SENSIBLE.get(name, ""), ""]),
    st.sampled_from([*KINDS, *SENSIBLE, *["conv"] * 9, "net", "", "]", "con]v", "convol"]),
    st.just([]) | st.lists(st.tuples(st.sampled_from(KEYS.split()), value), max_size=2),
)
MAP = "[net]\nwidth=8\nheight=8\nchannels=8\n"
head = st.sampled_from([MAP] * 6 + ["[net]\nwidth=9\nheight=7\nchannels=4\nbatch=2\n", "[net]\ninputs=12\n"])


@given(head | head | head | section, st.lists(section, max_size=7))
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_arbitrary_sections_are_a_network_or_an_error_of_ours(start: str, sections: list[str]) -> None:
    with contextlib.suppress(DarkpruneError):
        graph = build_graph(parse_cfg(start + "".join(sections)))
        assert all(layer.output.outputs > 0 for layer in graph)
        assert all(min(blob.shape, default=1) > 0 for layer in graph for blob in layer.blobs)
        assert weights_bytes(graph) >= 20
        assert graph.macs >= 0
        assert graph.bflops >= 0
        map_channels(graph)


NET = "[net]\nwidth=416\nheight=416\nchannels=3\n"
HUGE = [
    NET + "[conv]\nfilters=2147483647\n",
    NET + "[conv]\nfilters=99999999999999999999\n",
    NET + "[conv]\nfilters=65536\nsize=4096\n",
    "[net]\nwidth=999999999\nheight=416\nchannels=3\n[conv]\nfilters=3\n",
    "[net]\nwidth=65536\nheight=65536\nchannels=65536\n[conv]\nfilters=3\n",
    "[net]\nwidth=1\nheight=1\nchannels=1\n[conv]\nfilters=2147483647\n",
    "[net]\nwidth=1\nheight=1\nchannels=1\n[conv]\nfilters=1000000\n" + "[route]\nlayers=-1,-1\n" * 11,
    "[net]\ninputs=1\n[connected]\noutput=2147483647\n",
    "[net]\ninputs=2147483647\n[connected]\noutput=2\n",
    "[net]\nwidth=1\nheight=1\nchannels=1\n[implicit]\nfilters=2147483647\n",
    "[net]\nwidth=1\nheight=1\nchannels=1\n[rnn]\noutput=2147483647\nhidden=2147483647\n",
    "[net]\nwidth=1\nheight=1\nchannels=1\n[gru]\noutput=2147483647\n",
    "[net]\nwidth=64\nheight=64\nchannels=65536\n[reorg3d]\nstride=64\n",
    "[net]\nwidth=8\nheight=8\nchannels=3\n[local]\nfilters=2147483647\n",
    NET + "[yolo]\nclasses=2147483647\nnum=2147483647\n",
    NET + "[conv]\nfilters=18\n[yolo]\nclasses=1\nmask=" + "0," * 4095 + "0\n",
    NET + "[conv]\nfilters=3\n[route]\nlayers=" + "-1," * 4095 + "-1\n",
    NET + "[conv]\nfilters=3\n[upsample]\nstride=4096\n[upsample]\nstride=4096\n",
    NET + "[conv]\nfilters=3\n[history]\nhistory_size=2147483647\n",
]


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
def test_absurd_sizes_allocate_nothing(text: str) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(DarkpruneError):
            map_channels(build_graph(parse_cfg(text)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("", "neither width, height and channels nor inputs"),
        ("width=8\nheight=8\n", "neither width, height and channels nor inputs"),
        ("width=8\nheight=8\nchannels=0\n", "neither width, height and channels nor inputs"),
        ("width=-8\nheight=8\nchannels=3\n", "width=-8 is out of range"),
        ("width=8\nheight=99999\nchannels=3\n", "height=99999 is out of range"),
        ("width=8\nheight=8\nchannels=3\ninputs=-5\n", "inputs=-5 is out of range"),
        ("inputs=0\n", "neither"),
        ("inputs=5\nbatch=0\n", "batch=0 is out of range"),
        ("inputs=5\nsubdivisions=-1\n", "subdivisions=-1 is out of range"),
    ],
)
def test_inputs_that_cannot_be(net: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        build_graph(parse_cfg(f"[net]\n{net}[connected]\noutput=2\n"))


def test_the_first_section_and_the_rest() -> None:
    with pytest.raises(CfgError, match=r"^cfg:2: the first section is \[conv\]; darknet wants \[net\] there$"):
        build_graph(parse_cfg("# x\n[conv]\n"))
    with pytest.raises(CfgError, match="has no layer"):
        build_graph(parse_cfg("[network]\ninputs=3\n"))
    assert len(build_graph(parse_cfg("[network]\ninputs=3\n[conn]\n"))) == 1


@pytest.mark.parametrize(
    ("depth", "width", "height", "advice"),
    [
        (1, 64, 15, "the strides need multiples of 2: height=14 or 16 instead of 15"),
        (1, 15, 64, "the strides need multiples of 2: width=14 or 16 instead of 15"),
        (2, 18, 64, "the strides need multiples of 4: width=16 or 20 instead of 18"),
        (3, 1, 64, "the strides need multiples of 8: width=8 or 8 instead of 1"),
    ],
)
def test_the_next_sizes_are_told(depth: int, width: int, height: int, advice: str) -> None:
    """A map that was halved so many times and enlarged again does not fit the one that it came from."""
    down = "[convolutional]\nfilters=3\nsize=3\nstride=2\npad=1\n"
    head = f"[net]\nwidth={width}\nheight={height}\nchannels=3\n[convolutional]\nfilters=3\n"
    text = head + down * depth + f"[upsample]\nstride={2**depth}\n[route]\nlayers=-1,0\n"
    with pytest.raises(GraphError) as error:
        build_graph(parse_cfg(text))
    assert str(error.value).endswith(advice)
