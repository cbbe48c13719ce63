"""From a pair and settings to a plan: score, mark, merge, settle, carriers, in this fixed order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from darkprune.errors import PlanError, UsageError
from darkprune.graph.channels import BoolArray, ChannelMap, map_channels
from darkprune.graph.groups import PruneGroup, divide
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.layers.base import Floats, Indices
from darkprune.selection.allocation import WIDTH_PRESETS, preset_widths, ratios_of
from darkprune.selection.constraints import Limits, settle
from darkprune.selection.curves import Curves
from darkprune.selection.filter_moments import MomentsFrom, filter_moments
from darkprune.selection.finish import finish
from darkprune.selection.importance import ImageScores, score_channels
from darkprune.selection.settings import Selection, resolve_selection
from darkprune.selection.similarity import Relations, Replacement, relate, replace_similar, taps_of
from darkprune.selection.summary import floor_warnings, group_results, voters_of
from darkprune.selection.voting import Members, gather_members, mark, merge, prunable_classes
from darkprune.surgery.apply import Cut
from darkprune.surgery.carriers import choose_carriers
from darkprune.surgery.constants import removed_constants
from darkprune.surgery.plan import Plan, make_layers
from darkprune.surgery.removed_units import kept_layers, reduced, regroup
from darkprune.surgery.surgery import Surgery
from darkprune.surgery.units import Unit, UnitScorer, choose_units, score_units


@dataclass(frozen=True)
class Ranking:
    """What every decision about a pair starts from; made once, used for many ratios.

    Attributes:
        original: the pair.
        units: residual units that are cut out first.
        weights: the pair without them.
        channels: its labels.
        groups: its division.
        members: its ranked channels.
        measured: layer -> measured mean of each channel, where the scores were made on images.
        relations: channels that explain each other, where similarity is asked for.
        curves: how sensitive each group is, for the allocation `sensitivity`.
    """

    original: NetworkWeights
    units: tuple[Unit, ...]
    weights: TensorSource
    channels: ChannelMap
    groups: tuple[PruneGroup, ...]
    members: Members
    measured: Mapping[int, Floats] = field(default_factory=dict)
    relations: tuple[Relations, ...] = ()
    curves: Curves | None = None


@dataclass(frozen=True)
class _Choice:
    """What the steps after merging make of a mask.

    Attributes:
        keep: per class, carriers included.
        carriers: per class.
        replaced: what similarity replaced.
        at_floor: layers that the floor gave channels back.
    """

    keep: BoolArray
    carriers: BoolArray
    replaced: Sequence[Replacement]
    at_floor: tuple[int, ...]


def rank(
    weights: NetworkWeights,
    settings: Selection,
    by_images: Callable[[TensorSource, ChannelMap], ImageScores] | None = None,
    moments: MomentsFrom = filter_moments,
    by_unit: UnitScorer = score_units,
) -> Ranking:
    """Divides, scores and ranks the channels of a pair.

    Args:
        settings: units, groups, criterion and excluded layers are used.
        by_images: makes scores and measured constants, given the network without the units and its labels; by
            default scores are those of the criterion, from the weights.
        moments: likewise makes the means and covariances that similarity starts from; by default from the filters.
        by_unit: scores residual units; by default their mean |γ|.

    Raises:
        UsageError, PlanError: settings that make no sense for this network.
    """
    settings = resolve_selection(weights.graph, settings)
    groups = divide(weights.graph, settings.groups)
    excluded = frozenset(settings.exclude)
    units = choose_units(weights, settings.units, settings.unit_ratio, by_unit)
    left = reduced(weights, units)
    if units:
        kept = kept_layers(weights.graph, units)
        groups = regroup(groups, kept)
        excluded = frozenset(new for new, old in enumerate(kept) if old in excluded)
    channels = map_channels(left.graph)
    if by_images is not None:
        made = by_images(left, channels)
    else:
        made = ImageScores(score_channels(left, channels, settings.criterion))
    members = gather_members(channels, made.scores, groups, excluded)
    relations: list[Relations] = []
    if settings.similarity:
        allowed = prunable_classes(channels, groups, excluded)
        relations = relate(left, channels, allowed, settings.similarity, moments(left, channels))
    return Ranking(
        original=weights,
        units=units,
        weights=left,
        channels=channels,
        groups=groups,
        members=members,
        measured=made.measured,
        relations=tuple(relations),
    )


def decide(ranking: Ranking, settings: Selection) -> Surgery:
    """Chooses the channels; the hashes of the plan's pair are left to the caller (`Plan.with_hashes`).

    Args:
        ranking: from `rank` with the same settings.

    Raises:
        UsageError, PlanError: settings that make no sense for this network; a budget that single channels cannot meet.
    """
    original, channels, groups, members = ranking.original, ranking.channels, ranking.groups, ranking.members
    settings = resolve_selection(original.graph, settings)
    ratios = _ratios(ranking, settings)
    marks = mark(members, ratios, one_pool=settings.shared_out == "global")
    keep, priority = merge(channels, members, marks, settings.merge)
    if settings.preset in WIDTH_PRESETS:
        keep = _keep_widths(channels, priority, preset_widths(settings.preset, len(channels.graph)))
    elif settings.budget is not None:
        budget, limits = settings.budget, _limits(settings)
        keep = finish(
            channels,
            keep,
            priority,
            limits,
            budget,
            lambda mask: budget.of(_totals_of(ranking, settings, _choose(ranking, settings, mask, priority))),
        )
    chosen = _choose(ranking, settings, keep, priority)
    keep, carriers = chosen.keep, chosen.carriers
    results = group_results(channels, groups, ratios, members, marks, keep)
    warnings = floor_warnings(chosen.at_floor)
    if settings.similarity and not chosen.replaced:
        warnings.append(
            f"similarity: no two channels that are left explain each other with a |correlation| of "
            f"{settings.similarity:g} or more wherever they are read, or floors and multiples keep them"
        )
    layers = make_layers(channels, keep, carriers)
    gone = ~keep | carriers
    measured = {index: values for index, values in ranking.measured.items() if _any_of(gone, channels.of_layer[index])}
    similar = taps_of(chosen.replaced, gone)
    plan = Plan(
        cfg_sha256="",
        weights_sha256="",
        names=(Path(original.graph.cfg.source).name, original.path.name),
        settings=settings.described(),
        groups=results,
        layers=layers,
        measured=measured,
        units=ranking.units,
        similar=similar,
    )
    cut = Cut(channels, keep, carriers, settings.compensate, settings.constant, measured)
    return Surgery(original=original, plan=plan, cut=cut, warnings=tuple(warnings))


def _choose(ranking: Ranking, settings: Selection, keep: BoolArray, priority: Floats) -> _Choice:
    """Goes on from the merged mask: floors and multiples, similarity, carriers."""
    channels, limits = ranking.channels, _limits(settings)
    at_floor: tuple[int, ...] = ()
    if settings.preset in WIDTH_PRESETS:
        keep, rounded = keep.copy(), np.zeros(channels.count, bool)
    else:
        settled = settle(channels, keep, priority, limits)
        # a pinned channel may be given back too, but never as a place for a carrier
        keep, rounded, at_floor = settled.keep, settled.rounded & channels.free, settled.at_floor
    replaced = replace_similar(channels, keep, priority, ranking.relations, limits)
    keep[[replacement.gone_class for replacement in replaced]] = False
    # what stands for another keeps its content: it is no place for a carrier
    rounded[[replacement.by_class for replacement in replaced]] = False
    carriers = np.zeros(channels.count, bool)
    if settings.compensate == "carrier":
        constants = removed_constants(
            ranking.weights, channels, (~keep | rounded) & channels.free, settings.constant, ranking.measured
        )
        carriers = choose_carriers(ranking.weights, channels, keep, rounded, constants)
        keep = keep | carriers
        if settings.preset not in WIDTH_PRESETS:
            keep = settle(channels, keep, priority, limits).keep
    return _Choice(keep, carriers, replaced, at_floor)


def voting_channels(ranking: Ranking) -> list[int]:
    """Counts the ranked channels of each group."""
    return voters_of(ranking.members, ranking.groups)


def _ratios(ranking: Ranking, settings: Selection) -> tuple[float, ...]:
    given = settings.ratios
    if settings.allocation == "sensitivity" and not given:
        if ranking.curves is None:
            raise UsageError("--allocation sensitivity measures each group: give --images DIR (unlabelled) or --data F")
        given = ranking.curves.at_ratio(settings.ratio)
    return ratios_of(settings.shared_out, settings.ratio, given, voting_channels(ranking))


def _limits(settings: Selection) -> Limits:
    return Limits(settings.min_channels, settings.multiple)


def _totals_of(ranking: Ranking, settings: Selection, chosen: _Choice) -> Totals:
    cut = Cut(ranking.channels, chosen.keep, chosen.carriers, settings.compensate, settings.constant)
    return totals(cut.slim)


def _any_of(gone: BoolArray, classes: Indices) -> bool:
    return bool(gone[classes[classes >= 0]].any())


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
