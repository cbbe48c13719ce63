"""Settings of `prune`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.graph.stats import totals
from darkprune.runners.base import RUNNERS
from darkprune.selection.allocation import PRESETS, WIDTH_PRESETS
from darkprune.selection.budget import UNITS, Budget, parse_budget, parse_latency
from darkprune.selection.importance import GLOBAL_CRITERIA, IMAGE_CRITERIA
from darkprune.selection.settings import ChannelSettings, Recovery, Selection
from darkprune.settings import Settings, setting

_AMOUNT = "how much to remove"
_IMAGES = "images"
_MEASURING = "measuring"
_TARGET = "what to keep: a fraction (0.65) or a value"


@dataclass(frozen=True, kw_only=True)
class BudgetSettings(Settings):
    """What to keep of a network: at most one of these."""

    target_params: str | float | None = setting(None, f"{_TARGET} (stored floats, 24M)", group=_AMOUNT, metavar="V")
    target_macs: str | float | None = setting(None, f"{_TARGET} (multiply-adds, 12G)", group=_AMOUNT, metavar="V")
    target_size: str | float | None = setting(None, f"{_TARGET} (weights file, 90MB)", group=_AMOUNT, metavar="V")

    def has_budget(self) -> bool:
        """Returns whether parameters, operations or bytes are asked for."""
        return any(getattr(self, f"target_{kind}") is not None for kind in UNITS)

    def budget(self, graph: Graph) -> Budget | None:
        """Returns what to keep; None where that is not given in parameters, operations or bytes.

        Raises:
            UsageError: it cannot be read, or is not below the network.
        """
        for kind in UNITS:
            value = getattr(self, f"target_{kind}")
            if value is not None:
                return parse_budget(kind, str(value), totals(graph))
        return None


@dataclass(frozen=True, kw_only=True)
class AmountSettings(BudgetSettings):
    """How much is to go: exactly one of these, or nothing beside units and similarity."""

    ratio: float | None = setting(None, "fraction of the prunable channels, 0 to below 1", group=_AMOUNT, metavar="P")
    ratios: tuple[float, ...] = setting((), "one fraction per group", group=_AMOUNT, metavar="R1,R2,…")
    preset: str | None = setting(None, "a published setting, groups included", group=_AMOUNT, choices=PRESETS)
    plan: str | None = setting(None, "replay a plan instead of making one", group=_AMOUNT, metavar="FILE")
    target_latency: str | float | None = setting(
        None, "what to keep of the time, measured on --runner: milliseconds (12ms) or a fraction (0.6)",
        group=_AMOUNT, metavar="MS|F",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PruneSettings(ChannelSettings, AmountSettings):
    """How to prune."""

    runner: str | None = setting(
        None, "program for latency and the groups' curves", group=_MEASURING, choices=tuple(RUNNERS)
    )
    batch: int = setting(1, "images per run of --target-latency", group=_MEASURING, at_least=1)
    images: str | None = setting(
        None, "unlabelled images (folder or list): to score, recover, measure", group=_IMAGES, metavar="DIR"
    )
    recover: Recovery = setting(
        "none",
        "lsq: refit every convolution by least squares; scale: ThiNet's, one factor per channel; bn: new batch "
        "statistics; none",
        group=_IMAGES,
    )
    candidates: int | None = setting(
        None, "EagleEye: the best of N random allocations within --target-…, by output distance", group=_IMAGES,
        at_least=1,
    )  # fmt: skip
    jobs: int = setting(1, "--candidates: processes that they are tried in", group=_IMAGES, at_least=1)
    rounds: int = setting(
        1, "--criterion sensitivity within --target-…: score anew N times on the way", group=_IMAGES, at_least=1
    )
    search_minutes: float = setting(
        0.0, "--criterion sensitivity within --target-…: improve the plan against the output distance for M minutes "
        "(Ctrl-C takes the best so far)",
        group=_IMAGES, metavar="M", default_text="none", at_least=0,
    )  # fmt: skip
    data: str | None = setting(
        None, "labelled images: mAP of the result beside its control's", group=_IMAGES, metavar="F"
    )
    unit_score: Literal["gamma", "distance", "separation"] = setting(
        "gamma",
        "--units: gamma; distance: how much the outputs on --images change without a unit, per operation; separation: "
        "how well it tells the classes apart on the training part of --data",
        group=_IMAGES,
    )
    split: str = setting("valid", "which part of the data", group=_IMAGES, metavar="PART")
    names: str | None = setting(
        None, "names of the classes, in order", group=_IMAGES, metavar="F", default_text="the data's"
    )
    force: bool = setting(False, "cut although nothing would be left of what the network finds")
    plan_only: bool = setting(False, "write the plan, cut nothing")
    overwrite: bool = setting(False, "replace an earlier result")

    def __post_init__(self) -> None:
        """Checks that the settings go together; see `Settings`."""
        super().__post_init__()
        self._check_amount()
        self._check_images()
        self._check_measuring()

    def selection(self) -> Selection:
        """Returns what the choice of channels follows from; with a budget the ratio is found later."""
        return Selection.of(self, ratio=self.ratio or 0.0, ratios=self.ratios, preset=self.preset)

    def looks_at_images(self) -> bool:
        """Returns whether scores, candidates or a recovery need images."""
        scored = self.criterion in IMAGE_CRITERIA or self.unit_score == "distance"
        return scored or self.recover != "none" or self.candidates is not None

    def _check_amount(self) -> None:
        given = [field.name for field in fields(AmountSettings) if getattr(self, field.name) not in (None, ())]
        shared = {field.name for field in fields(ChannelSettings) if getattr(self, field.name) != field.default}
        if self.plan is not None:
            if len(given) > 1 or shared:
                raise UsageError(
                    "--plan holds the whole decision; leave out --ratio, --merge and the like, or edit the plan"
                )
            return
        if len(given) > 1 or not (given or shared & {"units", "unit_ratio", "similarity"}):
            raise UsageError(
                "say how much to remove with one of --ratio 0.4, --ratios 0.1,0.2,…, --preset NAME, --target-macs 0.6, "
                "--target-params, --target-size, --target-latency or --plan FILE; --units N and --similarity T go with "
                "any of them, or alone"
            )
        if self.preset is not None:
            decided = {"allocation", *(("exclude", "round_to", "min_channels") if self.preset in WIDTH_PRESETS else ())}
            for name in sorted(decided & shared):
                raise UsageError(f"--preset {self.preset} decides that itself; leave out --{name.replace('_', '-')}")
        if self.ratios and self.allocation not in (None, "explicit"):
            raise UsageError(
                f"--ratios gives every group its ratio; --allocation {self.allocation} does not go with it"
            )
        if self.allocation == "explicit" and not self.ratios:
            raise UsageError("--allocation explicit needs --ratios, one per group")

    def _check_images(self) -> None:
        if self.images is None and self.looks_at_images():
            needing = [f"--criterion {self.criterion}"] if self.criterion in IMAGE_CRITERIA else []
            needing += [f"--recover {self.recover}"] if self.recover != "none" else []
            needing += ["--unit-score distance" if self.unit_score == "distance" else "--candidates"]
            raise UsageError(f"{needing[0]} looks at images: give some with --images DIR (labels are not needed)")
        if self.plan_only and self.recover != "none":
            raise UsageError("--plan-only writes no weights: give --recover when the plan is replayed")
        budget = self.has_budget()
        by_effect = self.criterion in ("sensitivity", "first-order")
        if self.rounds > 1 and not (by_effect and budget):
            raise UsageError("--rounds N goes with --criterion sensitivity and --target-macs, -params or -size")
        comparable = self.criterion in GLOBAL_CRITERIA
        if self.search_minutes and not (comparable and budget):
            raise UsageError(
                "--search-minutes M goes with a criterion whose scores compare the whole network (--criterion "
                "sensitivity), and a budget with --target-macs, -params or -size"
            )
        if self.jobs > 1 and (self.candidates is None or self.similarity):
            raise UsageError("--jobs N goes with --candidates, and not with --similarity")
        if self.unit_score != "gamma":
            if not (self.units or self.unit_ratio):
                raise UsageError(f"--unit-score {self.unit_score} scores units: say how many go with --units N")
            if self.unit_score == "separation" and self.data is None:
                raise UsageError("--unit-score separation needs labelled images (--data F)")
            if self.candidates is not None or self.rounds > 1:
                raise UsageError(f"--unit-score {self.unit_score} does not go with --candidates or --rounds")
        if self.candidates is None:
            return
        if not budget:
            raise UsageError("--candidates N needs a budget: --target-macs, -params or -size")
        if self.criterion in IMAGE_CRITERIA or self.allocation is not None:
            raise UsageError(
                "--candidates draws allocations itself, and ranks by weights: leave out --allocation, --criterion "
                + " and ".join(IMAGE_CRITERIA)
            )

    def _check_measuring(self) -> None:
        if self.allocation == "sensitivity" and self.images is None and self.data is None:
            raise UsageError(
                "--allocation sensitivity measures each group: give --images DIR (unlabelled) or --data F (labelled)"
            )
        if self.target_latency is not None and self.runner is None:
            raise UsageError(f"--target-latency is measured: say where with --runner {', '.join(RUNNERS)}")
        if self.target_latency is not None:
            parse_latency(str(self.target_latency))
