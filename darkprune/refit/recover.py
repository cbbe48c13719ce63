"""Recovery of a slim pair without labels: what `darkprune prune --recover` runs, and what it reports."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from darkprune.data.samples import ENOUGH, Sample, Samples
from darkprune.errors import UsageError
from darkprune.evaluation.output_distance import OutputDistance
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network import save_weights
from darkprune.network.loading import load_network, run_of
from darkprune.network.walk import affordable_images
from darkprune.refit.batch_norm import reestimate
from darkprune.refit.effects import measure_effects
from darkprune.refit.refit import AlignedNetworks, RefitSettings, refit
from darkprune.refit.solved_layers import STEP, SolvedLayers
from darkprune.runs.digests import digest_of_images, plain
from darkprune.runs.record import Input, Origin, file_input
from darkprune.surgery.removed_units import kept_layers
from darkprune.surgery.surgery import ScratchFile, Surgery

#: fewest and most images, or views of them, that each method uses; between them as many as can be kept in memory
IMAGES = {"none": (0, 0), "lsq": (64, 768), "scale": (64, 64), "bn": (128, 256)}


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Result of a recovery.

    Attributes:
        how: `lsq`, `scale`, `bn` or `none`.
        images: number of images that were fitted on.
        views: number of views of them: where there are few images, mirrored ones and parts too.
        held_out: number of images that the distance is measured on.
        distance_before, distance_after: output distance of the slim network to the original.
        layers: number of layers that were changed.
    """

    how: str
    images: int
    views: int
    held_out: int
    distance_before: float
    distance_after: float
    layers: int

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON; an infinite distance as null."""
        return {key: value if value != math.inf else None for key, value in asdict(self).items()}


def images_for(how: str, graph: Graph) -> int:
    """Returns the number of images, or views of them, that a method uses."""
    least, most = IMAGES[how]
    return max(least, min(most, affordable_images(graph)))


def align(surgery: Surgery, slim: Path) -> AlignedNetworks:
    """Loads the original and the slim network of a surgery."""
    with NetworkWeights(surgery.graph, slim) as file:
        after = load_network(file)
    # factors of convolutions are refitted to the sums of the same factors at full rank
    original = surgery.factorised if surgery.plan.factors else surgery.original
    return AlignedNetworks(
        original=load_network(original),
        slim=after,
        cut=surgery.cut,
        layers=kept_layers(original.graph, surgery.plan.units),
    )


def cut_and_align(surgery: Surgery) -> AlignedNetworks:
    """Carries a surgery out, in a temporary file, and loads both networks."""
    with surgery.temporary_weights() as path:
        return align(surgery, path)


def images_needed(how: str, graph: Graph) -> int:
    """Returns the number of images that a method, and the scores before it, can use."""
    return max(ENOUGH, images_for(how, graph))


def recover(
    surgery: Surgery, samples: Samples, how: str, solved: SolvedLayers | None = None
) -> tuple[Surgery, Recovery]:
    """Recovers the slim weights of a surgery; see `recover_file`.

    Returns:
        The surgery with the recovered weights and the recovery among its findings; and the recovery.
    """
    scratch = ScratchFile("slim.weights")
    with scratch.path.open("wb", buffering=0) as file:
        surgery.write_weights(file)
    recovery = recover_file(surgery, scratch.path, samples, how, solved)
    findings = {**surgery.findings, "recovery": recovery.to_json()}
    return replace(surgery, recovered=scratch, findings=findings), recovery


def recover_file(
    surgery: Surgery,
    slim: Path,
    samples: Samples,
    how: str,
    solved: SolvedLayers | None = None,
) -> Recovery:
    """Recovers a slim weights file in place, and measures the output distance on held-out images.

    Args:
        slim: the slim weights file; rewritten unless `how` is `none`.
        how: `lsq` (refit), `scale` (only one factor per input channel), `bn` (batch statistics) or `none` (measure).
        solved: keeps the layers of a refit; those of an interrupted one are taken from it.

    Raises:
        UsageError: no such method.
        OutputError: a layer cannot be kept.
    """
    if how not in IMAGES:
        raise UsageError(f"no recovery '{how}'; there are {', '.join(IMAGES)}")
    original = surgery.original
    networks = align(surgery, slim)
    distance = OutputDistance(run_of(networks.original), original.graph, samples.held_out)
    before = after = distance.of(run_of(networks.slim))
    fit, changed = samples.fit.filled(images_for(how, original.graph)), 0
    if how != "none":
        if how == "bn":
            changed = len(reestimate(networks.slim, fit))
        else:
            lsq = how == "lsq"
            settings = RefitSettings(scales=not lsq)
            if solved is not None:
                solved.begin(_origin(surgery, slim, fit, settings))
            positions = measure_effects(networks.original, fit).positions if lsq else None
            changed = len(refit(networks, fit, positions, settings, solved))
        after = distance.of(run_of(networks.slim))
        with slim.open("wb", buffering=0) as file:
            save_weights(networks.slim, file, original.header)
            os.fsync(file.fileno())
    return Recovery(
        how=how,
        images=len(fit.paths),
        views=len(fit),
        held_out=len(samples.held_out),
        distance_before=before,
        distance_after=after,
        layers=changed,
    )


def _origin(surgery: Surgery, slim: Path, fit: Sample, settings: RefitSettings) -> Origin:
    """Returns everything that decides the layers of a refit."""
    original = surgery.original
    return Origin(
        STEP,
        {**plain(settings), "views": len(fit), "shape": plain(fit.shape), "batch": fit.batch},
        {
            "cfg": file_input(Path(original.graph.cfg.source)),
            "weights": file_input(original.path),
            "slim": file_input(slim),
            "plan": Input("", sha256(surgery.plan.dumps().encode()).hexdigest()),
            "images": Input("", digest_of_images(fit.paths, content=True)),
        },
    )
