"""Sections about channels: widths before and after, coupled sets, γ and thresholds."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from darkprune.graph.groups import PruneGroup, group_of
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.convolution import Convolutional
from darkprune.pages import plots
from darkprune.pages.contents import CutFolder
from darkprune.pages.context import MOST_DRAWN, Missing, ReportContext, Section, not_drawn_note
from darkprune.pages.markup import Node, table, tag
from darkprune.pages.network_page import coupled_table, groups_table, overview
from darkprune.pages.plots import LayerWidth
from darkprune.pages.structure import Structure


def at_a_glance(context: ReportContext) -> list[Node]:
    """Returns the drawing of the channels of every layer, before and after."""
    structure = context.structure
    layers = _layer_widths(structure, context.contents.cut)
    if not layers:
        return []
    alt, caption = "channels of every layer, before and after", "Pale: before. Dark: after. Colours are the groups."
    diagram = context.diagrams.add("channels", partial(plots.channels, layers), alt, caption)  # a file in any case
    if structure is None or structure.slim is None:
        return [diagram]
    return [*overview(structure)]


def groups(context: ReportContext) -> Section | Missing:
    """Shows every group with its settings, and what is left of it."""
    cut, structure = context.contents.cut, context.structure
    if structure is None and (cut is None or not cut.plan.groups):
        command = f"darkprune prune CFG WEIGHTS --ratio 0.4 -o {context.contents.folder}"
        return Missing("channels per group", command)
    if structure is None or cut is None:
        whole = groups_table(structure) if structure is not None else _group_settings(cut) if cut else None
        return Section("groups", "Groups", (whole,))
    of_plan = [PruneGroup(group.name, group.first, group.last) for group in cut.plan.groups]
    if of_plan != list(structure.groups):  # layers are counted without the units that were cut out
        return Section("groups", "Groups", (groups_table(structure), _group_settings(cut) if of_plan else None))
    chosen = {
        "ratio": [f"{group.ratio:.3g}" for group in cut.plan.groups],
        "threshold": [_number(group.threshold) for group in cut.plan.groups],
        "median score": [_number(group.median) for group in cut.plan.groups],
    }
    return Section("groups", "Groups", (groups_table(structure, chosen), tag("p", _about(cut), class_="soft")))


def _layer_widths(structure: Structure | None, cut: CutFolder | None) -> list[LayerWidth]:
    """Returns the widths of the layers that make channels: from the networks, else from the plan alone."""
    if structure is not None and structure.slim is not None:
        makers = [structure.graph[index] for index in structure.channels.producers]
        after = [structure.after(layer) for layer in makers]
        return [
            LayerWidth(
                layer=layer.index,
                before=layer.output.c,
                after=0 if now is None else now.output.c,
                group=structure.group_numbers[layer.index],
            )
            for layer, now in zip(makers, after, strict=True)
        ]
    if cut is None:
        return []
    groups = [(group.first, group.last) for group in cut.plan.groups]
    return [
        LayerWidth(index, width, len(kept), next((n for n, (a, b) in enumerate(groups) if a <= index <= b), None))
        for index, (width, kept, _) in sorted(cut.plan.layers.items())
    ]


def _group_settings(cut: CutFolder) -> Node:
    rows = [
        (
            tag("span", group.name, class_=f"tag g{number % 8}"),
            f"{group.first}–{group.last}",
            group.channels,
            f"{group.ratio:.3g}",
            _number(group.threshold),
            _number(group.median),
            group.marked,
            group.removed,
            f"{100 * group.removed / group.channels:.1f} %" if group.channels else "",
        )
        for number, group in enumerate(cut.plan.groups)
    ]
    head = ("group", "layers", "prunable", "ratio", "threshold", "median score", "marked", "removed", "share")
    return table(head, rows, left=2, caption=_about(cut))


def _about(cut: CutFolder) -> str:
    settings = cut.plan.settings
    keys = [key for key in ("criterion", "allocation", "merge", "compensate") if key in settings]
    return f"How they were cut: {', '.join(f'{key} {settings[key]}' for key in keys)}."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def coupled(context: ReportContext) -> Section | Missing:
    """Shows which convolutions keep the same channels."""
    if context.structure is None:
        return Missing("coupled sets", context.command("--original CFG WEIGHTS"))
    return Section("coupled", "Coupled sets", tuple(coupled_table(context.structure)))


def gammas(context: ReportContext) -> Section | Missing:
    """Shows how |γ| is distributed in the network that was cut, and over the epochs of training."""
    from darkprune.training.sparsity.gammas import gamma_figure

    cut = context.contents.cut
    by_gamma = cut is not None and cut.plan.settings.get("criterion", "bn_gamma") == "bn_gamma"
    levels = (
        {group.name: group.threshold for group in cut.plan.groups if group.threshold is not None}
        if cut and by_gamma
        else {}
    )
    nodes: list[Node] = []
    recorded = [
        (training.name, training.gammas) for training in context.contents.trainings if training.gammas is not None
    ]
    for number, (name, record) in enumerate(recorded[-MOST_DRAWN:]):
        figure = partial(gamma_figure, record, levels)
        alt = f"|γ| of every group over the epochs of {name}"
        caption = f"{name}: |γ| over the epochs; the darker, the more channels."
        nodes.append(context.diagrams.add(f"gamma_{number}", figure, alt, caption))
    if cut is not None and context.structure is not None and plots.available():
        values = _gamma_values(context.structure, context)
        if any(len(part) for part in values):
            names = [group.name for group in context.structure.groups]
            figure = partial(plots.gamma_now, names, values, [levels.get(name) for name in names])
            caption = "|γ| of the network that was cut" + (", and every group's threshold." if levels else ".")
            nodes.append(context.diagrams.add("gamma", figure, "|γ| of every group", caption))
    if not any(node is not None for node in nodes):
        command = "darkprune train CFG WEIGHTS --data F --sparsity dynamic -o sparse/"
        return Missing("γ over training", command)
    nodes.append(not_drawn_note(len(recorded), "records of γ"))
    return Section("gamma", "Batch-normalisation scales γ", tuple(nodes))


def _gamma_values(structure: Structure, context: ReportContext) -> list[NDArray[np.float32]]:
    """Returns |γ| of the convolutions of every group."""
    groups = structure.groups
    found: list[list[NDArray[np.float32]]] = [[] for _ in groups]
    with NetworkWeights(structure.graph, context.networks[0].weights) as weights:
        for layer in structure.graph:
            group = group_of(groups, layer.index)
            if group is None or not isinstance(layer.kind, Convolutional) or not layer.kind.batch_normalize:
                continue
            is_ranked = layer.index in structure.channels.producers  # a depthwise one follows its input
            if is_ranked and any(blob.name == "scales" for blob in layer.stored):
                found[groups.index(group)].append(np.abs(weights.read(layer, "scales")).ravel())
    return [np.concatenate(parts) if parts else np.zeros(0, np.float32) for parts in found]
