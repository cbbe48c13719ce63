"""Runs a slim pair beside the original in one program, and compares what they compute layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.graph.weights import NetworkWeights
from darkprune.progress import reporting, silent, track
from darkprune.runners.base import Maps, load_with_any
from darkprune.surgery.apply import Cut
from darkprune.surgery.factors.network import write_multiplied
from darkprune.surgery.removed_units import write_silenced
from darkprune.surgery.replay import layers_before
from darkprune.surgery.stand_ins import write_held, write_masked
from darkprune.surgery.static_check import output_layers
from darkprune.surgery.surgery import Surgery

TOLERANCE = 1e-3  #: relative to a layer's largest value; float32 in a deep network keeps to about 1e-5


@dataclass(frozen=True)
class Difference:
    """How far two maps are apart.

    Attributes:
        layer: layer index.
        absolute: largest absolute difference.
        relative: the same divided by the largest absolute value of the reference.
        border, interior: relative, outside and inside the central third of rows and columns.
    """

    layer: int
    absolute: float
    relative: float
    border: float
    interior: float


@dataclass(frozen=True)
class NumericCheck:
    """Outcome of running the pairs.

    Attributes:
        runner: the program.
        images: number of images.
        cut: per layer, slim against the masked original: must be float noise.
        compensation: per layer, slim against the original with removed channels held at their constants.
        outputs: layers that feed the network's heads, or give its output.
    """

    runner: str
    images: int
    cut: tuple[Difference, ...]
    compensation: tuple[Difference, ...]
    outputs: tuple[int, ...]

    @property
    def worst_cut(self) -> Difference | None:
        """The layer furthest from the masked original."""
        return max(self.cut, key=lambda difference: difference.relative, default=None)

    @property
    def ok(self) -> bool:
        """Whether the slim network computes what the cut means."""
        worst = self.worst_cut
        return worst is not None and worst.relative <= TOLERANCE


def check_numbers(
    surgery: Surgery,
    slim: Path,
    images: Iterable[NDArray[np.float32]],
    runner: str | None = None,
    refusals: list[str] | None = None,
) -> NumericCheck:
    """Runs the slim pair, the masked and the held original, and compares them layer by layer.

    Args:
        surgery: the original, and what the plan says. Units that were cut out are there in the stand-ins, with weights
            0 in the convolution that ends them; factors of convolutions are multiplied.
        images: (c, h, w), RGB, 0 to 1, of the network's size.
        runner: name of a runner; None takes the first that loads the pair.
        refusals: gets the reason of every program that does not take the slim pair.

    Raises:
        RunnerError: no program at hand loads the pair.
    """
    images = list(images)
    step = track("verifying", 3, "network")
    name, loaded = load_with_any(surgery.graph, slim, runner, refusals=refusals)
    found = [loaded.outputs(image) for image in images]
    step()
    results: list[list[Difference]] = []
    for write in (write_masked, write_held):
        with TemporaryFolder() as folder:
            path = Path(folder) / "stand-in.weights"
            with path.open("wb") as file, reporting(silent):
                write(surgery, file)
            results.append(_compare(surgery.cut, _run(surgery, path, name, images), found))
        step()
    return NumericCheck(name, len(images), tuple(results[0]), tuple(results[1]), output_layers(surgery.base.graph))


def _run(surgery: Surgery, path: Path, runner: str, images: Sequence[NDArray[np.float32]]) -> list[Maps]:
    """Runs a stand-in as a network of the original's layers; its maps get the slim network's layer numbers.

    Units that were cut out are there, silent; factors of convolutions are multiplied.
    """
    original, plan = surgery.original, surgery.plan
    whole = path.with_name("whole.weights")
    if plan.factors:
        with NetworkWeights(surgery.factorised.graph, path) as stand_in, whole.open("wb") as file:
            write_multiplied(original.graph, plan.factors, stand_in, file)
    elif plan.units:
        with NetworkWeights(surgery.reduced.graph, path) as stand_in, whole.open("wb") as file:
            write_silenced(original, plan.units, stand_in, file)
    else:
        whole = path
    _, loaded = load_with_any(original.graph, whole, runner)
    shown = [loaded.outputs(image) for image in images]
    before = layers_before(original.graph, plan)
    return [{new: maps[old] for new, old in enumerate(before) if old is not None and old in maps} for maps in shown]


def _compare(cut: Cut, reference: Sequence[Maps], found: Sequence[Maps]) -> list[Difference]:
    """Compares the channels that the two have in common and whose content was not replaced."""
    worst: dict[int, list[float]] = {}
    for expected, got in zip(reference, found, strict=True):
        for index in sorted(set(expected) & set(got)):
            classes = cut.channels.of_layer[index]
            kept = cut.kept(classes)
            carrier = np.where(classes < 0, False, cut.carriers[classes])[kept]
            a, b = expected[index][kept][~carrier], got[index][~carrier]
            if a.shape != b.shape or not a.size:
                continue
            scale = max(float(np.abs(a).max()), 1e-12)
            error = np.abs(np.array(a, np.float64) - b).max(axis=0)
            inside = np.zeros(error.shape, bool)
            height, width = error.shape
            inside[height // 3 : height - height // 3, width // 3 : width - width // 3] = True
            border = error[~inside].max() if (~inside).any() else 0.0
            now = [error.max(), error.max() / scale, border / scale, error[inside].max() / scale]
            before = worst.get(index, [0.0] * 4)
            worst[index] = [
                float(max(x, y)) if np.isfinite(x) else float("inf") for x, y in zip(now, before, strict=True)
            ]
    return [Difference(index, *values) for index, values in sorted(worst.items())]
