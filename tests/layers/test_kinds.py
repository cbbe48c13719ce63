"""Every section kind against what AlexeyAB's program makes of the same cfg, and its declarations one by one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from golden_cfgs import CONV, GOLDEN, network

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import CfgError, DarkpruneError
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.weights import weights_bytes
from darkprune.layers import KINDS
from darkprune.layers.base import positions

#: what AlexeyAB's `string_to_layer_type` knows, [net] apart
ACCEPTED = """
    shortcut scale_channels sam crop cost detection region yolo Gaussian_yolo local conv convolutional
    activation crnn gru lstm conv_lstm history rnn conn connected max maxpool local_avg local_avgpool reorg3d
    reorg avg avgpool dropout lrn normalization batchnorm soft softmax contrastive route upsample empty
    silence implicit
"""
TRUTH = json.loads((Path(__file__).parent / "golden.json").read_text("ascii"))["networks"]


def graph(text: str) -> Graph:
    return build_graph(parse_cfg(text))


@pytest.mark.parametrize("name", GOLDEN)
def test_shapes_bytes_and_operations_are_those_of_the_real_program(name: str) -> None:
    built, truth = graph(GOLDEN[name]), TRUTH[name]
    assert weights_bytes(built) == truth["bytes"]
    assert round(built.bflops, 3) == pytest.approx(truth["bflops"], abs=1.1e-3)
    for layer, (_, *expected) in zip(built, truth.get("layers", []), strict="layers" in truth):
        assert [*layer.kind.seen_after(layer.output)] == expected, layer


def test_golden_networks_hold_every_section_name_that_darknet_accepts() -> None:
    used = {section.name for text in GOLDEN.values() for section in parse_cfg(text).sections[1:]}
    assert used == set(KINDS)
    assert set(KINDS) == set(ACCEPTED.split())


def names_of(*parts: str) -> str:
    """Names of biases and weights of the parts of a recurrent layer."""
    return " ".join(f"{part}.{blob}" for part in parts for blob in ("biases", "weights"))


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("conv filters=2", "biases weights"),
        ("conv filters=2 batch_normalize=1", "biases scales rolling_mean rolling_variance weights"),
        ("connected output=2 batch_normalize=1", "biases weights scales rolling_mean rolling_variance"),
        ("batchnorm", "biases scales rolling_mean rolling_variance"),
        ("local filters=2", "biases weights"),
        ("crnn output=8 hidden=8", names_of("input", "self", "output")),
        ("rnn output=2", names_of("input", "self", "output")),
        ("gru output=2", names_of("input_z", "input_r", "input_h", "state_z", "state_r", "state_h")),
        ("lstm output=2", names_of("wf", "wi", "wg", "wo", "uf", "ui", "ug", "uo")),
        ("conv_lstm output=2 peephole=1",
         names_of("vf", "vi", "vo", "wf", "wi", "wg", "wo", "uf", "ui", "ug", "uo")),
        ("conv_lstm output=2 bottleneck=1", names_of("wf", "uf", "ui", "ug", "uo")),
        ("implicit", "weights"),
        ("shortcut from=-1 weights_type=per_channel weights_normalization=relu", "weights"),
        ("shortcut from=-1", ""),
        ("maxpool size=2", ""),
    ],
)  # fmt: skip
def test_blobs_come_in_file_order(section: str, names: str) -> None:
    built = graph(network("9 9 3", CONV, section))
    assert " ".join(blob.name for blob in built[1].blobs) == names


@pytest.mark.parametrize(
    ("section", "shapes"),
    [
        ("conv filters=12 size=5 groups=4 padding=2", {"biases": (12,), "weights": (12, 2, 5, 5)}),
        ("conv filters=12 size=3 flipped=1", {"weights": (8, 3, 3, 12)}),
        ("connected output=5", {"biases": (5,), "weights": (5, 8 * 9 * 9)}),
        ("local filters=2 size=3", {"biases": (2, 7, 7), "weights": (49, 2, 8, 3, 3)}),
        ("shortcut from=-1,0 weights_type=per_channel weights_normalization=relu", {"weights": (3, 8)}),
        ("shortcut from=-1,0 weights_type=per_layer weights_normalization=relu", {"weights": (3,)}),
        ("implicit filters=4 atoms=3", {"weights": (4, 3)}),
    ],
)
def test_blob_shapes(section: str, shapes: dict[str, tuple[int, ...]]) -> None:
    text = network("9 9 3", CONV, section)
    blobs = {blob.name: blob.shape for blob in graph(text)[1].blobs}
    assert {name: blobs[name] for name in shapes} == shapes


def test_trainable_parameters_leave_out_running_statistics() -> None:
    built = graph(network("9 9 3", CONV, "batchnorm", "connected output=2 batch_normalize=1"))
    assert built.params - built.trainable_params == 2 * (8 + 8 + 2)


def test_macs_count_convolutions_and_connected_layers() -> None:
    built = graph(network("9 9 3", CONV, "conv filters=8 size=3 groups=8 pad=1", "maxpool size=3", "connected output=5",
                          "local filters=2"))  # fmt: skip
    assert [layer.macs for layer in built] == [8 * 3 * 9 * 81, 8 * 9 * 81, 0, 5 * 8 * 81, 2 * 5]


def test_unknown_section_names_its_line_and_a_likely_name() -> None:
    with pytest.raises(CfgError, match=r"x\.cfg:6: unknown section \[convolutionel\]; did you mean \[convolutional\]"):
        build_graph(parse_cfg(network("9 9 3", "convolutionel filters=3"), "x.cfg"))


@pytest.mark.parametrize("name", ["Convolutional", "deconvolutional", "YOLO", "shift_channels", "[conv", ""])
def test_other_dialects_and_spellings_are_unknown(name: str) -> None:
    text = f"[net]\nwidth=9\nheight=9\nchannels=3\n[{name}]\nfilters=3\n"
    with pytest.raises(CfgError, match="unknown section"):
        graph(text)


def test_unclosed_section_is_unknown_as_in_darknet() -> None:
    with pytest.raises(CfgError, match="unknown section"):
        graph("[net]\nwidth=9\nheight=9\nchannels=3\n[convolutional\nfilters=3\n")


@pytest.mark.parametrize(
    ("section", "warning"),
    [
        ("shortcut from=0 weights_type=per_channel", "weights_type needs weights_normalization"),
        ("conv_lstm output=2 bottleneck=1", "bottleneck"),
        ("crnn output=2", "must keep the map's size"),
        ("reorg3d stride=2 reverse=1", "division by zero: 2 channels are fewer than 4"),
        ("conv filters=2 activation=silu", "darknet does not know activation=silu and computes relu"),
        ("conv filters=2 activation=linear#comment", "computes relu; put the comment on a line of its own"),
    ],
)
def test_warnings_say_what_the_real_program_does(section: str, warning: str) -> None:
    (found,) = graph(network("9 9 3", CONV, section)).warnings
    assert warning in found
    assert "layer 1" in found or "line 15" in found


def test_slices_through_channels_are_counted_as_darknet_counts_them() -> None:
    built = graph(network("9 7 3", CONV, "route layers=0,0,0 groups=5 group_id=1", "batchnorm"))
    assert [tuple(layer.output) for layer in built] == [(8, 7, 9, 504), (4, 7, 9, 302), (4, 7, 9, 252)]


def test_network_without_a_map_is_warned_of() -> None:
    (found,) = graph("[net]\ninputs=9\n[rnn]\noutput=4\n").warnings
    assert "division by zero" in found


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (["route layers=0"], "reads itself"),
        (["conv filters=3", "route layers=2"], "refers to layer 2"),
        (["conv filters=3", "shortcut from=-3"], "refers to layer -2"),
        (["route"], "no layers="),
        (["conv filters=3", "shortcut"], "no from="),
        (["conv filters=3", "sam"], "no from="),
        (["conv filters=3", "scale_channels"], "no from="),
        (["conv filters=0"], "filters=0 is out of range"),
        (["local filters=20000000 size=3"], r"\[local\] would have more than 2\^31 - 1 weights"),
        (["conv filters=-2147483648"], "out of range"),
        (["conv filters=2147483647"], r"2\^31 - 1"),
        (["conv filters=3 size=0"], "size=0"),
        (["conv filters=3 stride=0"], "stride=0"),
        (["conv filters=3 stride=0 stride_x=2"], "stride=0"),
        (["maxpool size=2 stride_x=0 stride_y=2"], "stride=0"),
        (["maxpool size=2 stride_x=2 stride_y=0"], "stride=0"),
        (["conv filters=3 stride=0 stride_y=2"], "stride=0"),
        (["conv filters=3 padding=-1"], "padding=-1 is out of range"),
        (["conv filters=3 padding=4097"], "padding=4097 is out of range"),
        (["maxpool size=2 padding=-1"], "padding=-1 is out of range"),
        (["conv filters=3 size=7"], "empty map"),
        (["conv filters=3 groups=2"], "groups=2 divides"),
        (["maxpool size=9 padding=0"], "empty map"),
        (["upsample stride=0"], "stride=0"),
        (["upsample stride=4096", "upsample stride=4096"], r"2\^31 - 1"),
        (["reorg stride=2"], "at least 4 channels"),
        (["conv filters=3", "conv filters=3 stride=2", "route layers=0,1"], "different sizes"),
        (["conv filters=3", "route layers=0 groups=2 group_id=2"], "group_id=2"),
        (["conv filters=3", "conv filters=4", "sam from=0"], "different shapes"),
        (["conv filters=3", "avgpool", "conv filters=2", "scale_channels from=0"], "cannot scale"),
        (["conv filters=3", "maxpool", "conv filters=3 share_index=1"], r"shares the weights of layer 1 \(maxpool\)"),
        (["conv filters=3", "conv filters=4", "conv filters=4 share_index=-1"], "shares the weights of layer 1"),
        (["conv filters=3", "conv filters=3 size=3", "conv filters=3 share_index=-1"], "shares the weights of layer 1"),
        (["conv filters=3 share_index=0"], "reads itself"),
        (["conv filters=9", "yolo classes=2 num=2"], "set its filters=14"),
        (["conv filters=9", "region classes=2 num=2"], "set its filters=14"),
        (["conv filters=9", "detection"], "needs 147 inputs"),
        (["conv filters=9", "softmax groups=2"], "does not divide"),
        (["softmax", "conv filters=2"], "needs a map"),
        (["conv filters=4", "maxpool maxpool_depth=1 out_channels=5"], "exceeds the 4"),
        (["connected output=2147483647"], r"2\^31 - 1"),
        (["conv filters=3 groups=3", "conv filters=4 groups=3"], "groups=3 divides"),
        (["conv filters=2 antialiasing=2 size=5", "conv filters=2"], "the blur would give an empty map"),
    ],
)
def test_networks_that_cannot_be(sections: list[str], message: str) -> None:
    with pytest.raises(DarkpruneError, match=message) as raised:
        graph(network("5 5 3", *sections))
    assert str(raised.value).startswith("cfg:")
    assert "\n" not in str(raised.value)


def test_window_positions_round_towards_zero_like_c() -> None:
    for room in range(-12, 13):
        for stride in range(1, 6):
            assert positions(room, stride) == math.trunc(room / stride) + 1


def test_dilation_of_a_single_tap_is_none() -> None:
    """darknet ignores it: `if(size == 1) dilation = 1`; a runner that saw it would refuse the layer or pad it."""
    built = graph(network("8 8 3", "conv filters=2 size=1 pad=1 dilation=2", "conv filters=2 size=3 pad=1 dilation=2"))
    geometries = [layer.kind.geometry for layer in built]
    assert [geometry.dilation for geometry in geometries] == [1, 2]
