"""Recovery of a slim pair without labels: what `darkprune prune --recover` runs, and what it reports."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network import save_weights
from darkprune.network.loading import load_network
from darkprune.network.output_distance import Reference
from darkprune.network.samples import Sample, Samples
from darkprune.network.walk import affordable_images
from darkprune.refit.batch_norm import reestimate
from darkprune.refit.effects import measure_effects
from darkprune.refit.refit import Pairing, refit
from darkprune.surgery.apply import Cut
from darkprune.surgery.removed_units import kept_layers
from darkprune.surgery.surgery import Surgery
from darkprune.surgery.units import Unit

METHODS = ("none", "lsq", "scale", "bn")
#: how many images, or views of them, each method looks at, at least and at most; between them as many as can be kept in
#: memory
IMAGES = {"lsq": (64, 768), "scale": (64, 64), "bn": (128, 256), "none": (0, 0)}


@dataclass(frozen=True)
class Recovery:
    """What recovery did.

    Attributes:
        how: `lsq`, `scale`, `bn` or `none`.
        images: number of images that were fitted on.
        views: how many were seen: where there are few, mirrored ones and parts too.
        held_out: number of images that the distance is measured on.
        distance_before, distance_after: output distance of the slim network to the original.
        layers: how many layers were changed.
    """

    how: str
    images: int
    views: int
    held_out: int
    distance_before: float
    distance_after: float
    layers: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON; what is infinite as null."""
        return {key: value if value != math.inf else None for key, value in asdict(self).items()}


def images_for(how: str, graph: Graph) -> int:
    """Returns how many images, or views of them, a method looks at."""
    least, most = IMAGES[how]
    return max(least, min(most, affordable_images(graph)))


def sample_for(how: str, original: Graph, samples: Samples) -> Sample:
    """Returns what a method looks at: the images to fit on, and further views where there are few."""
    return samples.fit.filled(images_for(how, original))


def steps_of(how: str, original: Graph, slim: Graph, samples: Samples) -> int:
    """Returns how often `recover` tells that it moves on: after each layer, before a refit after each batch too."""
    return len(slim) + (sample_for(how, original, samples).batches_in_all if how == "lsq" else 0)


def pair_up(original: NetworkWeights, units: Sequence[Unit], cut: Cut, slim: Path, device: torch.device) -> Pairing:
    """Loads the original and the slim network.

    Args:
        original: the pair before, whole.
        units: residual units that were cut out.
        cut: the cut of the network without them.
        slim: the slim weights file.
        device: where the networks live.
    """
    with NetworkWeights(cut.slim, slim) as file:
        after = load_network(cut.slim, file, device)
    before = load_network(original.graph, original, device)
    return Pairing(before, after, cut, kept_layers(original.graph, units))


def cut_and_pair(surgery: Surgery, device: torch.device) -> Pairing:
    """Carries a surgery out, in a temporary file, and loads both networks.

    Args:
        surgery: what goes.
        device: where the networks live.
    """
    with surgery.temporary_weights() as path:
        return pair_up(surgery.original, surgery.plan.units, surgery.cut, path, device)


def recover(
    surgery: Surgery,
    slim: Path,
    samples: Samples,
    how: str,
    progress: Callable[[], object] = lambda: None,
) -> Recovery:
    """Recovers a slim weights file in place, and measures the output distance on held-out images.

    Args:
        surgery: what the slim file was made by.
        slim: the slim weights file; rewritten unless `how` is `none`.
        samples: unlabelled images.
        how: `lsq` (refit), `scale` (only one factor per input channel), `bn` (batch statistics) or `none` (measure).
        progress: called `steps_of` times.

    Raises:
        UsageError: no such method.
    """
    if how not in METHODS:
        raise UsageError(f"no recovery '{how}'; there are {', '.join(METHODS)}")
    original = surgery.original
    pair = pair_up(original, surgery.plan.units, surgery.cut, slim, samples.fit.device)
    reference = Reference(pair.original, samples.held_out)
    before = after = reference.distance(pair.slim)
    fit, changed = sample_for(how, original.graph, samples), 0
    if how != "none":
        if how == "bn":
            changed = len(reestimate(pair.slim, fit, progress))
        else:
            places = measure_effects(pair.original, fit, progress=progress).places if how == "lsq" else None
            changed = len(refit(pair, fit, places, scales=how == "scale", progress=progress))
        after = reference.distance(pair.slim)
        with slim.open("wb", buffering=0) as file:
            save_weights(pair.slim, file, original.file.header)
            os.fsync(file.fileno())
    return Recovery(how, len(fit.paths), len(fit), len(samples.held_out), before, after, changed)
