"""The goal of a search: what to keep, and how much is tried for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from darkprune.selection.budget import Budget

if TYPE_CHECKING:  # reading images needs OpenCV, timing layers the runners
    from darkprune.data.dataset import Dataset
    from darkprune.runners.layer_times import LayerTimes


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a plan has to reach, and how much is tried for it.

    Attributes:
        budget: what to keep; None: the selection's ratio is the goal.
        recover: the recovery that will follow, which scores and trials anticipate.
        candidates: number of EagleEye's random allocations; 0: none, the selection's own allocation is taken.
        rounds: number of times that channels are scored on the way to the budget.
        minutes: time in which the plan is improved against the output distance.
        seed: of all that is drawn.
        jobs: processes that candidates are tried in.
        layer_times: a latency is the goal, and channels are worth what they cost there; None: multiply-adds count.
        labelled: images that candidates are compared on, by mAP; without them by the output distance.
    """

    budget: Budget | None = None
    recover: str = "none"
    candidates: int = 0
    rounds: int = 1
    minutes: float = 0.0
    seed: int = 0
    jobs: int = 1
    layer_times: LayerTimes | None = None
    labelled: Dataset | None = None
