"""How channels are to be chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from darkprune.errors import UsageError
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.allocation import RATIO_PRESETS, WIDTH_PRESETS
from darkprune.selection.budget import Budget
from darkprune.surgery.constants import CONSTANTS
from darkprune.surgery.plan import COMPENSATIONS

#: repairs without training, on unlabelled images
RECOVERIES = ("none", "lsq", "scale", "bn")


@dataclass(frozen=True)
class PruneSettings:
    """How to choose channels; the defaults are those of `darkprune prune --ratio P`.

    Attributes:
        ratio: fraction of channels to remove, for all allocations but `explicit`.
        ratios: one per group, for `explicit`; for `sensitivity` what the curves gave, empty until then.
        preset: a published setting, which brings groups and ratios (or widths) with it.
        groups: division into groups, see `divide`.
        allocation, merge, criterion, compensate, constant: see the modules of these names.
        round_to, min_channels: see `Limits`.
        exclude: layers whose channels stay.
        units, unit_ratio: residual units that are cut out before any channel is chosen: how many, or which fraction.
            Groups and `exclude` are in the original's layer numbers all the same.
        similarity: |correlation| from which one of two channels that importance left is replaced by the other; 0: none.
        budget: what shall remain: single channels are taken and given back until it does; the ratio comes close before,
            see `within_budget`.
    """

    ratio: float = 0.0
    ratios: tuple[float, ...] = ()
    preset: str | None = None
    groups: str = "auto"
    allocation: str = "uniform"
    merge: str = "vote"
    criterion: str = "bn_gamma"
    compensate: str = "fold"
    constant: str = "mean"
    round_to: int = 1
    min_channels: int = 8
    exclude: tuple[int, ...] = ()
    units: int = 0
    unit_ratio: float = 0.0
    similarity: float = 0.0
    budget: Budget | None = None

    def described(self) -> dict[str, object]:
        """Returns the settings as a plan's JSON holds them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def checked(weights: NetworkWeights, settings: PruneSettings) -> PruneSettings:
    """Fills in presets and refuses what does not exist.

    Args:
        weights: the original pair.
        settings: as the user gave them.

    Raises:
        UsageError: something that does not exist, or not in this network.
    """
    if settings.compensate not in COMPENSATIONS:
        raise UsageError(f"no compensation '{settings.compensate}'; there are {', '.join(COMPENSATIONS)}")
    if settings.constant not in CONSTANTS:
        raise UsageError(f"no constant '{settings.constant}'; there are {', '.join(CONSTANTS)}")
    if settings.round_to < 1 or settings.min_channels < 1:
        raise UsageError("--round-to and --min-channels must be at least 1")
    for index in settings.exclude:
        if not 0 <= index < len(weights.graph):
            raise UsageError(f"--exclude {index}: the network has layers 0 to {len(weights.graph) - 1}")
    if settings.preset is None:
        return settings
    if settings.preset in WIDTH_PRESETS:
        return replace(settings, groups="yolov4" if settings.groups == "auto" else settings.groups)
    if settings.preset not in RATIO_PRESETS:
        raise UsageError(f"no preset '{settings.preset}'; there are {', '.join((*RATIO_PRESETS, *WIDTH_PRESETS))}")
    groups, ratios = RATIO_PRESETS[settings.preset]
    groups = groups if settings.groups == "auto" else settings.groups
    return replace(settings, groups=groups, allocation="explicit", ratios=ratios)
