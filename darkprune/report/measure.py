"""What a report measures itself: mAP per class, latency, boxes on images, and where both networks look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from darkprune.data.dataset import Dataset
from darkprune.data.images import read_image
from darkprune.data.loading import load_image
from darkprune.errors import DataError, RunnerError, TrainingError
from darkprune.evaluation.detector import Detector, find_objects
from darkprune.evaluation.drawing import draw
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.of_graph import input_shape
from darkprune.evaluation.results import EvaluateResult
from darkprune.graph.graph import Graph
from darkprune.graph.groups import PruneGroup
from darkprune.progress import Progress, silent, track
from darkprune.runners.base import FAST_FIRST, LoadedNetwork, load_with_any
from darkprune.runners.timing import time_alternately
from darkprune.surgery.plan import PrunePlan
from darkprune.training.distillation.taps import Tap, choose_taps, match_taps

SIDE = 480  #: pixels of the longer side of a sample
MAP_SIDE = 200  #: of an attention map
MOST_TAPS = 8
THRESHOLD = 0.25
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Network:
    """A network that the report is about.

    Attributes:
        name: `original`, or what became of it.
        graph: its structure.
        weights: its file.
    """

    name: str
    graph: Graph
    weights: Path


@dataclass(frozen=True)
class Sample:
    """One image with the boxes of every network: JPEG files, and how many objects each found."""

    name: str
    pictures: tuple[bytes, ...]
    found: tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """Where the networks look in one image.

    Attributes:
        name: of the image.
        picture: what the networks see, JPEG.
        maps: per tap the tap, JPEG of every network, and the cosine between the two maps (1: they look alike).
    """

    name: str
    picture: bytes
    maps: tuple[tuple[Tap, tuple[bytes, ...], float], ...]


@dataclass(frozen=True)
class Measured:
    """What was measured; what could not be is empty, with the reason in `problems`."""

    runner: str = ""
    evaluations: tuple[EvaluateResult, ...] = ()
    seconds: tuple[tuple[float, ...], ...] = ()
    samples: tuple[Sample, ...] = ()
    looks: tuple[Look, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)


class Bench:
    """Runs the networks of a report."""

    def __init__(
        self, networks: Sequence[Network], names: Sequence[str], runner: str | None, progress: Progress = silent
    ) -> None:
        """Loads them.

        Args:
            networks: one, or the original and what it became.
            names: of the classes.
            runner: program to run them in; the first that takes them by default.
            progress: gets events.

        Raises:
            GraphError, RunnerError: they cannot be run, or detect nothing.
        """
        self.networks, self.names, self.progress = tuple(networks), tuple(names), progress
        self.loaded: list[LoadedNetwork] = []
        self.runner = runner
        for network in networks:
            self.runner, loaded = load_with_any(
                network.graph, network.weights, self.runner, taps=False, order=FAST_FIRST
            )
            self.loaded.append(loaded)
        self.detectors = [Detector.of(loaded.graph, loaded.head_maps) for loaded in self.loaded]

    def evaluate(self, dataset: Dataset) -> tuple[EvaluateResult, ...]:
        """Measures mAP."""
        each = zip(self.networks, self.detectors, strict=True)
        return tuple(
            evaluate_detector(detector, dataset, task=f"evaluating {network.name}", progress=self.progress)[0]
            for network, detector in each
        )

    def time(self, runs: int) -> tuple[tuple[float, ...], ...]:
        """Times single images, the networks in turn."""
        random = np.random.default_rng(0)
        shapes = [network.graph.net.input for network in self.networks]
        images = [random.random((1, s.c, s.h, s.w), np.float32) for s in shapes]
        step = track(self.progress, "timing", (runs + 3) * len(images), "run")
        return tuple(map(tuple, time_alternately(self.loaded, images, runs, 3, step)))

    def samples(self, paths: Sequence[Path]) -> tuple[Sample, ...]:
        """Draws the boxes of all networks on images; what cannot be read is left out."""
        each = [
            find_objects(detector, paths, threshold=THRESHOLD, progress=self.progress) for detector in self.detectors
        ]
        samples = []
        for number, path in enumerate(paths):
            if any(not found.sizes[number, 0] for found in each):
                continue
            image = _shrunk(np.asarray(cv2.cvtColor(read_image(path, 3), cv2.COLOR_RGB2BGR), np.uint8), SIDE)
            here = [found.of_image(number) for found in each]
            pictures = tuple(_jpeg(draw(image, boxes, self.names)) for boxes in here)
            samples.append(Sample(path.name, pictures, tuple(map(len, here))))
        return tuple(samples)

    def looks(self, paths: Sequence[Path], groups: Sequence[PruneGroup], plan: PrunePlan | None) -> tuple[Look, ...]:
        """Draws the spatial attention Σ_c |A_c|² of both networks over images, at the maps that distillation compares.

        Raises:
            TrainingError: there are no such maps in both.
            RunnerError: no program at hand shows what layers give.
        """
        teacher, student = self.networks[0], self.networks[-1]
        taps = _taps(teacher.graph, student.graph, groups, plan)
        loaded = [load_with_any(n.graph, n.weights, taps=True)[1] for n in (teacher, student)]
        looks = []
        for path in paths:
            try:
                images = [load_image(path, input_shape(n.graph))[0] for n in (teacher, student)]
            except DataError:
                continue
            shown = [network.outputs(image) for network, image in zip(loaded, images, strict=True)]
            picture = _as_picture(images[0])
            maps = []
            for tap in taps:
                if tap.teacher not in shown[0] or tap.student not in shown[1]:
                    continue  # some programs fuse layers away
                both = [attention(shown[0][tap.teacher]), attention(shown[1][tap.student])]
                alike = float((both[0] * both[1]).sum())
                maps.append((tap, tuple(_jpeg(_heat(picture, where)) for where in both), alike))
            looks.append(Look(path.name, _jpeg(_shrunk(picture, MAP_SIDE)), tuple(maps)))
        if not any(look.maps for look in looks):
            raise RunnerError("no program at hand shows the maps that would be compared")
        return tuple(looks)


def attention(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns where a map (c, h, w) is active: Σ_c |A_c|², of norm 1, (h, w) (METHODS §3)."""
    where: NDArray[np.float64] = np.square(features.astype(np.float64)).sum(axis=0)
    return where / max(float(np.linalg.norm(where)), 1e-12)


def _taps(teacher: Graph, student: Graph, groups: Sequence[PruneGroup], plan: PrunePlan | None) -> tuple[Tap, ...]:
    taps = match_taps(choose_taps(teacher, groups, "paper"), teacher, student, plan)
    # squeeze-and-excitation has 1x1 maps, in which there is no place to look at
    seen = [tap for tap in taps if teacher[tap.teacher].output.h > 1]
    if not seen:
        raise TrainingError("the network has no maps to compare")
    chosen = sorted({round(i * (len(seen) - 1) / max(1, MOST_TAPS - 1)) for i in range(MOST_TAPS)})
    return tuple(seen[number] for number in chosen if number < len(seen))


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
