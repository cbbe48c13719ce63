"""Inputs of public reports, one folder each: the right result, or one clear line. The kinds have tests of their own."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from darkprune.cli.main import main
from tests.assets import CASES, needs_cases

BASE = CASES / "_base"
DATA_OK = CASES / "data-ok" / "obj.data"
#: folder -> what `info` says of its net.cfg with the weights of the base: the status, and a part of the line
NETWORKS: dict[str, tuple[int, str]] = {
    "cfg-anchors-comment": (0, ""),
    "cfg-anchors-fewer": (0, "anchors= has 6 numbers, but num=6 needs 12"),
    "cfg-anchors-nocomma": (0, "anchors= has 7 numbers, but num=6 needs 12"),
    "cfg-anchors-odd": (0, "anchors= has 11 numbers, but num=6 needs 12"),
    "cfg-bom": (1, "starts with a UTF-8 byte order mark"),
    "cfg-cr-only": (1, "its lines end in a carriage return alone"),
    "cfg-crlf-tabs": (0, ""),
    "cfg-equals-in-comment": (0, "line 29: darknet ignores filters=99"),
    "cfg-filters-formula": (1, "filters='(3+5)*3' is read as 0; write one whole number"),
    "cfg-hash-comments": (0, "activation=leaky#mish and computes relu; put the comment on a line of its own"),
    "cfg-mask-past": (0, "with num=3; anchors= has 6: is that num?"),
    "cfg-other-comments": (0, ""),
    "cfg-section-case": (1, "unknown section [Upsample]; did you mean [upsample]?"),
    "cfg-section-comment": (1, "'#neck' follows [route] on its line"),
    "cfg-stopbackward": (0, ""),
    "cfg-two-nets": (1, "a second [net]: does the file hold two networks?"),
    "cfg-typo-key": (1, "darknet ignores 'batch_normalise' (did you mean batch_normalize?) in line 42"),
    "cfg-utf16": (1, "is UTF-16 text"),
    "cfg-width-not-32": (1, "the strides need multiples of 16: width=96 or 112 instead of 100"),
    "cfg-width-one-head-classes": (1, "with classes=2 needs 21 channels, but the layer before gives 24"),
    "net-batch-lt-subdiv": (0, ""),
    "net-batch-notmultiple": (0, ""),
    "net-letterbox": (0, ""),
    "net-maxbatches-0": (0, ""),
    "net-rect": (0, ""),
    "net-steps-frac": (0, "darknet reads steps=0.8,0.9 as 0,0; it counts batches (max_batches=60)"),
    "net-steps-percent": (0, "darknet reads steps=80%,90% as 80,90; it counts batches (max_batches=60)"),
    "net-steps-scales-count": (0, ""),
    "train-other-classes": (
        1,
        "it would fit classes=3: take the cfg that it was trained with, or let",
    ),
    "weights-lfs": (1, "is a Git LFS pointer"),
    "weights-nan": (0, "layer 5 (convolutional): weights holds NaN"),
}
#: networks with other first layers than the base's
OTHER_INPUTS = ("net-6ch", "net-gray", "net-gray-hue0")
#: folder -> what `check` says first of its obj.data with the cfg of the base; "" where nothing is wrong
DATA: dict[str, str] = {
    "data-backslash": "6 of 6 lines have backslashes",
    "data-class1based": "class numbers run from 1 to 3, but darknet counts from 0",
    "data-comma-label": "label line is not numbers",
    "data-float-class": "class 0.0 is read as 0; darknet would shift all numbers after it",
    "data-halfmissing": "no such label file; darknet takes the image for one without objects",
    "data-names-short": "says classes=3 but",
    "data-ok": "",
    "data-sci": "",
    "data-seg": "polygons are read as boxes; darknet would shift all numbers after it",
    "data-six-cols": "a sixth number per line is left out; darknet would shift all numbers after it",
    "data-trailing-spaces": "6 of 6 lines end in blanks",
    "data-two": "has 2 names but the network's head 3 classes",
    "data-utf16-label": "is UTF-16, in which darknet finds no labels; it is read all the same",
    "data-utf16-list": "",
    "data-winabs": "6 of 6 lines are paths of a Windows machine",
    "net-valid-broken": "",
}
#: .data files that lead nowhere -> what the error shows
NOWHERE = {
    "data-comment-in-data": "train=train.txt#myimages points nowhere",
    "data-space-in-path": "train=dataspace/train.txt points nowhere",
}
#: these have tests in tests/data, tests/cli/test_first_hour.py and tests/engines
ELSEWHERE = {"form", "img", "fuzz", "_base", "kit", "net space", "weights"}

pytestmark = needs_cases


def lines(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, list[str]]:
    """Runs a command; returns its output, and its lines on stderr."""
    assert main([str(argument) for argument in arguments]) == status
    out, err = capsys.readouterr()
    return out, err.splitlines()


def test_every_folder_is_in_a_table() -> None:
    known = {*NETWORKS, *OTHER_INPUTS, *DATA, *NOWHERE}
    others = {path.name for path in CASES.iterdir() if path.is_dir()} - known
    assert {name for name in others if name not in ELSEWHERE and name.partition("-")[0] not in ELSEWHERE} == set()


@pytest.mark.parametrize("folder", NETWORKS)
def test_networks(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, message = NETWORKS[folder]
    weights = CASES / folder / "net.weights"
    weights = weights if weights.is_file() else BASE / "mini.weights"
    _, found = lines(capsys, "info", CASES / folder / "net.cfg", weights, status=status)
    assert any(message in line for line in found) if message else not found
    assert status == 0 or len(found) == 1
    assert all(len(line.replace(str(CASES), "")) < 280 for line in found)


@pytest.mark.parametrize("folder", OTHER_INPUTS)
def test_networks_with_another_input(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = CASES / folder / "net.cfg"
    lines(capsys, "init", cfg, "-o", tmp_path / "net.weights")
    lines(capsys, "prune", cfg, tmp_path / "net.weights", "--ratio", "0.3", "-o", tmp_path / "slim")
    lines(capsys, "verify", tmp_path / "slim", "--runner", "opencv" if "6ch" not in folder else "torch")


def test_comments_after_values_survive_a_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = CASES / "cfg-other-comments" / "net.cfg"
    lines(capsys, "prune", cfg, BASE / "mini.weights", "--ratio", "0.3", "-o", tmp_path / "slim")
    before, after = cfg.read_text(), (tmp_path / "slim" / "net.cfg").read_text()
    for comment in ("; was 64", "// my note", "; k"):
        assert after.count(comment) == before.count(comment) > 0
    assert "filters=32 ;" not in after


@pytest.mark.parametrize("folder", DATA)
def test_data(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = DATA[folder]
    words = ("check", "--data", CASES / folder / "obj.data", "--cfg", BASE / "mini.cfg")
    out, _ = lines(capsys, *words, status=1 if message else 0)
    assert message in out.splitlines()[0]
    assert message or "0 problems" in out


@pytest.mark.parametrize("folder", ["form-flat-voc", "form-kaggle-voc", "form-coco-string-ids"])
def test_classes_are_the_network_s_whatever_order_the_labels_have(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = (BASE / "mini.cfg", BASE / "mini.weights")
    source = CASES / folder / "all.json" if "coco" in folder else CASES / folder
    found = [json.loads(lines(capsys, "eval", *pair, "--data", data, "--json")[0]) for data in (DATA_OK, source)]
    right, other = ([(row["name"], row["truths"]) for row in figures["per_class"]] for figures in found)
    assert right == other
    words = ("prune", *pair, "--ratio", "0.3", "--data", source, "--allocation", "sensitivity")
    lines(capsys, *words, "-o", tmp_path / "slim")
    assert (tmp_path / "slim" / "mini.names").read_text().split() == ["red", "green", "blue"]


@pytest.mark.parametrize("folder", NOWHERE)
def test_data_files_that_lead_nowhere(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, (line,) = lines(capsys, "check", "--data", CASES / folder / "obj.data", status=1)
    assert NOWHERE[folder] in line


@pytest.mark.parametrize(
    ("weights", "status", "message"),
    [
        ("weights-gz/net.weights", 1, "is compressed with gzip; unpack it first"),
        ("weights-nan/negvar.weights", 0, "layer 0 (convolutional): rolling_variance holds negative values"),
    ],
)
def test_weights(weights: str, status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = lines(capsys, "info", BASE / "mini.cfg", CASES / weights, status=status)
    assert any(message in line for line in found)


@pytest.mark.parametrize("folder", ["img-exif/obj", "img-noeoi/obj", "img-formats"])
def test_images(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = (BASE / "mini.cfg", BASE / "mini.weights")
    words = ("detect", *pair, CASES / folder, "-o", tmp_path / "out", "--runner", "opencv", "--thresh", "0.9")
    out, found = lines(capsys, *words)
    images = [path for path in (CASES / folder).iterdir() if path.name not in ("README", "x.gif", "x.jp2")]
    if cv2.__version__.startswith(("4.8.", "4.9.", "4.10.")):  # they do not read GIF, whatever its name
        images = [path for path in images if not path.read_bytes().startswith(b"GIF8")]
    else:
        assert not [line for line in found if "skipped" in line]
    assert len(list((tmp_path / "out").iterdir())) == len(images) == out.count(" object")


def test_names_with_blanks_and_other_letters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (folder, stem) in enumerate((("net space", "my net"), ("kit-utf8-names", "net"))):
        pair = [CASES / folder / f"{stem}.{kind}" for kind in ("cfg", "weights")]
        lines(capsys, "prune", *pair, "--ratio", "0.3", "-o", tmp_path / str(number))
        names = tmp_path / str(number) / f"{stem}.names"
        assert names.read_bytes() == (CASES / folder / f"{stem}.names").read_bytes()
