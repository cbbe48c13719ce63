"""Classifiers: the real program's deltas, crops, and a run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from darkprune.cli.compression import train
from darkprune.darknet.cfg import parse_cfg
from darkprune.data.forms.darknet import read_data_file
from darkprune.errors import DarkpruneError, DataError, TrainingError
from darkprune.graph.graph import build_graph
from darkprune.training.data.classifier import Crops, crop, read_classes
from darkprune.training.losses.softmax import SoftmaxLoss
from tests.training.test_training_commands import FAST, call

RAW = [0.5, -1.0, 2.0, 0.25, -0.75]
TRUTH = [0.9, 0.025, 0.025, 0.025, 0.025]
CFG = """[net]
batch=8
subdivisions=1
width=16
height=16
channels=3
max_crop=24
angle=7
aspect=.75
learning_rate=0.05
max_batches=40
policy=poly
power=1

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=3
size=1
activation=linear

[avgpool]

[softmax]
groups=1
"""


def network(temperature: float = 1, tail: str = "", net: str = "") -> str:
    return (
        f"[net]\nwidth=2\nheight=2\nchannels=5\n{net}[convolutional]\nfilters=5\nactivation=linear\n[avgpool]\n"
        f"[softmax]\ntemperature={temperature:g}\n{tail}"
    )


@pytest.mark.parametrize(
    ("temperature", "tail", "updates", "cost"),
    [
        # `bias_updates` of the convolution before, and the mean cost: AlexeyAB's darknet for RAW and TRUTH
        (1, "", [0.7522922, -0.00795805, -0.63698024, -0.09003492, -0.01731898], 11.0625982),
        (2, "", [0.70028454, -0.06933889, -0.39779755, -0.15124823, -0.08189996], 8.80430889),
        (1, "[cost]\ntype=sse\n", [1.5045844, -0.01591611, -1.2739605, -0.18006983, -0.03463795], 6.02137756),
        (2, "[cost]\nscale=.5\n", [1.0504268, -0.10400833, -0.5966963, -0.22687235, -0.12284994], 4.74367094),
    ],
)
def test_deltas_are_those_of_the_real_program(temperature: float, tail: str, updates: list[float], cost: float) -> None:
    loss = SoftmaxLoss(build_graph(parse_cfg(network(temperature, tail), "x.cfg")))
    raw = torch.tensor([RAW]).requires_grad_()
    value, _ = loss(raw, torch.tensor([TRUTH]))
    value.backward()
    assert raw.grad is not None
    assert (-raw.grad[0]).tolist() == pytest.approx(updates, rel=1e-5, abs=1e-7)
    assert value.item() == pytest.approx(cost, rel=1e-6)


def test_labels_are_smoothed() -> None:
    loss = SoftmaxLoss(build_graph(parse_cfg(network(net="label_smooth_eps=.1\n"), "x.cfg")))
    assert loss.truth(torch.tensor([2])).tolist() == [pytest.approx([0.025, 0.025, 0.9, 0.025, 0.025])]
    two = network(net="label_smooth_eps=.1\n").replace("filters=5", "filters=2").replace("output=5", "output=2")
    loss = SoftmaxLoss(build_graph(parse_cfg(two, "x.cfg")))
    assert loss.truth(torch.tensor([1])).tolist() == [pytest.approx([0.1, 0.9])]


@pytest.mark.parametrize(
    "text",
    [
        network(tail="[cost]\ntype=smooth\n"),
        network(tail="[dropout]\n"),
        network().replace("temperature=1", "noloss=1"),
        network().split("[softmax]", maxsplit=1)[0],
    ],
)
def test_what_cannot_be_trained_is_said(text: str) -> None:
    with pytest.raises(TrainingError):
        SoftmaxLoss(build_graph(parse_cfg(text, "x.cfg")))


def test_crops_without_variation_are_the_middle() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = 200
    square = crop(image, Crops(40, 40, 0.0, 1.0, 40), np.random.default_rng(0))
    assert square.shape == (40, 40, 3)
    assert np.array_equal(np.flatnonzero(square[20, :, 0] > 100), np.flatnonzero(square[:, 20, 0] > 100))
    assert (square > 100).mean() == pytest.approx(0.25, abs=0.02)
    shapes = {crop(image, Crops(20, 90, 20.0, 0.7, 32), np.random.default_rng(n)).tobytes() for n in range(5)}
    assert len(shapes) == 5


def draw_classes(folder: Path, count: int) -> Path:
    """Draws images in three colours; the class stands in the path."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        name = ("red", "green", "blue")[number % 3]
        image = random.integers(0, 80, (20, 24, 3), np.uint8)
        image[4:16, 6:18, 2 - number % 3] += 150
        path = folder / "pictures" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        paths.append(str(path))
    (folder / "all.txt").write_text("\n".join(paths) + "\n")
    (folder / "labels.txt").write_text("/red/\n/green/\n/blue/\n")
    data = folder / "c.data"
    data.write_text(f"classes=3\ntrain={folder}/all.txt\nvalid={folder}/all.txt\nlabels={folder}/labels.txt\n")
    return data


def test_a_classifier_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_classes(tmp_path, 24)
    (tmp_path / "c.cfg").write_text(CFG)
    words = ["--workers", "0", "--no-tensorboard", "--eval-every", "40", "--save-every", "40", "--json"]
    assert call(train, "c.cfg", "--data", "c.data", "-o", "run", *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["top1"] >= 0.9
    assert told["figures"]["accuracy"] >= 0.5
    assert (tmp_path / "run" / "log.csv").read_text().splitlines()[0].startswith("step,rate,loss,accuracy")


def test_paths_must_hold_one_label(tmp_path: Path) -> None:
    data = draw_classes(tmp_path, 3)
    (tmp_path / "labels.txt").write_text("/red/\n/green/\npictures\n")
    with pytest.raises(DataError, match="exactly one label"):
        read_classes(read_data_file(data), "train", 3)
    with pytest.raises(DataError, match="3 labels, but the network has 4"):
        read_classes(read_data_file(data), "train", 4)
    data.write_text(f"train={tmp_path}/all.txt\n")
    (tmp_path / "c.cfg").write_text(CFG)
    with pytest.raises(DarkpruneError, match="labels="):
        call(train, tmp_path / "c.cfg", "--data", data, "-o", tmp_path / "run", *FAST)
