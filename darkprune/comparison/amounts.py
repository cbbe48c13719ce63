"""How much is to go in a cell: a budget, a share of the channels, ratios per group, or a published setting."""

from __future__ import annotations

from dataclasses import dataclass, replace

from darkprune.errors import UsageError
from darkprune.graph.stats import Totals
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.allocation import PRESETS
from darkprune.selection.budget import UNITS, Budget, parse_budget
from darkprune.selection.decide import decide, rank
from darkprune.selection.settings import Selection

#: what a budget may be about besides quantities of the network: the prunable channels
CHANNELS = "channels"


@dataclass(frozen=True)
class Amount:
    """How much is to go; one of the attributes is set.

    Attributes:
        budget: what to keep.
        ratio: fraction of the channels that goes.
        ratios: fraction per group.
        preset: name of a published setting.
    """

    budget: Budget | None = None
    ratio: float = 0.0
    ratios: tuple[float, ...] = ()
    preset: str | None = None

    def of(self, selection: Selection) -> Selection:
        """Returns a selection that takes so much; a budget is left to the caller."""
        if self.ratios:
            return replace(selection, ratios=self.ratios, allocation="explicit")
        return replace(selection, ratio=self.ratio, preset=self.preset)

    def as_budget(self, weights: NetworkWeights, kind: str, group_pruning: Selection) -> Budget:
        """Returns the budget of equal size: what group channel pruning leaves where it takes so much.

        Raises:
            UsageError, PlanError: ratios or a preset that do not fit the network's groups.
        """
        if self.budget is not None:
            return self.budget
        selection = self.of(group_pruning)
        left = decide(rank(weights, selection), selection).after
        return Budget(kind, Budget(kind, 0).of(left))


def parse_amount(kind: str, text: str, before: Totals) -> Amount:
    """Reads how much is to go.

    Args:
        kind: what a number is about: a kind of budget, or `channels`.
        text: what to keep (`0.6`, `12G`), the ratio of each group (`0.1:0.25:0.96`), or a preset's name.

    Raises:
        UsageError: it cannot be read.
    """
    if text in PRESETS:
        return Amount(preset=text)
    if ":" in text:
        ratios = tuple(_fraction(part, text) for part in text.split(":"))
        if not all(0 <= ratio < 1 for ratio in ratios):
            raise UsageError(f"--budgets {text[:40]}: a group's ratio is the fraction that goes, 0 to below 1")
        return Amount(ratios=ratios)
    if kind != CHANNELS:
        return Amount(budget=parse_budget(kind, text, before))
    left = _fraction(text, text)
    if not 0 < left < 1:
        raise UsageError(f"--budgets {text[:40]}: give the fraction of the channels that remains, between 0 and 1")
    return Amount(ratio=1 - left)


def size_kind(kind: str) -> str:
    """Returns the kind of budget that stands for equal size."""
    return kind if kind in UNITS else "macs"


def _fraction(part: str, text: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise UsageError(
            f"--budgets {text[:40]}: write what remains (0.6), a ratio per group (0.1:0.25:0.96), or one of "
            f"{', '.join(PRESETS)}"
        ) from None
