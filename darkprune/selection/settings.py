"""Which channels go, and how many: the settings that every command which prunes has in common."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.graph.groups import PRESETS as GROUP_PRESETS
from darkprune.selection.allocation import RATIO_PRESETS, WIDTH_PRESETS, Allocation
from darkprune.selection.budget import Budget
from darkprune.selection.importance import GLOBAL_CRITERIA, Criterion
from darkprune.selection.voting import Merge
from darkprune.settings import Settings, setting
from darkprune.surgery.constants import Constant
from darkprune.surgery.plan import Compensation
from darkprune.targets import multiple_for, targets

#: repairs without training, on unlabelled images
Recovery = Literal["none", "lsq", "scale", "bn"]
RECOVERIES: tuple[str, ...] = get_args(Recovery)

_AMOUNT = "how much to remove"
_WHICH = "which channels"
_REST = "what takes their place"


@dataclass(frozen=True, kw_only=True)
class ChannelSettings(Settings):
    """Which channels go, and what takes their place."""

    units: int = setting(
        0, "cut out the N residual units of lowest mean |γ| first, whole", group=_AMOUNT, exclusive="units",
        metavar="N", default_text="none", at_least=0,
    )  # fmt: skip
    unit_ratio: float = setting(
        0.0, "the same as a fraction of all units, 0 to 1", group=_AMOUNT, exclusive="units", metavar="U",
        default_text="none", at_least=0, at_most=1,
    )  # fmt: skip
    similarity: float = setting(
        0.0, "then replace channels by others of |correlation| T or more (on --images, else by filters)",
        group=_AMOUNT, metavar="T", default_text="none", at_least=0, at_most=1,
    )  # fmt: skip
    groups: str = setting(
        "auto", f"auto, {', '.join(GROUP_PRESETS)}, or ranges 0-55,56-85,…", group=_WHICH, metavar="GROUPS"
    )
    allocation: Allocation | None = setting(
        None, "how a total ratio is shared out", group=_WHICH,
        default_text="uniform; global where scores compare the whole network",
    )  # fmt: skip
    criterion: Criterion = setting(
        "auto",
        "score of a channel: auto is bn_gamma where γ is sparse or there are no --images, else sensitivity, the effect "
        "on the outputs (first-order; with --recover lsq what the refit leaves of it: surgeon); thinet",
        group=_WHICH,
    )
    merge: Merge = setting("vote", "public mask of coupled convolutions", group=_WHICH)
    exclude: tuple[int, ...] = setting((), "layers whose channels all stay", group=_WHICH, metavar="L1,L2,…")
    target: str | None = setting(
        None, "what it will run on, which wants widths in multiples of 8", group=_WHICH, choices=tuple(targets())
    )
    round_to: int | None = setting(
        None, "widths in multiples of N where possible", group=_WHICH, default_text="8 with --target, else 1",
        at_least=1,
    )  # fmt: skip
    min_channels: int = setting(8, "fewest channels of a convolution", group=_WHICH, at_least=1)
    compensate: Compensation = setting(
        "fold", "fold: constants into biases; carrier: exact at padded borders too; none", group=_REST
    )
    constant: Constant = setting("mean", "mean: E[act(γz+β)]; beta: act(β), as the papers have it", group=_REST)

    @property
    def multiple(self) -> int:
        """The number that widths are multiples of, where possible."""
        return multiple_for(self.target, self.round_to)


@dataclass(frozen=True, kw_only=True)
class Selection(ChannelSettings):
    """Everything that a choice of channels follows from: the settings, and how much is to go.

    Attributes:
        criterion: `auto` is what `bn_gamma` is here; whoever has images decides before what it means.
        ratio: fraction of channels to remove, for all allocations but `explicit`.
        ratios: one per group, for `explicit`; for `sensitivity` what the curves gave, empty until then.
        preset: a published setting, which brings groups and ratios (or widths) with it.
        budget: what to keep: single channels are taken and given back until it does; the ratio comes close
            before, see `within_budget`.
    """

    criterion: Criterion = "bn_gamma"
    ratio: float = 0.0
    ratios: tuple[float, ...] = ()
    preset: str | None = None
    budget: Budget | None = None

    @classmethod
    def of(
        cls,
        settings: ChannelSettings,
        *,
        ratio: float = 0.0,
        ratios: tuple[float, ...] = (),
        preset: str | None = None,
    ) -> Selection:
        """Adds how much is to go to settings."""
        shared = {field.name: getattr(settings, field.name) for field in fields(ChannelSettings)}
        return cls(**shared, ratio=ratio, ratios=ratios, preset=preset)

    @property
    def shared_out(self) -> Allocation:
        """The allocation; where none is given, the one that goes with the ratios or the criterion."""
        if self.allocation is not None:
            return self.allocation
        if self.ratios:
            return "explicit"
        return "global" if self.criterion in GLOBAL_CRITERIA and self.preset is None else "uniform"

    def described(self) -> dict[str, object]:
        """Returns the settings as a plan's JSON holds them."""
        budget = None if self.budget is None else {"kind": self.budget.kind, "target": self.budget.target}
        return {
            "ratio": self.ratio,
            "ratios": list(self.ratios),
            "preset": self.preset,
            "groups": self.groups,
            "allocation": self.shared_out,
            "merge": self.merge,
            "criterion": self.criterion,
            "compensate": self.compensate,
            "constant": self.constant,
            "round_to": self.multiple,
            "min_channels": self.min_channels,
            "exclude": list(self.exclude),
            "units": self.units,
            "unit_ratio": self.unit_ratio,
            "similarity": self.similarity,
            "budget": budget,
        }


def resolve_selection(graph: Graph, selection: Selection) -> Selection:
    """Fills in presets and the default allocation, and refuses what does not exist.

    Raises:
        UsageError: something that does not exist, or not in this network.
    """
    if selection.criterion == "auto":
        selection = replace(selection, criterion="bn_gamma")
    for index in selection.exclude:
        if not 0 <= index < len(graph):
            raise UsageError(f"--exclude {index}: the network has layers 0 to {len(graph) - 1}")
    if selection.preset is None:
        return replace(selection, allocation=selection.shared_out)
    if selection.preset in WIDTH_PRESETS:
        groups = "yolov4" if selection.groups == "auto" else selection.groups
        return replace(selection, groups=groups, allocation=selection.shared_out, round_to=1)
    if selection.preset not in RATIO_PRESETS:
        raise UsageError(f"no preset '{selection.preset}'; there are {', '.join((*RATIO_PRESETS, *WIDTH_PRESETS))}")
    groups, ratios = RATIO_PRESETS[selection.preset]
    groups = groups if selection.groups == "auto" else selection.groups
    return replace(selection, groups=groups, allocation="explicit", ratios=ratios)
