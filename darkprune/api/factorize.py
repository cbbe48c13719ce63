"""`factorize`: writes convolutions as products of smaller ones, by low-rank factorisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from darkprune.api.pair import Pair, for_surgery
from darkprune.darknet.output import check_folder
from darkprune.errors import UsageError
from darkprune.graph.classes import names_to_copy
from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.lowrank.factorise import RankGoal, factorise
from darkprune.lowrank.moments import Moments, moments_of_weights
from darkprune.progress import Progress, reporting
from darkprune.refit.solved_layers import SolvedLayers, solved_layers
from darkprune.search.settings import BudgetSettings
from darkprune.selection.budget import Budget
from darkprune.settings import PathLike, setting
from darkprune.surgery.surgery import Surgery
from darkprune.targets import multiple_for, targets

if TYPE_CHECKING:  # torch, and the evaluation, are imported only where images or labels are given
    from darkprune.data.dataset import Dataset
    from darkprune.data.samples import Samples

_IMAGES = "images"
_RANKS = "which layers and ranks"
MOST_IMAGES = 256  #: that moments are measured on


@dataclass(frozen=True, kw_only=True)
class FactorizeSettings(BudgetSettings):
    """How convolutions are factorised."""

    images: str | None = setting(
        None, "unlabelled images (folder or list): subspaces, ranks and recovery follow from them", group=_IMAGES,
        metavar="DIR", default_text="from the weights alone",
    )  # fmt: skip
    recover: Literal["none", "lsq"] = setting("none", "lsq: refit all convolutions by least squares", group=_IMAGES)
    data: str | None = setting(
        None, "labelled images: mAP of the result beside its control's", group=_IMAGES, metavar="F"
    )
    split: str = setting("valid", "which part of the data", group=_IMAGES, metavar="PART")
    names: str | None = setting(
        None, "names of the classes, in order", group=_IMAGES, metavar="F", default_text="the data's"
    )
    exclude: tuple[int, ...] = setting((), "layers that stay as they are", group=_RANKS, metavar="L1,L2,…")
    target: str | None = setting(
        None, "what it will run on, which wants widths in multiples of 8", group=_RANKS, choices=tuple(targets())
    )
    round_to: int | None = setting(
        None, "ranks in multiples of N", group=_RANKS, default_text="8 with --target, else 1", at_least=1
    )
    overwrite: bool = setting(False, "replace an earlier result")

    def __post_init__(self) -> None:
        """Checks that the settings go together; see `Settings`."""
        super().__post_init__()
        if sum(value is not None for value in (self.target_params, self.target_macs, self.target_size)) != 1:
            raise UsageError("say what to keep with one of --target-macs 0.8, --target-params, --target-size")
        if self.recover != "none" and self.images is None:
            raise UsageError(f"--recover {self.recover} looks at images: give some with --images DIR")

    @property
    def multiple(self) -> int:
        """The number that ranks are multiples of."""
        return multiple_for(self.target, self.round_to)

    def described(self, budget: Budget) -> dict[str, object]:
        """Returns the settings as a plan's JSON holds them."""
        return {
            "method": "factorize",
            "moments": "images" if self.images is not None else "weights",
            "budget": {"kind": budget.kind, "target": budget.target},
            "round_to": self.multiple,
            "exclude": list(self.exclude),
        }


def factorize(
    pair: Pair, settings: FactorizeSettings, *, output: PathLike | None = None, progress: Progress | None = None
) -> Surgery:
    """Writes convolutions as products: k×k c→n becomes k×k c→d and 1x1 d→n, and perhaps 1x1 c→a before them.

    Args:
        pair: the network; it is not changed.
        settings: what to keep, and what it follows from.
        output: folder for the slim pair, plan.json and report.json; without it nothing is written before
            `Surgery.save`.
        progress: gets the events; by default bars are shown.

    Returns:
        The surgery; with `output` its `result` says what was written.

    Raises:
        UsageError, PlanError: settings that make no sense for this network; a budget that cannot be met.
        DataError: images that cannot be used.
        OutputError: the output exists, holds an input, or cannot be written.
    """
    if output is not None:
        check_folder(Path(output), [pair.cfg, pair.weights_file], settings.overwrite)
    with (
        reporting(progress),
        solved_layers(None if output is None else Path(output)) as solved,
        for_surgery(pair) as (weights, hashes),
    ):
        work = _Work(weights, settings, solved)
        surgery = work.surgery()
        if output is None:
            return surgery.with_hashes(*hashes())
        return surgery.saved(
            Path(output),
            overwrite=settings.overwrite,
            hashes=hashes,
            class_names=names_to_copy(weights.graph, settings.names, work.class_names),
        )


class _Work:
    """One call of `factorize`.

    Attributes:
        class_names: of the labelled images; empty without.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, weights: NetworkWeights, settings: FactorizeSettings, solved: SolvedLayers | None) -> None:
        self._weights, self._settings, self._solved = weights, settings, solved
        for index in settings.exclude:
            if not 0 <= index < len(weights.graph):
                raise UsageError(f"--exclude {index}: the network has layers 0 to {len(weights.graph) - 1}")

    def surgery(self) -> Surgery:
        """Decides, recovers and compares."""
        settings, weights = self._settings, self._weights
        budget = settings.budget(weights.graph)
        assert budget is not None
        samples = self._read_samples()
        goal = RankGoal(budget=budget, multiple=settings.multiple, exclude=settings.exclude)
        surgery = factorise(weights, goal, self._moments(samples), settings.described(budget))
        warnings = [*weights.graph.warnings, *(samples.warnings() if samples is not None else ())]
        labelled, about_labels = self._labelled()
        surgery = replace(surgery, warnings=(*warnings, *about_labels))
        if samples is None and labelled is None:
            return surgery
        from darkprune.search.figures import repair_and_compare

        return repair_and_compare(surgery, samples, settings.recover, labelled, self._solved)

    def _read_samples(self) -> Samples | None:
        if self._settings.images is None:
            return None
        from darkprune.data.samples import read_samples
        from darkprune.refit.recover import images_needed

        graph = self._weights.graph
        most = max(MOST_IMAGES, images_needed(self._settings.recover, graph))
        return read_samples(Path(self._settings.images), graph, most=most)

    def _moments(self, samples: Samples | None) -> Callable[[Layer], Moments]:
        if samples is None:
            return lambda layer: moments_of_weights(self._weights, layer)
        from darkprune.lowrank.images import measure_moments

        return measure_moments(self._weights, samples.fit.first(MOST_IMAGES))

    def _labelled(self) -> tuple[Dataset | None, tuple[str, ...]]:
        settings = self._settings
        if settings.data is None:
            return None, ()
        from darkprune.evaluation.of_graph import labelled_for

        labelled = labelled_for(self._weights.graph, settings.data, settings.split, settings.names)
        self.class_names = labelled.dataset.class_names
        return labelled.dataset, tuple(labelled.warnings)
