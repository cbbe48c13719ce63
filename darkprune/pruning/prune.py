"""From a pair and settings to a plan: score, mark, merge, settle, carriers, in this fixed order (METHODS §2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from darkprune.errors import PlanError, UsageError
from darkprune.graph.channels import BoolArray, ChannelMap, map_channels
from darkprune.graph.graph import build_graph
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.base import Floats, Indices
from darkprune.pruning.allocation import RATIO_PRESETS, WIDTH_PRESETS, preset_widths, ratios_of
from darkprune.pruning.apply import Cut, slim_cfg
from darkprune.pruning.budget import Budget, solve_ratio
from darkprune.pruning.carriers import choose_carriers
from darkprune.pruning.constants import CONSTANTS, removed_constants
from darkprune.pruning.filter_moments import MomentsFrom, filter_moments
from darkprune.pruning.groups import PruneGroup, divide
from darkprune.pruning.importance import ImageScores, LayerScores, score_channels
from darkprune.pruning.merge import FAMILIES, Marks, Members, gather_members, mark, merge, prunable_classes
from darkprune.pruning.plan import COMPENSATIONS, GroupResult, PrunePlan, make_layers
from darkprune.pruning.reduced import ReducedWeights, original_of, reduced
from darkprune.pruning.replacement import check_similar, with_similar
from darkprune.pruning.settle import Limits, settle
from darkprune.pruning.similarity import Relations, relate, replace_similar, taps_of
from darkprune.pruning.units import choose_units


@dataclass(frozen=True)
class PruneSettings:
    """How to choose channels; the defaults are those of `darkprune prune --ratio P`.

    Attributes:
        ratio: fraction of channels to remove, for all allocations but `explicit`.
        ratios: one per group, for `explicit`.
        preset: a published setting, which brings groups and ratios (or widths) with it.
        groups: division into groups, see `divide`.
        allocation, merge, criterion, compensate, constant: see the modules of these names.
        round_to, min_channels: see `Limits`.
        exclude: layers whose channels stay.
        units, unit_ratio: residual units that are cut out before any channel is chosen: how many, or which fraction.
            Groups and `exclude` are in the original's layer numbers all the same.
        similarity: |correlation| from which one of two channels that importance left is replaced by the other; 0: none.
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


@dataclass(frozen=True)
class Decision:
    """A plan together with what it was made from.

    Attributes:
        plan: the plan.
        cut: the same, ready to be applied.
        warnings: what the user should know before going on.
    """

    plan: PrunePlan
    cut: Cut
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """What every decision about a pair starts from; made once, used for many ratios.

    Attributes:
        weights: the original pair, without the units that are cut out.
        channels: its labels.
        groups: its division.
        members: its ranked channels.
        measured: layer -> measured mean of each channel, where the scores were made on images.
        relations: channels that explain each other, where similarity is asked for.
    """

    weights: NetworkWeights
    channels: ChannelMap
    groups: tuple[PruneGroup, ...]
    members: Members
    measured: Mapping[int, Floats] = field(default_factory=dict)
    relations: tuple[Relations, ...] = ()


def rank(
    weights: NetworkWeights,
    settings: PruneSettings,
    scores: Mapping[int, LayerScores] | None = None,
    by_images: Callable[[NetworkWeights, ChannelMap], ImageScores] | None = None,
    moments: MomentsFrom = filter_moments,
) -> Ranking:
    """Divides, scores and ranks the channels of a pair.

    Args:
        weights: the original pair.
        settings: units, groups, criterion and excluded layers are used.
        scores: scores from elsewhere, instead of those of the criterion; for the network without the units.
        by_images: makes scores and measured constants, given the network without the units and its labels.
        moments: likewise makes the means and covariances that similarity starts from; by default from the filters.

    Raises:
        UsageError, PlanError: settings that make no sense for this network.
    """
    settings = _checked(weights, settings)
    groups = divide(weights.graph, settings.groups)
    excluded = frozenset(settings.exclude)
    weights = reduced(weights, choose_units(weights, settings.units, settings.unit_ratio))
    if isinstance(weights, ReducedWeights):
        groups = weights.regroup(groups)
        excluded = frozenset(new for new, old in enumerate(weights.kept) if old in excluded)
    channels = map_channels(weights.graph)
    measured: Mapping[int, Floats] = {}
    if by_images is not None:
        made = by_images(weights, channels)
        scores, measured = made.scores, made.measured
    elif scores is None:
        scores = score_channels(weights, channels, settings.criterion)
    members = gather_members(channels, scores, groups, excluded)
    relations: list[Relations] = []
    if settings.similarity:
        allowed = prunable_classes(channels, groups, excluded)
        relations = relate(weights, channels, allowed, settings.similarity, moments(weights, channels))
    return Ranking(weights, channels, groups, members, measured, tuple(relations))


def decide(ranking: Ranking, settings: PruneSettings, names: tuple[str, str]) -> Decision:
    """Makes a plan; its hashes are left to the caller (`PrunePlan.with_hashes`).

    Args:
        ranking: from `rank` with the same settings.
        settings: how.
        names: file names of cfg and weights.

    Raises:
        UsageError, PlanError: settings that make no sense for this network.
    """
    weights, channels, groups, members = ranking.weights, ranking.channels, ranking.groups, ranking.members
    settings = _checked(original_of(weights), settings)
    limits = Limits(settings.min_channels, settings.round_to)
    ratios = ratios_of(settings.allocation, settings.ratio, settings.ratios, _voting(members, groups))
    marks = mark(members, ratios, one_pool=settings.allocation == "global")
    keep, priority = merge(channels, members, marks, settings.merge)
    warnings = []
    if settings.preset in WIDTH_PRESETS:
        keep = _keep_widths(channels, priority, preset_widths(settings.preset, len(weights.graph)))
        rounded = np.zeros(channels.count, bool)
    else:
        settled = settle(channels, keep, priority, limits)
        # a pinned channel may be given back too, but never as a place for a carrier
        keep, rounded = settled.keep, settled.rounded & channels.free
        warnings += _floor_warnings(channels, settled.at_floor)
    replaced = replace_similar(channels, keep, priority, ranking.relations, limits)
    keep[[replacement.gone_class for replacement in replaced]] = False
    if settings.similarity and not replaced:
        warnings.append(
            f"similarity: no two channels that are left explain each other with a |correlation| of "
            f"{settings.similarity:g} or more wherever they are read, or floors and multiples keep them"
        )
    # what stands for another keeps its content: it is no place for a carrier
    rounded[[replacement.by_class for replacement in replaced]] = False
    carriers = np.zeros(channels.count, bool)
    if settings.compensate == "carrier":
        constants = removed_constants(
            weights, channels, (~keep | rounded) & channels.free, settings.constant, ranking.measured or None
        )
        carriers = choose_carriers(weights, channels, keep, rounded, constants)
        keep = keep | carriers
        if settings.preset not in WIDTH_PRESETS:
            keep = settle(channels, keep, priority, limits).keep
    results = _results(channels, groups, ratios, members, marks, keep)
    warnings += _sparsity_warnings(results, settings)
    units = weights.units if isinstance(weights, ReducedWeights) else ()
    layers = make_layers(channels, keep, carriers)
    gone = ~keep | carriers
    measured = {index: values for index, values in ranking.measured.items() if _any_of(gone, channels.of_layer[index])}
    similar = taps_of(replaced, gone)
    plan = PrunePlan("", "", names, _describe(settings), results, layers, measured, units, similar)
    cut = Cut(channels, keep, carriers, settings.compensate, settings.constant, measured or None)
    return Decision(plan, cut, tuple(warnings))


def within_budget(ranking: Ranking, settings: PruneSettings, budget: Budget) -> PruneSettings:
    """Returns the settings with the ratio that leaves what a budget says.

    Args:
        ranking: from `rank`.
        settings: allocation `uniform`, `global` or `proportional`.
        budget: what shall remain.

    Raises:
        PlanError: the budget cannot be met.
    """
    before = totals(ranking.weights.graph)

    def measure(ratio: float) -> Totals:
        decision = decide(ranking, replace(settings, ratio=ratio), ("", ""))
        return totals(build_graph(slim_cfg(decision.cut)))

    return replace(settings, ratio=solve_ratio(budget, measure, before))


def prepare(weights: NetworkWeights, plan: PrunePlan) -> NetworkWeights:
    """Returns the network that a plan's cut applies to: without the plan's units, similar channels replaced.

    Raises:
        PlanError: the plan names units that are none, or replacements that cannot be.
    """
    return with_similar(reduced(weights, plan.units), plan.similar)


def replay(weights: NetworkWeights, plan: PrunePlan, hashes: tuple[str, str]) -> Cut:
    """Turns a plan back into a cut of what `prepare` returns.

    Raises:
        PlanError: the plan was made for other files (says which), or is not consistent.
    """
    for kind, name, wanted, found in zip(
        ("cfg", "weights"), plan.names, (plan.cfg_sha256, plan.weights_sha256), hashes, strict=True
    ):
        if wanted != found:
            path = weights.graph.cfg.source if kind == "cfg" else weights.file.path
            raise PlanError(
                f"{path}: the plan was made for another {kind} file ({name}, sha256 {wanted[:12]}…; this one has "
                f"{found[:12]}…); take that file, or make a new plan"
            )
    channels = map_channels(prepare(weights, plan).graph)
    keep, carriers = plan.classes(channels)
    how, constant = str(plan.settings["compensate"]), str(plan.settings["constant"])
    cut = Cut(channels, keep, carriers, how, constant, plan.measured or None)
    check_similar(cut, plan.similar)
    return cut


def recounted(plan: PrunePlan, cut: Cut) -> PrunePlan:
    """Returns the plan with what its groups lose counted anew, in case it was changed by hand."""
    groups = [
        replace(group, removed=_removed_in(cut.channels, cut.keep, group.first, group.last)) for group in plan.groups
    ]
    return replace(plan, groups=tuple(groups))


def _checked(weights: NetworkWeights, settings: PruneSettings) -> PruneSettings:
    """Fills in presets and refuses what does not exist."""
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


def _any_of(gone: BoolArray, classes: Indices) -> bool:
    return bool(gone[classes[classes >= 0]].any())


def _voting(members: Members, groups: Sequence[PruneGroup]) -> list[int]:
    voting = members.pool[members.pool >= 0] // len(FAMILIES)
    return [int(number) for number in np.bincount(voting, minlength=len(groups))]


def _keep_widths(channels: ChannelMap, priority: Floats, widths: dict[int, int]) -> BoolArray:
    """Keeps the dearest channels of every layer, as many as given.

    Raises:
        PlanError: widths that the network cannot have.
    """
    keep = np.ones(channels.count, bool)
    decided: dict[int, int] = {}
    for layer, width in sorted(widths.items()):
        classes = channels.of_layer[layer]
        if width == len(classes):
            continue
        key = int(classes[0])
        if decided.setdefault(key, width) != width or not 0 < width < len(classes) or not channels.free[classes].all():
            raise PlanError(f"layer {layer} cannot have {width} of its {len(classes)} channels")
        order = np.lexsort((classes, -priority[classes]))
        keep[classes[order[width:]]] = False
    return keep


def _results(
    channels: ChannelMap,
    groups: Sequence[PruneGroup],
    ratios: Sequence[float],
    members: Members,
    marks: Marks,
    keep: BoolArray,
) -> tuple[GroupResult, ...]:
    results = []
    for number, (group, ratio) in enumerate(zip(groups, ratios, strict=True)):
        family = number * len(FAMILIES)
        voting = (members.pool >= 0) & (members.pool // len(FAMILIES) == number)
        gamma = members.pool == family
        threshold = marks.thresholds[family]
        results.append(
            GroupResult(
                group.name,
                group.first,
                group.last,
                float(ratio),
                float(threshold) if np.isfinite(threshold) else None,
                _median(members.score[gamma]),
                int(voting.sum()),
                int(marks.marked[voting].sum()),
                _removed_in(channels, keep, group.first, group.last),
            )
        )
    return tuple(results)


def _median(values: Floats) -> float | None:
    """Returns the median, None of nothing; numpy's own would load its masked arrays first (20 ms)."""
    if not len(values):
        return None
    ordered, half = np.sort(values), len(values) // 2
    return float((ordered[half] + ordered[-half - 1]) / 2)


def _removed_in(channels: ChannelMap, keep: BoolArray, first: int, last: int) -> int:
    """Counts the width that a range of layers loses, apart from followers, which were never ranked."""
    layers = [index for index in channels.producers if first <= index <= last and index not in channels.followers]
    return sum(int((~keep[channels.of_layer[index]]).sum()) for index in layers)


def _floor_warnings(channels: ChannelMap, layers: Sequence[int]) -> list[str]:
    if not layers:
        return []
    shown = ", ".join(map(str, layers[:8])) + (" …" if len(layers) > 8 else "")
    many = f"{len(layers)} layers ({shown}) are at their" if len(layers) > 1 else f"layer {shown} is at its"
    return [f"{many} floor: the ratio asked for would leave fewer channels than --min-channels or 1 %"]


def _sparsity_warnings(results: Sequence[GroupResult], settings: PruneSettings) -> list[str]:
    """Says where γ is not sparse: channels go that are nearly as strong as the others."""
    if settings.criterion != "bn_gamma":
        return []
    return [
        f"group {group.name}: ratio {group.ratio:g} removes channels up to |γ| = {group.threshold:.2g}, the median is "
        f"{group.median:.2g}: expect to retrain, or take --criterion sensitivity --images DIR (unlabelled), which does "
        "not need sparse γ"
        for group in results
        if group.threshold is not None and group.median is not None and group.threshold > 0.25 * group.median
    ]


def _describe(settings: PruneSettings) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
