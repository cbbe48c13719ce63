"""The methods that are compared: each is a way to choose what goes, as settings of pruning.

Sources: Liu et al. 2017 (Network Slimming), Chu et al. 2023 (group channel pruning), Luo et al. 2017 (ThiNet), Li et
al. 2020 (EagleEye), Zhang et al. 2024 (importance and similarity), Jordao et al. 2020 (layer pruning), Yin et al. 2020
(pruning inside the run).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from darkprune.comparison.amounts import Amount, size_kind
from darkprune.errors import UsageError
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.budget import Budget
from darkprune.selection.reach import units_above, units_within
from darkprune.selection.settings import Recovery, Selection
from darkprune.settings import nearest
from darkprune.surgery.units import UnitScorer, score_units

#: joins layer pruning and the method that takes channels from what it leaves
FIRST_LAYERS = "layer+"


@dataclass(frozen=True)
class Method:
    """One way to choose what goes.

    Attributes:
        settings: of pruning.
        images: whether it looks at unlabelled images.
        labels: whether it looks at labelled training images.
        searches: whether it tries candidates (EagleEye).
        rounds: number of times that channels are scored on the way.
        finish: recovery that is part of the method itself: what `none` leaves it with.
        units: whether whole residual units go: all that the budget asks for, or (where channels go too) nearly.
        channels: whether channels go.
        per_group: whether it takes a ratio per group.
        trains: whether the network is pruned while it trains.
    """

    settings: Selection = field(default_factory=Selection)
    images: bool = False
    labels: bool = False
    searches: bool = False
    rounds: int = 1
    finish: Recovery = "none"
    units: bool = False
    channels: bool = True
    per_group: bool = False
    trains: bool = False

    def select(
        self,
        weights: NetworkWeights,
        amount: Amount,
        kind: str,
        limited: Callable[[Selection], Selection] = lambda selection: selection,
        by_unit: UnitScorer = score_units,
    ) -> tuple[Selection, Budget | None]:
        """Returns the settings for a network, and the budget that is left to channels (None: nothing is).

        A share of the channels is taken as it is by methods without a budget of their own; ratios per group and presets
        by group channel pruning. Everything else gets the budget of what group channel pruning leaves.

        Args:
            limited: adds the limits that hold for every method.

        Raises:
            PlanError: whole units cannot meet the budget.
        """
        selection = limited(self.settings)
        if amount.budget is None and not (self.units or self.searches) and (amount.ratio or self.per_group):
            return amount.of(selection), None
        budget = amount.as_budget(weights, size_kind(kind), limited(Selection()))
        if not self.units:
            return selection, budget
        if self.channels:
            return replace(selection, units=units_above(weights, budget, by_unit)), budget
        return replace(selection, units=units_within(weights, budget, by_unit)), None


METHODS: dict[str, Method] = {
    # Network Slimming: one |γ| threshold over the whole network
    "slimming": Method(Selection(allocation="global")),
    # group channel pruning: the same share of every group by |γ|
    "group": Method(per_group=True),
    # group channel pruning by the paper's formula: a group's share grows with its size
    "group-proportional": Method(Selection(allocation="proportional")),
    # ThiNet: the next layer's reconstruction error, then one scale per channel
    "thinet": Method(Selection(criterion="thinet"), images=True, finish="scale"),
    # EagleEye: the best of many random allocations, with new batch statistics
    "eagleeye": Method(Selection(criterion="l1"), images=True, searches=True, finish="bn"),
    # importance by |γ|, then similar channels replaced by one another
    "similarity": Method(Selection(similarity=0.9)),
    # whole residual units of lowest mean |γ|
    "layer": Method(units=True, channels=False),
    # whole residual units that tell the classes apart least
    "layer-separation": Method(labels=True, units=True, channels=False),
    # pruned step by step while it trains
    "gradual": Method(labels=True, trains=True),
    # first-order effect on the network's own outputs per multiply-add, measured means
    "sensitivity": Method(Selection(criterion="first-order", allocation="global"), images=True),
    # Optimal Brain Surgeon: what removal costs once the others have been refitted
    "surgeon": Method(Selection(criterion="surgeon", allocation="global"), images=True),
}
#: those that Chu et al. 2023 compare, and ours
DEFAULT = ("slimming", "group", "thinet", "eagleeye", "similarity", "layer", "sensitivity", "surgeon")


def method_of(name: str) -> Method:
    """Returns a method; `layer+NAME` is layer pruning as far as the budget allows, the rest by channels.

    Raises:
        UsageError: no such method (names the nearest).
    """
    channels = name.removeprefix(FIRST_LAYERS)
    known = METHODS.get(channels)
    if known is None or (channels != name and (known.units or known.trains)):
        raise UsageError(f"--methods {name[:40]}: no such method; {nearest(channels, METHODS)}")
    return known if channels == name else replace(known, units=True)
