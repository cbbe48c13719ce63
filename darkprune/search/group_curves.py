"""Measures how sensitive each group is: each is pruned alone, ratio by ratio, and what the network retains is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from darkprune.data.dataset import Dataset, digest_of_labels
from darkprune.data.image_files import divide_images, images_of
from darkprune.errors import DataError
from darkprune.graph.graph import Graph
from darkprune.graph.stats import Totals, totals
from darkprune.progress import Steps, reporting, silent, track
from darkprune.runners.base import FAST_FIRST, load_with_any
from darkprune.runners.measure import DISTANCE, MAP, Measure, distance_to, map_of
from darkprune.runs.digests import digest_of_images, plain
from darkprune.runs.record import Input, Origin, file_input
from darkprune.search.curve_cache import CurveCache
from darkprune.selection.budget import HIGHEST, UNITS, Budget
from darkprune.selection.curves import LOST, RATIOS, Curve, Curves
from darkprune.selection.decide import Ranking, decide, voting_channels
from darkprune.selection.settings import Selection
from darkprune.settings import PathLike
from darkprune.surgery.surgery import Surgery

#: without labels: the outputs of the unpruned network are kept in memory
MOST_IMAGES = 64
#: with labels: mAP of fewer images is mostly noise
MOST_LABELLED = 256
BATCH = 8  #: images at a time
#: settings that do not change a curve: what curves decide, and the criterion, which enters through its scores
_IRRELEVANT = ("ratio", "ratios", "preset", "allocation", "budget", "criterion")


@dataclass(frozen=True)
class CurveImages:
    """The images that curves are measured on.

    Attributes:
        dataset: labelled images; None without labels.
        paths: image files, those of the dataset where there is one.
        runner: program to run the networks in; None for the fastest that takes them.
    """

    dataset: Dataset | None
    paths: tuple[Path, ...]
    runner: str | None = None

    @classmethod
    def of(cls, dataset: Dataset | None, images: PathLike | None, runner: str | None = None) -> CurveImages:
        """Takes a few images.

        Args:
            dataset: labelled images, of which some are taken evenly; or None.
            images: else a folder or a list of unlabelled ones, of which those are taken that no result is judged on.
        """
        if dataset is None:
            fit, _ = divide_images(images_of(Path(images))) if images is not None else ((), ())
            return cls(None, fit[:MOST_IMAGES], runner)
        step = -(-len(dataset.images) // MOST_LABELLED)
        dataset = replace(dataset, images=dataset.images[::step])
        return cls(dataset, tuple(record.path for record in dataset.images), runner)

    @property
    def metric(self) -> str:
        """What is measured on them."""
        return DISTANCE if self.dataset is None else MAP

    @property
    def input(self) -> Input:
        """What identifies images and labels: their content."""
        if self.dataset is not None:
            return Input(str(self.dataset.source), digest_of_labels(self.dataset, content=True))
        return Input(str(self.paths[0].parent) if self.paths else "", digest_of_images(self.paths, content=True))


@dataclass(frozen=True)
class MeasuredCurves:
    """The curves of a ranking's groups.

    Attributes:
        curves: themselves.
        kept_in: the file that has them for the next run.
        warnings: what is wrong with that file.
    """

    curves: Curves
    kept_in: Path
    warnings: tuple[str, ...]


def measure_curves(ranking: Ranking, selection: Selection, images: CurveImages) -> MeasuredCurves:
    """Returns the curves of all groups: from the cache beside the checkpoint, or measured and kept there.

    Raises:
        DataError: no image can be read; the unpruned network finds nothing.
        RunnerError: no program takes the network.
    """
    original = ranking.original
    origin = _origin(ranking, selection, images)
    cache = CurveCache(original.path, origin.inputs["weights"].sha256)
    voting = voting_channels(ranking)
    expected = [(group.name, number) for group, number in zip(ranking.groups, voting, strict=True)]
    curves = cache.find(origin, expected, tuple(UNITS))
    if len(curves) < len(expected):
        step = track("measuring curves", len(expected) * len(RATIOS), "ratio")
        step(len(curves) * len(RATIOS))
        retained = _retained(original.graph, original.path, images)
        for number in range(len(curves), len(expected)):
            curves.append(_measure(ranking, selection, number, retained, step))
            cache.keep(origin, curves)
    found = Curves(images.metric, _quantities(totals(ranking.weights.graph)), tuple(curves))
    return MeasuredCurves(found, cache.path, (cache.problem,) if cache.problem else ())


def _retained(graph: Graph, weights: Path, images: CurveImages) -> Callable[[Graph, Path], float]:
    """Returns what measures which part of the original's ability a slim pair retains."""
    runner, network = load_with_any(graph, weights, images.runner, taps=False, order=FAST_FIRST)

    @reporting(silent)
    def value(measure: Measure, slim: Graph, path: Path) -> float:
        _, loaded = load_with_any(slim, path, runner, taps=False)
        return measure(loaded)

    if images.dataset is None:
        away = distance_to(network, images.paths, BATCH)
        return lambda slim, path: max(0.0, 1 - value(away, slim, path) ** 2)
    measure = map_of(images.dataset, BATCH)
    whole = measure(network)
    if not whole > 0:
        raise DataError(
            f"{images.dataset.source}: the unpruned network finds nothing that is labelled on its "
            f"{len(images.paths)} images (mAP 0), so no curve can be measured; check --data and --names with eval"
        )
    return lambda slim, path: min(1.0, value(measure, slim, path) / whole)


def _measure(
    ranking: Ranking, selection: Selection, number: int, retained: Callable[[Graph, Path], float], step: Steps
) -> Curve:
    """Measures one group; where next to nothing is left, the higher ratios are taken to leave nothing."""
    channels = voting_channels(ranking)[number]
    ratios = (*RATIOS, HIGHEST)
    values: list[float] = []
    left: dict[str, list[float]] = {kind: [] for kind in UNITS}
    last: Surgery | None = None
    for ratio in ratios:
        alone = tuple(ratio if other == number else 0.0 for other in range(len(ranking.groups)))
        surgery = decide(ranking, replace(selection, allocation="explicit", ratios=alone, budget=None))
        for kind, value in _quantities(totals(surgery.graph)).items():
            left[kind].append(value)
        if last is not None and np.array_equal(last.cut.keep, surgery.cut.keep):
            values.append(values[-1])
        elif last is None and surgery.cut.keep.all():
            values.append(1.0)
        elif ratio == HIGHEST or (values and values[-1] < LOST):
            values.append(0.0)
        else:
            with surgery.temporary_weights() as path:
                values.append(round(retained(surgery.graph, path), 6))
        last = surgery
        if ratio != HIGHEST:
            step()
    lists = {kind: tuple(numbers) for kind, numbers in left.items()}
    return Curve(ranking.groups[number].name, channels, ratios, tuple(values), lists)


def _quantities(found: Totals) -> dict[str, float]:
    return {kind: Budget(kind, 0).of(found) for kind in UNITS}


def _origin(ranking: Ranking, selection: Selection, images: CurveImages) -> Origin:
    """Returns everything that decides the curves; the criterion and its images enter through the scores."""
    original = ranking.original
    scores = sha256()
    for values in (ranking.members.layer, ranking.members.channel, ranking.members.pool, ranking.members.score):
        scores.update(np.ascontiguousarray(values).tobytes() + b"/")
    for index, constants in sorted(ranking.measured.items()):
        scores.update(f"{index}:".encode() + np.ascontiguousarray(constants).tobytes())
    decided = {
        "metric": images.metric,
        "runner": images.runner,
        "ratios": RATIOS,
        "groups": [(group.first, group.last) for group in ranking.groups],
        "scores": scores.hexdigest(),
        "selection": {name: value for name, value in selection.described().items() if name not in _IRRELEVANT},
    }
    inputs = {
        "cfg": Input(original.graph.cfg.source, sha256(original.graph.cfg.encode()).hexdigest()),
        "weights": file_input(original.path),
        "images": images.input,
    }
    return Origin("curves", plain(decided), inputs)
