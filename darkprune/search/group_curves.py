"""Measures how sensitive each group is: pruned alone, ratio by ratio, it is seen what is left (METHODS §7)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from darkprune.data.dataset import Dataset
from darkprune.data.image_files import divide_images, images_of
from darkprune.errors import DataError
from darkprune.graph.graph import Graph
from darkprune.graph.stats import Totals, totals
from darkprune.progress import silent, track
from darkprune.runners.base import FAST_FIRST, load_with_any
from darkprune.runners.measure import DISTANCE, MAP, Following, Measure, distance_to, map_of
from darkprune.runs.digests import digest_of_file
from darkprune.search.curve_cache import CurveCache, try_to_keep
from darkprune.selection.budget import HIGHEST, UNITS, Budget
from darkprune.selection.curves import LOST, RATIOS, Curve, Curves
from darkprune.selection.decide import Ranking, decide, voting_channels
from darkprune.selection.settings import Selection
from darkprune.surgery.removed_units import original_of
from darkprune.surgery.surgery import Surgery

#: without labels: the outputs of the unpruned network are kept in memory
MOST_IMAGES = 64
#: with labels: mAP of fewer images is mostly noise
MOST_LABELLED = 256
#: fields of the settings that decide nothing about a curve: they are what curves decide, or enter through the scores
_NO_MATTER = ("ratio", "ratios", "preset", "allocation", "budget", "criterion")


@dataclass(frozen=True)
class Material:
    """What curves are measured on.

    Attributes:
        dataset: labelled images; None without labels.
        paths: image files, those of the dataset where there is one.
        runner: program to run the networks in; None for the fastest that takes them.
        batch: images at a time.
    """

    dataset: Dataset | None
    paths: tuple[Path, ...]
    runner: str | None = None
    batch: int = 8

    @classmethod
    def of(cls, dataset: Dataset | None, paths: Sequence[Path], runner: str | None = None, batch: int = 8) -> Material:
        """Takes a few images: evenly from a labelled set, else the first."""
        if dataset is None:
            return cls(None, tuple(paths[:MOST_IMAGES]), runner, batch)
        step = -(-len(dataset.images) // MOST_LABELLED)
        dataset = replace(dataset, images=dataset.images[::step])
        return cls(dataset, tuple(record.path for record in dataset.images), runner, batch)

    def sha256(self) -> str:
        """Hashes images and labels."""
        digest = sha256()
        for path in self.paths:
            try:
                digest.update(bytes.fromhex(digest_of_file(path)))
            except OSError:  # left out of the measurement too
                digest.update(b"unreadable")
        if self.dataset is not None:
            digest.update(json.dumps(self.dataset.class_names).encode())
            for reading in self.dataset.read_labels():
                objects = reading.objects
                for values in (objects.boxes, objects.classes, objects.difficult):
                    digest.update(np.ascontiguousarray(values).tobytes() + b"/")
        return digest.hexdigest()


def measured_curves(
    ranking: Ranking, settings: Selection, material: Material, following: Following
) -> tuple[Curves, CurveCache]:
    """Returns the curves of all groups: from the cache beside the checkpoint, or measured and kept there.

    Args:
        ranking: of the pair.
        settings: how to prune; ratios and allocation are of no matter.
        material: images.
        following: shows progress.

    Returns:
        The curves, and the cache: where they are kept, and what was wrong with it.

    Raises:
        DataError: no image can be read; the unpruned network finds nothing.
        RunnerError: no program takes the network.
    """
    original = original_of(ranking.weights)
    weights_sha256 = digest_of_file(original.file.path)
    cache = CurveCache(original.file.path, weights_sha256)
    metric = DISTANCE if material.dataset is None else MAP
    voting = voting_channels(ranking)
    expected = [(group.name, number) for group, number in zip(ranking.groups, voting, strict=True)]
    key = _key(ranking, settings, material, metric, weights_sha256)
    before = _quantities(totals(ranking.weights.graph))
    curves = cache.find(key, expected, tuple(UNITS))
    if len(curves) < len(expected):
        retained = _retained(original.graph, original.file.path, material)
        with following(len(expected) * len(RATIOS), "measuring curves") as report:
            step = track(report, "measuring curves", len(expected) * len(RATIOS), "ratio")
            for number in range(len(curves), len(expected)):
                curves.append(_measure(ranking, settings, number, retained, step.at))
                try_to_keep(cache, key, curves)
    return Curves(metric, before, tuple(curves)), cache


@dataclass(frozen=True)
class WithCurves:
    """A ranking with the groups' curves.

    Attributes:
        ranking: with them.
        curves: themselves.
        kept_in: the file that has them for the next run.
        warnings: what was wrong with an earlier one.
    """

    ranking: Ranking
    curves: Curves
    kept_in: Path
    warnings: tuple[str, ...]


def with_curves(
    ranking: Ranking,
    settings: Selection,
    dataset: Dataset | None,
    images: str | None,
    runner: str | None,
    following: Following,
) -> WithCurves:
    """Measures the curves of a ranking's groups, on labels if there are any, else on unlabelled images."""
    # of unlabelled images those that are held out judge the result
    paths = divide_images(images_of(Path(images)))[0] if dataset is None and images is not None else ()
    curves, cache = measured_curves(ranking, settings, Material.of(dataset, paths, runner), following)
    problems = (cache.problem,) if cache.problem else ()
    return WithCurves(replace(ranking, curves=curves), curves, cache.path, problems)


def _retained(graph: Graph, weights: Path, material: Material) -> Callable[[Graph, Path], float]:
    """Returns what measures which part of the original's ability a slim pair retains."""
    runner, network = load_with_any(graph, weights, material.runner, taps=False, order=FAST_FIRST)

    def value(measure: Measure, slim: Graph, path: Path) -> float:
        _, loaded = load_with_any(slim, path, runner, taps=False)
        return measure(loaded, silent)

    if material.dataset is None:
        away = distance_to(network, material.paths, material.batch)
        return lambda slim, path: max(0.0, 1 - value(away, slim, path) ** 2)
    measure = map_of(material.dataset, material.batch)
    whole = measure(network, silent)
    if not whole > 0:
        raise DataError(
            f"{material.dataset.source}: the unpruned network finds nothing that is labelled on its "
            f"{len(material.paths)} images (mAP 0), so no curve can be measured; check --data and --names with eval"
        )
    return lambda slim, path: min(1.0, value(measure, slim, path) / whole)


def _measure(
    ranking: Ranking,
    settings: Selection,
    number: int,
    retained: Callable[[Graph, Path], float],
    progress: Callable[[int, int], object],
) -> Curve:
    """Measures one group; where next to nothing is left, the higher ratios are taken to leave nothing."""
    channels = voting_channels(ranking)[number]
    ratios = (*RATIOS, HIGHEST)
    values: list[float] = []
    left: dict[str, list[float]] = {kind: [] for kind in UNITS}
    last: Surgery | None = None
    for done, ratio in enumerate(ratios, start=1):
        alone = tuple(ratio if other == number else 0.0 for other in range(len(ranking.groups)))
        decision = decide(ranking, replace(settings, allocation="explicit", ratios=alone, budget=None))
        for kind, value in _quantities(totals(decision.graph)).items():
            left[kind].append(value)
        if last is not None and np.array_equal(last.cut.keep, decision.cut.keep):
            values.append(values[-1])
        elif last is None and decision.cut.keep.all():
            values.append(1.0)
        elif ratio == HIGHEST or (values and values[-1] < LOST):
            values.append(0.0)
        else:
            with decision.temporary_weights() as path:
                values.append(round(retained(decision.graph, path), 6))
        last = decision
        progress(number * len(RATIOS) + min(done, len(RATIOS)), len(ranking.groups) * len(RATIOS))
    lists = {kind: tuple(numbers) for kind, numbers in left.items()}
    return Curve(ranking.groups[number].name, channels, ratios, tuple(values), lists)


def _quantities(found: Totals) -> dict[str, float]:
    return {kind: Budget(kind, 0).of(found) for kind in UNITS}


def _key(ranking: Ranking, settings: Selection, material: Material, metric: str, weights_sha256: str) -> str:
    """Hashes everything that a curve depends on; the criterion and its images enter through the scores."""
    scores = sha256()
    for values in (ranking.members.layer, ranking.members.channel, ranking.members.pool, ranking.members.score):
        scores.update(np.ascontiguousarray(values).tobytes() + b"/")
    for index, constants in sorted(ranking.measured.items()):
        scores.update(f"{index}:".encode() + np.ascontiguousarray(constants).tobytes())
    about = {
        "cfg": sha256(original_of(ranking.weights).graph.cfg.encode()).hexdigest(),
        "weights": weights_sha256,
        "metric": metric,
        "images": material.sha256(),
        "runner": material.runner,
        "ratios": RATIOS,
        "groups": [(group.first, group.last) for group in ranking.groups],
        "scores": scores.hexdigest(),
        "settings": {name: value for name, value in asdict(settings).items() if name not in _NO_MATTER},
    }
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
