"""The sections about channels: widths before and after, what is coupled, γ and thresholds."""

from __future__ import annotations

import numpy as np

from darkprune.graph.groups import group_of
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.convolution import Convolutional
from darkprune.report import plots
from darkprune.report.contents import Cut
from darkprune.report.markup import Node, table, tag
from darkprune.report.network_page import coupled_table, explanation, groups_table
from darkprune.report.overview import draw_overview
from darkprune.report.told import MOST_DRAWN, Lack, Section, Told, again, undrawn


def widths(told: Told) -> Section | Lack:
    """Tells the channels of every layer, and what was asked of every group."""
    cut = told.contents.cut
    nodes: list[Node] = []
    if told.structure is not None and told.structure.slim is not None:
        nodes += [
            tag("div", draw_overview(told.structure), class_="scroll", tabindex="0"),
            tag("p", explanation(told.structure), class_="soft"),
        ]
    layers = _layer_widths(told)
    if layers and plots.available():
        nodes.append(told.album.add("channels", plots.channels(layers), "channels of every layer, before and after",
                                    "Pale: before. Dark: after. Colours are the groups."))  # fmt: skip
    if cut is not None and cut.plan.groups:
        nodes.append(_asked(cut))
    if told.structure is not None:
        nodes.append(groups_table(told.structure))
    if not nodes:
        return Lack("channels per layer", f"darkprune prune CFG WEIGHTS --ratio 0.4 -o {told.run}")
    return Section("channels", "Channels per layer and group", tuple(nodes))


def _layer_widths(told: Told) -> list[tuple[int, int, int, int | None]]:
    structure = told.structure
    if structure is not None and structure.slim is not None:
        makers = [structure.graph[index] for index in structure.channels.producers]
        after = [structure.after(layer) for layer in makers]
        return [
            (layer.index, layer.output.c, 0 if now is None else now.output.c, structure.group_numbers[layer.index])
            for layer, now in zip(makers, after, strict=True)
        ]
    cut = told.contents.cut
    if cut is None:
        return []
    groups = [(group.first, group.last) for group in cut.plan.groups]
    return [
        (index, width, len(kept), next((n for n, (a, b) in enumerate(groups) if a <= index <= b), None))
        for index, (width, kept, _) in sorted(cut.plan.layers.items())
    ]


def _asked(cut: Cut) -> Node:
    rows = [
        (
            tag("span", group.name, class_=f"tag g{number % 8}"),
            f"{group.first}–{group.last}",
            group.channels,
            f"{group.ratio:.3g}",
            "" if group.threshold is None else f"{group.threshold:.4g}",
            "" if group.median is None else f"{group.median:.4g}",
            group.marked,
            group.removed,
            f"{100 * group.removed / group.channels:.1f} %" if group.channels else "",
        )
        for number, group in enumerate(cut.plan.groups)
    ]
    head = ("group", "layers", "prunable", "ratio", "threshold", "median score", "marked", "removed", "share")
    settings = cut.plan.settings
    about = ", ".join(
        f"{key} {settings[key]}" for key in ("criterion", "allocation", "merge", "compensate") if key in settings
    )
    return table(head, rows, left=2, caption=f"what was asked of every group: {about}")


def coupled(told: Told) -> Section | Lack:
    """Tells which convolutions keep the same channels."""
    if told.structure is None:
        return Lack("coupled sets", again(told, "--original CFG WEIGHTS"))
    return Section("coupled", "Coupled sets", tuple(coupled_table(told.structure)))


def gammas(told: Told) -> Section | Lack:
    """Tells how |γ| is distributed in the network that was cut, and how it came to that."""
    from darkprune.training.sparsity.gamma_figure import gamma_figure

    cut = told.contents.cut
    by_gamma = cut is not None and cut.plan.settings.get("criterion", "bn_gamma") == "bn_gamma"
    levels = (
        {group.name: group.threshold for group in cut.plan.groups if group.threshold is not None}
        if cut and by_gamma
        else {}
    )
    nodes: list[Node] = []
    recorded = [training for training in told.contents.trainings if training.gammas is not None]
    for training in recorded[-MOST_DRAWN:]:
        if training.gammas is not None and plots.available():
            nodes.append(
                told.album.add(
                    f"gamma_{len(nodes)}",
                    gamma_figure(training.gammas, levels),
                    f"|γ| of every group over the epochs of {training.name}",
                    f"{training.name}: |γ| over the epochs; the darker, the more channels.",
                )
            )
    if cut is not None and told.structure is not None and plots.available():
        values = _gamma_values(told)
        if any(len(part) for part in values):
            names = [group.name for group in told.structure.groups]
            figure = plots.gamma_now(names, values, [levels.get(name) for name in names])
            about = "|γ| of the network that was cut" + (", and every group's threshold." if levels else ".")
            nodes.append(told.album.add("gamma", figure, "|γ| of every group", about))
    if any(node is not None for node in nodes):
        nodes.append(undrawn(len(recorded), "records of γ"))
    else:
        return Lack("γ over training", "darkprune train CFG WEIGHTS --data F --sparsity dynamic --s 0.00075 -o sparse/")
    return Section("gamma", "Batch-normalisation scales γ", tuple(nodes))


def _gamma_values(told: Told) -> list[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Returns |γ| of every group's convolutions."""
    assert told.structure is not None
    groups = told.structure.groups
    found: list[list[np.ndarray[tuple[int], np.dtype[np.float32]]]] = [[] for _ in groups]
    with NetworkWeights(told.structure.graph, told.networks[0].weights) as weights:
        for layer in told.structure.graph:
            group = group_of(groups, layer.index)
            if group is None or not isinstance(layer.kind, Convolutional) or not layer.kind.batch_normalize:
                continue
            ranked = layer.index in told.structure.channels.producers  # a depthwise one has no rank of its own
            if ranked and any(blob.name == "scales" for blob in layer.stored):
                found[groups.index(group)].append(np.abs(weights.read(layer, "scales")).ravel())
    return [np.concatenate(parts) if parts else np.zeros(0, np.float32) for parts in found]
