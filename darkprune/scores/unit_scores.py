"""`--unit-score`: what images say about residual units.

`distance`: what the outputs lose without a unit, on unlabelled images: the squared output distance of the network
without it, divided by the share of the operations that it saves.

`separation`: how well a unit separates the classes.

Jordao et al., *Discriminative Layer Pruning for Convolutional Neural Networks* (IEEE JSTSP 2020), score a layer by its
features in the latent space of Partial Least Squares. In a detector the samples are boxes, not images: a sample is the
mean over a labelled box of the unit's addition to the stream; boxes of the same sizes where nothing is labelled are a
class of their own. The projection is fitted on one half of the samples and the separation measured on the other: the
share of the variance that lies between the classes, from 0 (not separated) to 1 (each class is a point).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from darkprune.data.dataset import Dataset
from darkprune.data.loading import InputShape, load_batches
from darkprune.data.samples import Sample, batch_size
from darkprune.errors import DataError
from darkprune.evaluation.of_graph import input_shape
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.graph.weights import TensorSource
from darkprune.layers.base import Floats, Indices
from darkprune.network.loading import load_network, run_of
from darkprune.progress import reporting, silent, track
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.units import Unit

DISTANCE_IMAGES = 64
SEPARATION_IMAGES = 256
COMPONENTS = 8  #: of the latent space, at most; only one less than there are classes carry information
FEWEST = 4  #: samples of a class, half of them to measure on
TRIES = 8  #: positions tried for a box where nothing is labelled

Boxes = NDArray[np.float64]


def score_by_distance(weights: TensorSource, units: Sequence[Unit], sample: Sample) -> tuple[Unit, ...]:
    """Scores units by the output distance that the loss of each alone makes, per operation; the lowest go first.

    Args:
        sample: unlabelled images; at most `DISTANCE_IMAGES` are used.

    Raises:
        DataError: no image can be read.
    """
    macs = weights.graph.macs
    distance = OutputDistance(run_of(load_network(weights)), weights.graph, sample.first(DISTANCE_IMAGES))
    step = track("trying without units", len(units), "unit")
    scored = []
    for unit in units:
        left = reduced(weights, [unit])
        with reporting(silent):
            lost = distance.of(run_of(load_network(left))) ** 2
        scored.append(replace(unit, score=round(lost * macs / (macs - left.graph.macs), 7)))
        step()
    return tuple(scored)


def score_by_separation(
    weights: TensorSource,
    units: Sequence[Unit],
    dataset: Dataset,
    *,
    seed: int = 0,
) -> tuple[Unit, ...]:
    """Scores units by how well their additions separate the classes; the lowest are removed first.

    Args:
        dataset: labelled images; at most `SEPARATION_IMAGES` are used.
        seed: of the boxes where nothing is labelled.

    Raises:
        DataError: fewer than two classes have enough boxes.
    """
    network = load_network(weights)
    shape, batch = input_shape(weights.graph), batch_size(weights.graph)
    records = dataset.images[:SEPARATION_IMAGES]
    random = np.random.default_rng(seed)
    adding = [unit.last - 1 for unit in units]
    rows: dict[int, list[Floats]] = {index: [] for index in adding}
    labels: list[Indices] = []
    step = track("separating classes", -(-len(records) // batch), "batch")
    for loaded in load_batches([record.path for record in records], shape, batch):
        objects = [records[index].objects() for index in loaded.indices.tolist()]
        boxes = [entry.boxes.astype(np.float64) for entry in objects]
        empty = [_elsewhere(here, random) for here in boxes]
        labels += [np.append(o.classes, np.full(len(e), -1)) for o, e in zip(objects, empty, strict=True)]
        if len(loaded.images):
            with torch.inference_mode():
                taps = network(torch.from_numpy(loaded.images).to(network.device), frozenset(adding)).taps
            for number, size in enumerate(loaded.sizes.tolist()):
                places = _in_network(np.concatenate([boxes[number], empty[number]]), size, shape)
                for index in adding:
                    rows[index].append(_means(taps[index][number].cpu().numpy(), places))
        step()
    classes = np.concatenate(labels) if labels else np.zeros(0, np.intp)
    names, counts = np.unique(classes, return_counts=True)
    enough = np.isin(classes, names[counts >= FEWEST])
    if (counts >= FEWEST).sum() < 2:
        raise DataError(
            f"{dataset.name}: --unit-score separation needs two classes (or one, and empty places) of {FEWEST} boxes "
            f"or more in the first {len(records)} images"
        )
    found = {index: separation(np.concatenate(parts)[enough], classes[enough]) for index, parts in rows.items()}
    return tuple(replace(unit, score=round(found[unit.last - 1], 7)) for unit in units)


def separation(features: Floats, classes: Indices) -> float:
    """Returns the share of the variance that lies between classes, in the latent space of Partial Least Squares.

    Args:
        features: (n, c).
        classes: (n,); each occurs at least twice.
    """
    order = np.argsort(classes, kind="stable")
    fit, measure = order[0::2], order[1::2]  # both halves have every class
    spread = features[fit].std(axis=0)
    scaled = (features - features[fit].mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    names = np.unique(classes)
    member = (classes[:, None] == names).astype(np.float64)
    centred = member[fit] - member[fit].mean(axis=0)
    directions, _, _ = np.linalg.svd(scaled[fit].T @ centred, full_matrices=False)
    latent = scaled[measure] @ directions[:, : min(COMPONENTS, len(names) - 1)]
    latent -= latent.mean(axis=0)
    whole = float(np.square(latent).sum())
    within = sum(
        float(np.square(part - part.mean(axis=0)).sum())
        for part in (latent[classes[measure] == name] for name in names)
    )
    return 1 - within / whole if whole > 0 else 0.0


def _elsewhere(boxes: Boxes, random: np.random.Generator) -> Boxes:
    """Returns boxes of the same sizes whose centres lie in no labelled box; fewer where no place is found."""
    found = []
    for box in boxes:
        width, height = np.minimum(box[2:], 1)
        for x, y in random.uniform((width / 2, height / 2), (1 - width / 2, 1 - height / 2), (TRIES, 2)):
            if not (np.abs(boxes[:, :2] - (x, y)) < boxes[:, 2:] / 2).all(axis=1).any():
                found.append((x, y, width, height))
                break
    return np.array(found).reshape(-1, 4)


def _in_network(boxes: Boxes, size: Sequence[int], shape: InputShape) -> Boxes:
    """Returns boxes relative to the network's input, which may be letterboxed."""
    if not shape.letterbox:
        return boxes
    image, given = np.array(size, np.float64), np.array((shape.width, shape.height), np.float64)
    part = image * (given / image).min() / given  # of the input that the image takes up
    return np.hstack([boxes[:, :2] * part + (1 - part) / 2, boxes[:, 2:] * part])


def _means(values: NDArray[np.float32], boxes: Boxes) -> Floats:
    """Returns the mean of a map (c, h, w) over each box, at least over the cell of its centre: (n, c)."""
    height, width = values.shape[1:]
    rows = []
    for x, y, w, h in np.clip(np.nan_to_num(boxes), 0, 1).tolist():
        left, right = _cells(x, w, width)
        top, bottom = _cells(y, h, height)
        rows.append(values[:, top:bottom, left:right].mean(axis=(1, 2), dtype=np.float64))
    return np.array(rows).reshape(-1, len(values))


def _cells(centre: float, length: float, count: int) -> tuple[int, int]:
    middle = min(count - 1, int(centre * count))
    first, last = round((centre - length / 2) * count), round((centre + length / 2) * count)
    return max(0, min(middle, first)), min(count, max(middle + 1, last))
