"""Measurements for a report: mAP per class, latency, boxes on images, spatial attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from darkprune.data.dataset import Dataset, Objects
from darkprune.data.images import Pixels, read_image
from darkprune.data.loading import load_image
from darkprune.errors import DataError, RunnerError, TrainingError
from darkprune.evaluation.detector import Detector, find_objects
from darkprune.evaluation.drawing import draw
from darkprune.evaluation.evaluate import evaluate_detector, truths_of
from darkprune.evaluation.metrics.results import EvaluateResult
from darkprune.evaluation.nms import Detections
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.graph import Graph
from darkprune.graph.groups import PruneGroup
from darkprune.pages.quality import Quality, quality_of
from darkprune.runners.base import FAST_FIRST, LoadedNetwork, load_with_any
from darkprune.runners.timing import time_alternately
from darkprune.surgery.plan import Plan
from darkprune.training.distillation.taps import Tap, choose_taps, match_taps

SIDE = 480  #: pixels of the longer side of a sample
MAP_SIDE = 200  #: of an attention map
MOST_TAPS = 8
WARMUP = 3  #: runs before those that are timed
THRESHOLD = 0.25
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85]


@dataclass(frozen=True)
class NamedNetwork:
    """A network that the report is about.

    Attributes:
        name: `original`, or the name of the result.
        graph: its structure.
        weights: its file.
    """

    name: str
    graph: Graph
    weights: Path


@dataclass(frozen=True)
class SampleImage:
    """An image with the boxes of every network.

    Attributes:
        name: of the image.
        pictures: what is shown of it, side by side: the labels (where there are any), then every network.
    """

    name: str
    pictures: tuple[BoxPicture, ...]


@dataclass(frozen=True)
class BoxPicture:
    """An image with boxes.

    Attributes:
        of: whose boxes they are: `labels`, or the name of a network.
        objects: their number.
        picture: a JPEG file.
    """

    of: str
    objects: int
    picture: bytes


@dataclass(frozen=True)
class TapAttention:
    """Spatial attention of both networks at one layer.

    Attributes:
        tap: the layer in both networks.
        pictures: a JPEG file per network.
        cosine: of the two maps; 1 where they are the same.
    """

    tap: Tap
    pictures: tuple[bytes, ...]
    cosine: float


@dataclass(frozen=True)
class ImageAttention:
    """Spatial attention of both networks in one image.

    Attributes:
        name: of the image.
        picture: input of the networks, JPEG.
        taps: per compared layer.
    """

    name: str
    picture: bytes
    taps: tuple[TapAttention, ...]


@dataclass(frozen=True)
class Measurements:
    """What was measured; what could not be is empty, with the reason in `problems`.

    Attributes:
        runner: the program that ran the networks.
        evaluations: mAP per network.
        qualities: precision over recall and confusion per network.
        seconds: of every timed run, per network.
        samples: images with boxes.
        attention: per image.
        problems: missing part -> reason.
    """

    runner: str = ""
    evaluations: tuple[EvaluateResult, ...] = ()
    qualities: tuple[Quality, ...] = ()
    seconds: tuple[tuple[float, ...], ...] = ()
    samples: tuple[SampleImage, ...] = ()
    attention: tuple[ImageAttention, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)


class RunningNetworks:
    """The networks of a report, loaded in one program.

    Attributes:
        networks: one, or the original and the result.
        runner: the program's name.
    """

    def __init__(self, networks: Sequence[NamedNetwork], runner: str | None) -> None:
        """Loads one network, or the original and the result; by default in the first program that takes them.

        Raises:
            GraphError, RunnerError: they cannot be run, or detect nothing.
        """
        self.networks = tuple(networks)
        self._loaded: list[LoadedNetwork] = []
        for network in networks:
            runner, loaded = load_with_any(network.graph, network.weights, runner, taps=False, order=FAST_FIRST)
            self._loaded.append(loaded)
        self.runner = str(runner)
        self._detectors = [Detector.of(loaded.graph, loaded.head_maps) for loaded in self._loaded]

    def evaluate(self, dataset: Dataset) -> tuple[tuple[EvaluateResult, ...], tuple[Quality, ...]]:
        """Measures mAP, and compares detections with labels, per network."""
        results, qualities = [], []
        for network, detector in zip(self.networks, self._detectors, strict=True):
            task = f"evaluating {network.name}"
            result, found = evaluate_detector(detector, dataset, task=task)
            classes = detector.heads[-1].classes
            truths = truths_of(dataset, classes)
            truths = truths.select(found.sizes[truths.image, 0] > 0)
            results.append(result)
            qualities.append(quality_of(found.detections, truths, classes, THRESHOLD))
        return tuple(results), tuple(qualities)

    def time(self, runs: int) -> tuple[tuple[float, ...], ...]:
        """Times single images, the networks in turn; returns the seconds of every run per network."""
        return tuple(map(tuple, time_alternately(self._loaded, runs, WARMUP)))

    def draw_samples(
        self, paths: Sequence[Path], names: Sequence[str], labels: Mapping[Path, Objects]
    ) -> tuple[SampleImage, ...]:
        """Draws labels and the boxes of all networks on images; images that cannot be read are left out."""
        each = [find_objects(detector, paths, threshold=THRESHOLD) for detector in self._detectors]
        samples = []
        for number, path in enumerate(paths):
            if any(not found.sizes[number, 0] for found in each):
                continue
            image = _shrunk(np.asarray(cv2.cvtColor(read_image(path, 3), cv2.COLOR_RGB2BGR), np.uint8), SIDE)
            pictures = [] if path not in labels else [_draw_labels(image, labels[path], names)]
            for network, found in zip(self.networks, each, strict=True):
                boxes = found.of_image(number)
                pictures.append(BoxPicture(network.name, len(boxes), _jpeg(draw(image, boxes, names))))
            samples.append(SampleImage(path.name, tuple(pictures)))
        return tuple(samples)

    def draw_attention(
        self, paths: Sequence[Path], groups: Sequence[PruneGroup], plan: Plan | None
    ) -> tuple[ImageAttention, ...]:
        """Draws the spatial attention of original and result over images, at the maps that distillation compares.

        Args:
            paths: image files; those that cannot be read are left out.
            groups: of the original.
            plan: of the cut between the two networks.

        Raises:
            TrainingError: there are no such maps in both.
            RunnerError: no program at hand shows the maps of inner layers.
        """
        teacher, student = self.networks[0], self.networks[-1]
        taps = _choose_taps(teacher.graph, student.graph, groups, plan)
        loaded = [load_with_any(n.graph, n.weights, taps=True)[1] for n in (teacher, student)]
        found = [shown for path in paths if (shown := _attention_in(path, loaded, taps)) is not None]
        if not any(shown.taps for shown in found):
            raise RunnerError("no program at hand shows the maps that would be compared")
        return tuple(found)


def _draw_labels(image: Pixels, objects: Objects, names: Sequence[str]) -> BoxPicture:
    nothing = np.zeros(len(objects), np.int64)
    boxes = Detections(nothing, objects.boxes, objects.classes, np.ones(len(objects), np.float32))
    return BoxPicture("labels", len(objects), _jpeg(draw(image, boxes, names, scores=False)))


def attention(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns where a map (c, h, w) is active: Σ_c |A_c|², of norm 1, (h, w) (Zagoruyko & Komodakis 2017)."""
    where: NDArray[np.float64] = np.square(features.astype(np.float64)).sum(axis=0)
    return where / max(float(np.linalg.norm(where)), 1e-12)


def _attention_in(path: Path, networks: Sequence[LoadedNetwork], taps: Sequence[Tap]) -> ImageAttention | None:
    try:
        images = [load_image(path, input_shape(network.graph))[0] for network in networks]
    except DataError:
        return None
    before, after = (network.outputs(image) for network, image in zip(networks, images, strict=True))
    seen = _as_picture(images[0])
    shown = []
    for tap in taps:
        if tap.teacher in before and tap.student in after:  # some programs fuse layers away
            maps = attention(before[tap.teacher]), attention(after[tap.student])
            pictures = tuple(_jpeg(_heat(seen, where)) for where in maps)
            shown.append(TapAttention(tap, pictures, float((maps[0] * maps[1]).sum())))
    return ImageAttention(path.name, _jpeg(_shrunk(seen, MAP_SIDE)), tuple(shown))


def _choose_taps(teacher: Graph, student: Graph, groups: Sequence[PruneGroup], plan: Plan | None) -> tuple[Tap, ...]:
    taps = match_taps(choose_taps(teacher, groups, "paper"), teacher, student, plan)
    # squeeze-and-excitation has 1x1 maps, which have no places to compare
    wide = [tap for tap in taps if teacher[tap.teacher].output.h > 1]
    if not wide:
        raise TrainingError("the network has no maps to compare")
    chosen = sorted({round(i * (len(wide) - 1) / max(1, MOST_TAPS - 1)) for i in range(MOST_TAPS)})
    return tuple(wide[number] for number in chosen if number < len(wide))


def _as_picture(image: NDArray[np.float32]) -> Pixels:
    planes = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
    return np.ascontiguousarray((planes[::-1].transpose(1, 2, 0) * 255).round().astype(np.uint8))


def _heat(picture: Pixels, where: NDArray[np.float64]) -> Pixels:
    """Lays a map over a grey picture: brighter is more, in colour and without."""
    small = _shrunk(picture, MAP_SIDE)
    level = np.sqrt(where / max(float(where.max()), 1e-12))  # the square root shows the weaker places too
    size = (small.shape[1], small.shape[0])
    spread = cv2.resize((255 * level).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    colour = cv2.applyColorMap(spread, cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.addWeighted(colour, 0.7, grey, 0.3, 0), np.uint8)


def _shrunk(image: Pixels, side: int) -> Pixels:
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: Pixels) -> bytes:
    done, data = cv2.imencode(".jpg", image, _JPEG)
    if not done:
        raise DataError("OpenCV cannot write JPEG")
    return data.tobytes()
