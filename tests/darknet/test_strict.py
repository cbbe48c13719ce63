"""What hank-ai's strict reader refuses; each verdict was compared with that program (f684e1d7)."""

from __future__ import annotations

import pytest

from darkprune.darknet.cfg import parse_cfg, read_cfg
from darkprune.darknet.strict import strict_problems
from darkprune.layers import KINDS
from tests.assets import ZOO, needs_assets

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
#: files of the zoo that the program loads (its recurrent nets stop later, with a division by zero)
LOADS = """cd53paspp-gamma cifar.test crnn.train csresnext50-panet-spp-original-optimal csresnext50-panet-spp enet-coco
    extraction.conv go.test jnet-conv lstm.train resnet152_trident rnn rnn.train tiny-yolo tiny-yolo-voc tiny-yolo_xnor
    vgg-conv yolov2-tiny yolov2-tiny-voc yolov3 yolov3-spp yolov3-tiny yolov3-tiny-prn yolov3-tiny_3l yolov3-tiny_obj
    yolov3-tiny_occlusion_track yolov3-tiny_xnor yolov3-voc yolov3-voc.yolov3-giou-40 yolov3.coco-giou-12 yolov3_5l
    yolov4 yolov4-csp yolov4-csp-s-mish yolov4-csp-swish yolov4-csp-x-mish yolov4-csp-x-swish
    yolov4-csp-x-swish-frozen yolov4-custom yolov4-p5 yolov4-p5-frozen yolov4-p6 yolov4-tiny yolov4-tiny-3l
    yolov4-tiny-custom yolov4-tiny_contrastive yolov4_new yolov4x-mish yolov7 yolov7-tiny yolov7x"""


def messages(text: str) -> list[tuple[int, str, str]]:
    return [(found.line, found.section, found.message) for found in strict_problems(parse_cfg(text))]


@needs_assets
def test_zoo_verdicts_are_those_of_the_program() -> None:
    clean = {path.stem for path in ZOO.glob("*.cfg") if not strict_problems(read_cfg(path))}
    assert clean == set(LOADS.split())


@needs_assets
@pytest.mark.parametrize(
    ("name", "line", "part"),
    [
        ("alexnet", 9, "'max_crop' is not used"),
        ("Gaussian_yolov3_BDD", 24, "'max_epochs' is not used"),
        ("yolo9000", 8, "'batch' is given twice (line 3)"),
        ("cifar", 15, "section 'crop' was removed"),
        ("yolov2", 219, "section 'reorg' was removed"),
        ("cspx-p7-mish_hp", 2351, "anchors lists '45    61'"),
        ("cspx-p7-mish", 2348, "anchors lists 40 numbers, num has room for 32"),
        ("yolov4-sam-mish-csp-reorg-bfm", 1160, "'beta1' is not used"),
    ],
)
def test_zoo_problems(name: str, line: int, part: str) -> None:
    found = [problem for problem in strict_problems(read_cfg(ZOO / f"{name}.cfg")) if problem.line == line]
    assert any(part in problem.message for problem in found), found


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("max_crop=9", "'max_crop' is not used"),
        ("width=96", "'width' is given twice (line 2)"),
        ("learning_rate=1e-3", "no exponents"),
        ("momentum=+1", "no exponents"),
        ("hue=--1", "is no number"),
        ("hue=" + "9" * 40, "is no number"),
        (f"hue={2**128 - 2**104}", None),  # the largest 32-bit float, and the smallest normal one
        (f"hue={2**128 - 2**103}", "is no number"),
        (f"hue={2**-126:.140f}", None),
        (f"hue={2**-127:.140f}", "is no number"),
        ("hue=", None),
        ("hue= # none", "no exponents"),
        (";hue=1", "';' starts no comment"),
        ("; hue=1", None),
        ("; hue", None),
        ("#hue=1=2", None),
        ("hu e=1", "line without effect"),
        ("hue # x = 1", "line without effect"),
        ("hue", None),
        ("hue=.1 # inline", None),
        ("policy=steps", "needs steps and scales"),
        ("policy=steps\nsteps=1,2\nscales=.1,.1\nseq_scales=1,1", None),
        ("policy=sgdr\nsteps=1", None),
        ("policy=cosine", "is unknown; it knows constant"),
        ("steps=1,2", "steps is used with policy=steps or sgdr only"),
        ("policy=step\nstep=5\nscale=.1", None),
        ("policy=exp\nstep=5", "step is used with policy=step or sigmoid only"),
        ("B1=.9", "B1 is used with adam=1 only"),
        ("adam=1\nB1=.9\nB2=.99\neps=.1", None),
        ("contrastive=1", "two images"),
        ("contrastive=1\nbatch=2", None),
        ("contrastive=1\nbatch=4\nsubdivisions=2", None),
        ("contrastive=1\nbatch=4\nsubdivisions=3", "two images"),
        ("contrastive=1\nbatch=4\nsubdivisions=0", None),
        ("policy=steps\nsteps=1e3\nscales=.1", "steps lists '1e3'"),
        ("policy=steps\nsteps=1,2,\nscales=.1,.1", "steps lists ''"),
        ("seen=0", "'seen' is not used"),
        ("stopbackward=1", "'stopbackward' is not used"),
    ],
)
def test_net(line: str, part: str | None) -> None:
    check(messages(f"{NET}{line}\n[conv]\nfilters=3\nactivation=relu\n"), part)


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("[conv]\nactivation=hswish", "activation='hswish' is unknown"),
        ("[conv]\nactivation=linear # five", None),
        ("[conv] # a comment\nfilters=3", None),
        ("[ conv ]\nfilters=3", "section ' conv ' is unknown"),
        ("[conv]\nfilters=3\nstopbackward=1\nclip=.5\nlearning_rate=2", None),
        ("[conv]\nsize=3\nsway=1\nrotate=1", "only one of"),
        ("[conv]\nsway=1", "needs size=3"),
        ("[conv]\nsize=3\nsway=1", None),
        ("[conv]\nhidden=3", "'hidden' is not used"),
        ("[conv]\nactivation=leaky\n[shortcut]\nfrom=-1\nweights_type=per_layer", "weights_type='per_layer'"),
        ("[conv]\nactivation=leaky\n[shortcut]\nfrom=-1\nweights_type=per_feature\nweights_normalization=relu", None),
        ("[conv]\nactivation=leaky\n[sam]\nfrom=-1\nactivation=mish", "activation='mish' is unknown"),
        ("[net]\nwidth=3", "a second [net]"),
        ("[empty]", "section 'empty' was removed"),
        ("[deconvolutional]", "section 'deconvolutional' is unknown"),
        ("[conv]\nfilters=18\n[yolo]\nclasses=1\nnum=3\nmask=0,1,2\nanchors=1,2, 3,4, 5,6\nshow_details=1",
         "'show_details' is not used"),
        ("[conv]\nfilters=18\n[yolo]\nclasses=1\nnum=3\niou_loss=eiou", "iou_loss='eiou' is unknown"),
        ("[conv]\nfilters=18\n[yolo]\nclasses=1\nnum=3\nanchors=1,2,3,4,5,6,7,8", "has room for 6"),
        ("[conv]\nfilters=6\n[yolo]\nclasses=1\nanchors=1,2", None),
        ("[conv]\nfilters=6\n[yolo]\nclasses=1\nanchors=1,2,3", "anchors lists 3 numbers, num has room for 2"),
        ("[conv]\nfilters=18\n[yolo]\nclasses=1\nnum=3\ncounters_per_class=5,6", "lists 2 values for classes=1"),
        ("[conv]\nfilters=25\n[yolo]\ncounters_per_class=" + ",".join("5" * 20), None),
    ],
)  # fmt: skip
def test_sections(section: str, part: str | None) -> None:
    check(messages(f"{NET}\n{section}\n"), part)


def check(found: list[tuple[int, str, str]], part: str | None) -> None:
    if part is None:
        assert found == []
    else:
        assert len(found) == 1, found
        assert part in found[0][2]


@pytest.mark.parametrize(("last", "refused"), [("yolo", True), ("region", True), ("Gaussian_yolo", False)])
def test_input_size_of_networks_that_end_in_a_head(last: str, refused: bool) -> None:
    text = f"[net]\nwidth=64\nheight=50\nchannels=3\n[conv]\nfilters=3\n[{last}]\n"
    assert bool(messages(text)) is refused
    assert not messages(text + "[route]\nlayers=-2\n")


@pytest.mark.parametrize(
    ("size", "refused"),
    [("width=64\nheight=96", False), ("width=32\nheight=32", False), ("width=48\nheight=64", True), ("width=64", True)],
)
def test_input_sizes_that_a_head_takes(size: str, refused: bool) -> None:
    assert bool(messages(f"[net]\n{size}\nchannels=3\n[conv]\nfilters=3\n[yolo]\n")) is refused


def test_text_before_any_section() -> None:
    """Where only AlexeyAB's reader takes the line for a comment."""
    assert messages(f";hue=1\n{NET}") == [(1, "", "text before any section: ';hue=1'")]


def test_problems_come_in_the_order_of_the_lines() -> None:
    found = messages(f"{NET}width=64\nfoo=1\n[gru]\noutput=3\n[conv]\nsize=3\nbar=2\n")
    assert [line for line, _, _ in found] == [5, 6, 7, 11]
    assert [section for _, section, _ in found] == ["net", "net", "gru", "conv"]


def test_it_knows_each_kind_of_section_or_says_that_it_was_removed() -> None:
    for name in KINDS:
        found = messages(f"{NET}[{name}]\n")
        assert not any("unknown" in message for _, _, message in found), found


def test_a_network_of_another_beginning() -> None:
    assert messages("[conv]\nsize=3\n")[0] == (1, "conv", "[net] must come first")


def test_messages_are_printable_whatever_stands_in_the_file() -> None:
    found = messages(f"{NET}\x1b]0;x\x07=1\n[\x1b[2J]\n\xe9=\x07\n")
    assert len(found) == 2
    assert all(message.isascii() and message.isprintable() for _, _, message in found)
