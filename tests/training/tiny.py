"""A network and a data set small enough to be trained in a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from darkprune.darknet.cfg import parse_cfg
from darkprune.data import read_dataset
from darkprune.graph.graph import Graph, build_graph
from darkprune.network import Network, initialise
from darkprune.training.data.batches import BatchLoader
from darkprune.training.data.examples import ExampleMaker, image_set
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.loop.distributed import Ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.loop import Trainer
from darkprune.training.loop.objective import DetectionObjective, Objective
from darkprune.training.loop.step import Stepper
from darkprune.training.loop.validation import Validation
from darkprune.training.recipe.recipe import Recipe, read_recipe
from darkprune.training.settings import RunSettings

CFG = """[net]
batch=8
subdivisions=2
width=32
height=32
channels=3
momentum=0.9
decay=0.0005
saturation=1.5
exposure=1.5
hue=.1
learning_rate=0.01
burn_in=2
max_batches=8
policy=steps
steps=6,7
scales=.1,.1
mosaic=1

[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=10
size=1
activation=leaky

[convolutional]
batch_normalize=1
filters=12
size=3
pad=1
activation=linear

[shortcut]
from=-3
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish

[dropout]
probability=.1

[convolutional]
filters=14
size=1
activation=linear

[yolo]
mask=0,1
anchors=8,8, 16,14
classes=2
num=2
jitter=.2
ignore_thresh=.7
iou_loss=ciou
iou_normalizer=0.5
random=0
"""


def tiny_graph(**net: object) -> Graph:
    """The network; `net` gives further keys of [net], or other values."""
    cfg = parse_cfg(CFG, "tiny.cfg")
    return build_graph(cfg.with_values({(0, key): str(value) for key, value in net.items()}))


def write_images(folder: Path, count: int, *, side: int = 48, seed: int = 0) -> Path:
    """Draws discs (class 0) and squares (class 1) and writes them with darknet labels; returns the .data file."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        image = random.integers(0, 90, (side, side, 3), np.uint8)
        lines = []
        for _ in range(int(random.integers(1, 4))):
            kind = int(random.integers(2))
            radius = int(random.integers(4, 10))
            x, y = (int(v) for v in random.integers(radius, side - radius, 2))
            colour = (255, 200, 40) if kind == 0 else (40, 120, 255)
            if kind == 0:
                cv2.circle(image, (x, y), radius, colour, -1)
            else:
                cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
            lines.append(f"{kind} {x / side:.6f} {y / side:.6f} {2 * radius / side:.6f} {2 * radius / side:.6f}")
        path = folder / "images" / f"{number:03}.png"
        cv2.imwrite(str(path), image)
        path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
        paths.append(str(path))
    (folder / "train.txt").write_text("\n".join(paths) + "\n")
    (folder / "valid.txt").write_text("\n".join(paths[: max(1, count // 3)]) + "\n")
    (folder / "x.names").write_text("disc\nsquare\n")
    data = folder / "x.data"
    data.write_text(
        f"classes=2\ntrain={folder / 'train.txt'}\nvalid={folder / 'valid.txt'}\nnames={folder / 'x.names'}\n"
    )
    return data


def fresh_network(graph: Graph, seed: int = 0) -> Network:
    """A network with drawn weights."""
    network = Network(graph)
    initialise(network, seed)
    return network


def make_trainer(
    graph: Graph,
    data: Path,
    folder: Path,
    *,
    network: Network | None = None,
    recipe: Recipe | None = None,
    settings: RunSettings | None = None,
    objective: Objective | None = None,
    hooks: tuple[Hook, ...] = (),
    ranks: Ranks | None = None,
    resume: bool = False,
    save_every: int = 2,
    validate: bool = False,
    workers: int = 0,
    strict: bool = False,
) -> Trainer:
    """A trainer of the tiny network."""
    torch.set_num_threads(1)
    dataset = read_dataset(data, "train")
    images = image_set(dataset, 2, 3)
    ranks = ranks or Ranks()
    settings = replace(
        settings or RunSettings(), save_every=save_every, keep_every=1000, eval_every=4, resume=resume,
        no_tensorboard=True,
    )  # fmt: skip
    parts = settings.subdivisions or graph.net.subdivisions  # two, so that tests see steps of more than one part
    recipe = recipe or read_recipe(graph, len(images), replace(settings, subdivisions=parts), ranks=ranks.count)
    plan = recipe.batch_plan(ranks.rank, ranks.count)
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        stepper=Stepper(
            network=network or fresh_network(graph),
            objective=objective or DetectionObjective(graph),
            recipe=recipe,
            ranks=ranks,
            hooks=hooks,
            paths=images.paths,
        ),
        loader=BatchLoader(ExampleMaker(images, recipe.augmentation, strict), plan, workers),
        folder=RunFolder(folder, "tiny"),
        settings=settings,
        validation=Validation(read_dataset(data, "valid"), workers=1) if validate else None,
    )
