"""The result of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkprune.graph.stats import Totals
from darkprune.runs.digests import plain


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run of `train` or `distill` did.

    Attributes:
        output: folder of the run.
        cfg: of the `last`, `best` and `final` weights.
        weights: files by kind: `last`, `best` (by the validation set), `final` (once the run is complete).
        steps: steps done.
        stopped: whether it was interrupted; `resume=True` continues.
        measure: what is measured on the validation set: `map50`, or `top1` of a classifier.
        measured: the last measurement, as a fraction; None without a validation set.
        best: the highest one.
        best_step: its step.
        batch: images per step.
        part: of these, images at a time: what batch normalisation sees.
        figures: losses of the last step.
        images_per_second: speed.
        waited: share of the time in which the network waited for data.
        unreadable: image files that could not be read.
        before: the network's size at the start.
        after: its size at the end; smaller after pruning inside the run.
        cuts: step and size of the network after every cut inside the run.
        warnings: what is wrong with the data.
    """

    output: Path
    cfg: Path
    weights: Mapping[str, Path]
    steps: int
    stopped: bool
    measure: str
    measured: float | None
    best: float | None
    best_step: int | None
    batch: int
    part: int
    figures: Mapping[str, float]
    images_per_second: float
    waited: float
    unreadable: tuple[str, ...]
    before: Totals
    after: Totals
    cuts: tuple[Mapping[str, int], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def map50(self) -> float | None:
        """The last mAP@0.5 on the validation set."""
        return self.measured if self.measure == "map50" else None

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values; the measurements under the name of what is measured."""
        data = plain({**vars(self), "before": self.before.to_json(), "after": self.after.to_json()})
        names = {"measured": self.measure, "best": f"best_{self.measure}"}
        return {names.get(name, name): value for name, value in data.items() if name != "measure"}
