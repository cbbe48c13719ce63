"""What darknet reads otherwise than it was meant is said in one short line, and real networks are silent."""

from __future__ import annotations

import pytest

from darkprune.darknet.cfg import parse_cfg, read_cfg
from darkprune.errors import CfgError, GraphError
from darkprune.graph.graph import build_graph
from tests.assets import ZOO, needs_assets

NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\n"


def warnings(sections: str, net: str = NET) -> tuple[str, ...]:
    return build_graph(parse_cfg(net + sections)).warnings


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("batch_normalise=1", "line 9: darknet ignores 'batch_normalise', which is no key of [convolutional] "
         "(did you mean batch_normalize?)"),
        ("filters=99", "line 9: darknet ignores filters=99: the section's first filters= counts"),
        ("stride=1*2", "line 9: darknet reads stride=1*2 as 1"),
        ("stride=1e1", "line 9: darknet reads stride=1e1 as 1"),
        ("groups=1.5", "line 9: darknet reads groups=1.5 as 1"),
        ("activation=silu", "line 9: darknet does not know activation=silu and computes relu; its own name is swish: "
         "to convert what was meant, export with --as swish"),
        ("activation=leaky # or mish", "line 9: darknet does not know activation=leaky#ormish and computes relu; put "
         "the comment on a line of its own"),
        ("activation=frelu", "line 9: darknet does not know activation=frelu and computes relu"),
        ("activation=LEAKY", "line 9: darknet does not know activation=LEAKY and computes relu; did you mean leaky?"),
        ("filters=8", None),
        ("stride=1 # one", None),
        ("stride=1 ; one", None),
        ("stride=1 // one", None),
        ("stopbackward=800", None),
        ("activation=mish", None),
    ],
)  # fmt: skip
def test_keys_and_values_that_darknet_reads_otherwise(key: str, message: str | None) -> None:
    assert warnings(f"{CONV}{key}\n") == (() if message is None else (message,))


def test_what_occurs_often_is_one_line() -> None:
    (line,) = warnings(f"{CONV}activation=silu\n" * 9)
    assert line.startswith("lines 9, 14, 19 and 6 more: darknet does not know activation=silu")


@pytest.mark.parametrize(
    ("steps", "read"), [("80%,90%", "80,90"), ("0.8,0.9", "0,0"), ("48,54", None), ("48,54 # 80 %, 90 %", None)]
)
def test_steps_that_are_no_numbers_of_batches(steps: str, read: str | None) -> None:
    found = warnings(CONV, f"{NET}max_batches=60\nsteps={steps}\n")
    expected = f"line 6: darknet reads steps={steps} as {read}; it counts batches (max_batches=60)"
    assert found == (() if read is None else (expected,))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (f"{CONV}[route] # neck\nlayers=-1\n", "'#neck' follows \\[route\\] on its line"),
        (f"{CONV}{NET}{CONV}", "a second \\[net\\]: does the file hold two networks"),
        ("[Convolutional]\nfilters=8\n", r"unknown section \[Convolutional\]; did you mean \[convolutional\]\?"),
        ("[convolutional]\nfilters=(3+5)*3\n", r"filters='\(3\+5\)\*3' is read as 0; write one whole number"),
        (f"[{'x' * 5000}]\n", "unknown section"),
    ],
)
def test_sections_that_darknet_does_not_know(sections: str, message: str) -> None:
    with pytest.raises(CfgError, match=message) as raised:
        build_graph(parse_cfg(NET + sections))
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("num=6\nmask=0,1,2\nanchors=1,2, 3,4, 5,6", "has 6 numbers, but num=6 needs 12: darknet takes 0.5"),
        ("num=3\nanchors=1,2  3,4  5,6", "has 4 numbers, but num=3 needs 6.*is a comma missing"),
        ("num=3\nanchors=1,2, 3,4, 5,6, 7,8", "has 8 numbers, but num=3 needs 6: darknet ignores the rest"),
        ("num=3\nmask=3,4,5\nanchors=1,2, 3,4, 5,6", "reads past its 3 anchors"),
        ("num=3\nanchors=1,2, 3,4, 5,6 # 7,8, 9,9", None),
        ("num=3", None),
    ],
)
def test_anchors_that_do_not_fit(head: str, message: str | None) -> None:
    found = warnings(f"[convolutional]\nfilters=18\n[yolo]\nclasses=1\n{head}\n")
    if message is None:
        assert found == ()
    else:
        with pytest.raises(AssertionError, match=message):
            assert found == ()
        assert len(found) == 1


def test_the_published_mask_of_yolov3_tiny_is_recognised() -> None:
    anchors = "10,14,  23,27,  37,58,  81,82,  135,169,  344,319"
    text = f"[convolutional]\nfilters=255\n[yolo]\nmask = MASK\nanchors = {anchors}\nclasses=80\nnum=6\n"
    (line,) = warnings(text.replace("MASK", "0,1,2"))
    assert "trained with mask=1,2,3" in line
    assert warnings(text.replace("MASK", "1,2,3")) == ()


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        ("width=100\nheight=96", "multiples of 16: width=96 or 112 instead of 100"),
        ("width=100\nheight=40", "multiples of 16: width=96 or 112 instead of 100, height=32 or 48 instead of 40"),
    ],
)
def test_sizes_that_the_strides_do_not_divide(size: str, hint: str) -> None:
    down = "[convolutional]\nfilters=8\nsize=3\nstride=2\npad=1\n"
    sections = f"{down * 4}[upsample]\nstride=2\n[route]\nlayers=-1,2\n"
    with pytest.raises(GraphError, match=f"joins maps of different sizes .*; the strides need {hint}"):
        build_graph(parse_cfg(f"[net]\n{size}\nchannels=3\n{sections}"))
    build_graph(parse_cfg(f"[net]\nwidth=96\nheight=48\nchannels=3\n{sections}"))


def test_sizes_are_not_blamed_for_layers_that_never_fit() -> None:
    with pytest.raises(GraphError) as raised:
        build_graph(parse_cfg(f"[net]\nwidth=99\nheight=99\nchannels=3\n{CONV}{CONV}stride=2\n[route]\nlayers=0,1\n"))
    assert "strides" not in str(raised.value)


@needs_assets
def test_published_networks_are_silent() -> None:
    """Two unread keys, one mask, and what darknet stops at: no more in 87 files, but for odd anchors in two."""
    for path in sorted(ZOO.glob("*.cfg")):
        for line in build_graph(read_cfg(path)).warnings:
            known = ("uc_normalizer", "beta1", "mask=0,1,2 stands in", "aborts", "stops")
            assert path.name.startswith("cspx-p7-mish") or any(word in line for word in known), f"{path.name}: {line}"
