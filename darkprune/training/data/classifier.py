"""Training of classifiers: images by class, darknet's crops, accuracy.

As in darknet an image's class is the label whose name occurs in its path (`fill_truth`): `labels=` of the .data file
names them. Images of one class in each example: mixup and mosaic of classifiers are not implemented.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from darkprune.data.class_names import read_names
from darkprune.data.dataset import DataProblem
from darkprune.data.forms.darknet import DataFile, read_data_file, records_of_list
from darkprune.data.images import Pixels
from darkprune.data.loading import load_batches
from darkprune.errors import DataError
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.graph import Graph
from darkprune.network import Network, NetworkOutput
from darkprune.settings import PathLike
from darkprune.training.data.augment import Augmentation, Labels, draw_colours, shift_colours
from darkprune.training.data.batches import Batch
from darkprune.training.data.examples import Example, ExampleMaker, ImageSet
from darkprune.training.loop.objective import Objective
from darkprune.training.loop.validation import in_eval_mode
from darkprune.training.losses import Loss
from darkprune.training.losses.softmax import SoftmaxLoss


class ClassifierObjective(Objective):
    """Cross-entropy of a network that ends with [softmax]."""

    columns = ("loss", "accuracy")

    def __init__(self, graph: Graph) -> None:
        """Reads the loss's keys.

        Raises:
            TrainingError: the network does not end with a [softmax] that can be trained.
        """
        self.softmax = SoftmaxLoss(graph)
        self.source = self.softmax.layer.sources[0]
        self.taps = frozenset([self.source])

    def compute(self, output: NetworkOutput, batch: Batch, seen: int, wanted: NetworkOutput | None) -> Loss:
        """See `Objective.compute`."""
        raw = output.taps[self.source].flatten(1)
        classes = batch.truths.classes[:, 0].to(raw.device)
        value, chances = self.softmax(raw, self.softmax.truth(classes))
        right = (chances.argmax(dim=1) == classes).sum()
        return Loss(value, torch.stack([value.detach(), right.to(value.dtype)]))

    def report(self, sums: list[float], images: int) -> dict[str, float]:
        """See `Objective.report`."""
        return {"loss": sums[0] / images, "accuracy": sums[1] / images}


@dataclass(frozen=True)
class Crops:
    """What to vary in a classifier's images, named as in [net].

    Attributes:
        smallest, largest: length in pixels that an image's shorter side gets (`min_crop`, `max_crop`).
        angle: largest turn, in degrees.
        aspect: largest factor on (or divisor of) the aspect.
        side: of the square that is cut out, in pixels.
    """

    smallest: int
    largest: int
    angle: float
    aspect: float
    side: int

    @classmethod
    def read(cls, graph: Graph) -> Crops:
        """Reads them with darknet's defaults."""
        net, width = graph.net_options(), graph.net.input.w
        side = max(width, graph.net.input.h)
        return cls(
            net.int("min_crop", width), net.int("max_crop", 2 * width), net.float("angle"), net.float("aspect", 1), side
        )


class CropMaker(ExampleMaker):
    """Makes examples for classifiers (`random_augment_image`)."""

    def __init__(self, images: ImageSet, what: Augmentation, strict: bool, crops: Crops) -> None:
        super().__init__(images, what, strict)
        self.crops = crops

    def make(self, index: int, width: int, height: int, random: np.random.Generator) -> Example:
        """See `ExampleMaker.make`."""
        problems: list[DataProblem] = []
        source, pixels = self._read(index, random, problems)
        square = crop(pixels, self.crops, random)
        if self.what.flip and random.integers(2):
            square = np.ascontiguousarray(square[:, ::-1])
        coloured = shift_colours(square, *draw_colours(random, self.what))
        if coloured.shape[:2] != (height, width):
            coloured = np.asarray(cv2.resize(coloured, (width, height)), np.uint8).reshape(height, width, -1)
        return Example(coloured, self.images.labels[source], (source,), tuple(problems))


def crop(pixels: Pixels, crops: Crops, random: np.random.Generator) -> Pixels:
    """Turns, scales and cuts a square out of an image; outside it is 0: (side, side, c) uint8."""
    rows, columns, channels = pixels.shape
    aspect = float(random.uniform(min(1.0, crops.aspect), max(1.0, crops.aspect)))
    aspect = aspect if random.integers(2) else 1 / aspect
    low, high = sorted((crops.smallest, crops.largest))
    scale = int(random.integers(low, high + 1)) / max(1.0, min(rows, columns * aspect))
    turn = math.radians(float(random.uniform(-crops.angle, crops.angle)))
    free = (columns * scale / aspect - crops.side) / 2, (rows * scale - crops.side) / 2
    dx, dy = (float(random.uniform(-max(0.0, each), max(0.0, each))) for each in free)
    # target (x, y) -> source, as `rotate_crop_image` samples it
    x_step, y_step = aspect / scale, 1 / scale
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = np.array([[cos * x_step, -sin * y_step, 0], [sin * x_step, cos * y_step, 0]])
    offset = np.array([dx - crops.side / 2, dy - crops.side / 2])
    matrix[:, 2] = matrix[:, :2] @ offset + np.array([columns / 2, rows / 2])
    cut = cv2.warpAffine(pixels, matrix, (crops.side, crops.side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(cut, np.uint8).reshape(crops.side, crops.side, channels)


@dataclass(frozen=True)
class Accuracy:
    """Measures the share of images whose most likely class is right."""

    paths: tuple[Path, ...]
    classes: tuple[int, ...]
    batch: int = 8
    column: str = "top1"
    title: str = "accuracy"

    def measure(self, network: Network) -> float:
        """Measures a network, which stays in the mode (training or not) that it was in."""
        right = count = 0
        with in_eval_mode(network), torch.inference_mode():
            for batch in load_batches(self.paths, input_shape(network.graph), self.batch):
                if not len(batch.indices):
                    continue
                images = torch.from_numpy(batch.images).to(network.device)
                found = network(images).output.flatten(1).argmax(dim=1)
                wanted = np.array(self.classes)[batch.indices]
                right += int((found.cpu().numpy() == wanted).sum())
                count += len(wanted)
        return right / max(1, count)


def read_classes(data: DataFile, split: str, classes: int) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """Reads the images of a split and their classes.

    Raises:
        DataError: a key is missing, there are not as many labels as classes, or an image fits none of them, or several.
    """
    if "labels" not in data.options or split not in data.options:
        missing = "labels" if "labels" not in data.options else split
        raise DataError(f"{data.path}: has no `{missing}=` line, which a classifier's .data file needs")
    labels, _ = read_names(data.find("labels")[0])
    if len(labels) != classes:
        raise DataError(f"{data.path}: {len(labels)} labels, but the network has {classes} classes")
    listing, _ = data.find(split)
    records, _ = records_of_list(listing, (Path(), data.path.parent, listing.parent))
    paths = tuple(record.path for record in records)
    found = [[number for number, label in enumerate(labels) if label in str(path)] for path in paths]
    counts = Counter(len(each) for each in found)
    if counts[1] != len(paths):
        place = next(number for number, each in enumerate(found) if len(each) != 1)
        kind = "no label" if not found[place] else f"the labels {', '.join(labels[n] for n in found[place][:4])}"
        raise DataError(
            f"{listing}: {len(paths) - counts[1]} paths do not hold exactly one label; {paths[place]}: {kind}"
        )
    return paths, tuple(each[0] for each in found)


def class_images(path: PathLike, classes: int, channels: int) -> tuple[ImageSet, Accuracy | None]:
    """Reads a classifier's .data file: images to train on, and the measure on `valid`, if it has one.

    Raises:
        DataError: see `read_classes`.
    """
    data = read_data_file(Path(path))
    paths, numbers = read_classes(data, "train", classes)
    labels: list[Labels] = [np.array([[number, 0.5, 0.5, 1, 1]], np.float32) for number in numbers]
    accuracy = Accuracy(*read_classes(data, "valid", classes)) if "valid" in data.options else None
    return ImageSet(paths, tuple(labels), channels, {}), accuracy
