"""The methods that are compared, as settings of what `darkprune prune` does (METHODS §2, §4, §6, §7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from darkprune.errors import UsageError
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.budget import Budget
from darkprune.selection.settings import Selection
from darkprune.selection.unit_budget import units_above, units_within
from darkprune.settings import nearest

#: joins layer pruning and the method that takes channels from what it leaves
FIRST_LAYERS = "layer+"


@dataclass(frozen=True)
class Method:
    """One way to choose what goes.

    Attributes:
        what: in words.
        settings: of `darkprune prune`.
        images: whether it looks at unlabelled images.
        searches: whether it tries candidates (EagleEye).
        rounds: how often channels are scored on the way.
        finish: recovery that is part of the method itself: what `none` leaves it with.
        units: whether whole residual units go: all that the budget asks for, or (with channels behind them) nearly.
        channels: whether channels go.
    """

    what: str
    settings: Selection = field(default_factory=Selection)
    images: bool = False
    searches: bool = False
    rounds: int = 1
    finish: str = "none"
    units: bool = False
    channels: bool = True

    def for_budget(
        self, weights: NetworkWeights, budget: Budget, common: Mapping[str, Any]
    ) -> tuple[Selection, Budget | None]:
        """Returns the settings for a network, and the budget that is left to channels (None: nothing is).

        Args:
            weights: the original pair.
            budget: what shall remain.
            common: settings that hold for every method.

        Raises:
            PlanError: whole units cannot meet the budget.
        """
        settings = replace(self.settings, **common)
        if not self.units:
            return settings, budget
        if self.channels:
            return replace(settings, units=units_above(weights, budget)), budget
        return replace(settings, units=units_within(weights, budget)), None


METHODS: dict[str, Method] = {
    "slimming": Method("Network Slimming: one |γ| threshold over the whole network", Selection(allocation="global")),
    "group": Method("group channel pruning: the same share of every group by |γ|", Selection()),
    "group-proportional": Method(
        "group channel pruning by the paper's formula: a group's share grows with its size",
        Selection(allocation="proportional"),
    ),
    "thinet": Method(
        "ThiNet: the next layer's reconstruction error, then one scale per channel",
        Selection(criterion="thinet"),
        images=True,
        finish="scale",
    ),
    "eagleeye": Method(
        "EagleEye: the best of many random allocations, with new batch statistics",
        Selection(criterion="l1"),
        images=True,
        searches=True,
        finish="bn",
    ),
    "similarity": Method("importance by |γ|, then similar channels replaced by one another", Selection(similarity=0.9)),
    "layer": Method("whole residual units of lowest mean |γ|", units=True, channels=False),
    "sensitivity": Method(
        "first-order effect on the network's own outputs per multiply-add, measured means",
        Selection(criterion="first-order", allocation="global"),
        images=True,
    ),
    "surgeon": Method(
        "Optimal Brain Surgeon: what removal costs once the others have been refitted",
        Selection(criterion="surgeon", allocation="global"),
        images=True,
    ),
}
#: those that [GCP] compares, and ours
DEFAULT = ("slimming", "group", "thinet", "eagleeye", "similarity", "layer", "sensitivity", "surgeon")


def method_of(name: str) -> Method:
    """Returns a method; `layer+NAME` is layer pruning as far as the budget allows, the rest by channels.

    Raises:
        UsageError: no such method (says the nearest).
    """
    channels = name.removeprefix(FIRST_LAYERS)
    if channels not in METHODS or (channels != name and METHODS[channels].units):
        raise UsageError(f"--methods {name[:40]}: no such method; {nearest(channels, METHODS)}")
    method = METHODS[channels]
    if channels == name:
        return method
    return replace(method, what=f"whole residual units, then {method.what}", units=True)
