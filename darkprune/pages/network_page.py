"""A network as a page: totals, the whole at a glance, groups, coupled sets, and the list of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from darkprune.graph.graph import Layer
from darkprune.graph.stats import change, count, layer_detail, megabytes, totals
from darkprune.pages.markup import Node, document, table, tag
from darkprune.pages.overview import MOST_SETS, draw_overview
from darkprune.pages.structure import Structure
from darkprune.pages.wiring import SIGNS, Gutter, draw_sign

_BAR = 128.0  #: length of the bar of the widest layer that makes channels
#: field of `Totals` -> label, and how it is written
QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "params": ("parameters (stored floats)", count),
    "trainable_params": ("trainable parameters", count),
    "macs": ("multiply-adds", count),
    "bflops": ("BFLOPs as darknet counts", lambda value: f"{value:.3f}"),
    "bytes": ("weights file", megabytes),
}


def network_page(structure: Structure) -> bytes:
    """Draws a network, and what it became; returns the HTML file."""
    graph, slim = structure.graph, structure.slim
    files = [graph.cfg.source, *([slim.graph.cfg.source] if slim else [])]
    title = Path(files[0]).name
    return document(
        title,
        tag("h1", title),
        tag("p", tag("code", " → ".join(files))),
        tag("p", f"{len(graph)} layers, input {graph.net.input}, {len(graph.heads)} detection heads", class_="soft"),
        [tag("p", warning, class_="note") for warning in graph.warnings[:20]],
        totals_table(structure),
        network_sections(structure),
    )


def network_sections(structure: Structure) -> list[Element]:
    """Returns the drawings and tables of a structure."""
    return [
        tag("h2", "At a glance"),
        *overview(structure),
        tag("h2", "Groups"),
        groups_table(structure),
        tag("h2", "Coupled sets"),
        *coupled_table(structure),
        tag("h2", "Layers"),
        _key(),
        _layers_table(structure),
    ]


def totals_table(structure: Structure) -> Element:
    """Returns the totals, before and after if both are known."""
    slim = structure.slim
    sums = [totals(graph) for graph in (structure.graph, *([slim.graph] if slim else []))]
    rows: list[list[Node]] = []
    for field, (label, form) in QUANTITIES.items():
        values: list[float] = [getattr(each, field) for each in sums]
        rows.append([label, *map(form, values), *([change(*values)] if slim else [])])
    return table(("", "before", "after", "change") if slim else ("", ""), rows)


def groups_table(structure: Structure, more: Mapping[str, Sequence[str]] | None = None) -> Element:
    """Returns a row per group, with the widths of its convolutions added up.

    `more` holds further columns: heading -> a cell per group.
    """
    more = more or {}
    rows: list[list[Node]] = []
    for number, group in enumerate(structure.groups):
        layers = structure.graph.layers[group.first : group.last + 1]
        makers = [layer for layer in layers if layer.index in structure.channels.producers]
        scales = dict.fromkeys(f"{layer.output.w}×{layer.output.h}" for layer in layers if layer.output.h > 1)
        rows.append(
            [
                tag("span", group.name, class_=f"tag g{number % 8}"),
                f"{group.first}–{group.last}",
                ", ".join(scales),
                len(makers),
                *_before_after(structure, makers, lambda layer: layer.output.c),
                *_before_after(structure, list(layers), lambda layer: layer.params),
                *_before_after(structure, list(layers), lambda layer: layer.macs),
                *(cells[number] for cells in more.values()),
            ]
        )
    names = ("channels", "parameters", "MACs")
    heads = [part for name in names for part in ((name, "after", "change") if structure.slim else (name,))]
    return table(("group", "layers", "map sizes", "convolutions", *heads, *more), rows, left=3)


def _before_after(structure: Structure, layers: list[Layer], measure: Callable[[Layer], int]) -> list[str]:
    before = sum(measure(layer) for layer in layers)
    if structure.slim is None:
        return [count(before)]
    after = sum(measure(now) for layer in layers if (now := structure.after(layer)) is not None)
    return [count(before), count(after), change(before, after)]


def coupled_table(structure: Structure) -> list[Element]:
    """Returns the sets of convolutions that keep the same channels."""
    sets = structure.channels.coupled_sets
    if not sets:
        return [tag("p", "None: no two convolutions are added, so each may keep channels of its own.")]
    rows: list[list[Node]] = []
    for name, members in zip(structure.set_names, sets, strict=True):
        widths = dict.fromkeys(structure.graph[index].output.c for index in members)
        now = [structure.after(structure.graph[index]) for index in members]
        after = dict.fromkeys(layer.output.c for layer in now if layer is not None)
        cells: list[Node] = [tag("span", name, class_="tag set"), tag("span", _listed(members), class_="list")]
        cells += [len(members), _listed(widths)]
        rows.append([*cells, _listed(after)] if structure.slim else cells)
    head = ("set", "layers", "convolutions", "channels", *(["after"] if structure.slim else []))
    whole = table(head, rows, left=2)
    note = "These are joined by shortcuts (or other sums and products), so they keep the same channels."
    return [tag("p", note, class_="soft"), whole]


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def overview(structure: Structure) -> list[Element]:
    """Returns the drawing of all layers, and how to read it."""
    text = "Every bar is a layer: channels upwards, multiply-adds downwards."
    if structure.slim:
        text += " Dark: after. Pale: before."
    if structure.channels.coupled_sets:
        text += " Dots on one line are convolutions that keep the same channels."
    more = len(structure.channels.coupled_sets) - MOST_SETS
    text += f" {more} more coupled sets are in the table." if more > 0 else ""
    return [tag("div", draw_overview(structure), class_="scroll", tabindex="0"), tag("p", text, class_="soft")]


def _key() -> Element:
    return tag(
        "p",
        [
            tag("span", tag("svg", draw_sign(name, 7.0, 8.0), width=14, height=16, aria_hidden="true"), meaning)
            for name, meaning in SIGNS.items()
        ],
        class_="key",
    )


def _layers_table(structure: Structure) -> Element:
    gutter = Gutter(structure.graph)
    makers = structure.channels.producers
    most = max((structure.graph[index].output.c for index in makers), default=1)
    most_macs = max((layer.macs for layer in structure.graph), default=1) or 1
    starts = {group.first for group in structure.groups}
    rows = [_row(structure, layer, gutter, most, most_macs, layer.index in starts) for layer in structure.graph]
    width = "channels, before → after" if structure.slim else "channels"
    head = ("", "layer", "", "kind", "detail", "reads", "map", width, "", "params", "MACs", "")
    numbers = {1, 8, 9, 10}
    cells = [tag("th", text, scope="col", class_="n" if n in numbers else None) for n, text in enumerate(head)]
    whole = tag("table", tag("thead", tag("tr", cells)), tag("tbody", rows), class_="layers")
    return tag("div", whole, class_="scroll tall", tabindex="0")


def _row(structure: Structure, layer: Layer, gutter: Gutter, most: int, most_macs: int, starts: bool) -> Element:
    number = structure.group_numbers[layer.index]
    after = structure.after(layer)
    gone = structure.slim is not None and after is None
    shown = after or layer
    group = None if number is None else structure.groups[number].name
    reads = ", ".join("input" if source < 0 else str(source) for source in layer.sources)
    share = f"--part:{100 * shown.macs / most_macs:.1f}%" if shown.macs else None
    styles = {"first": starts, "gone": gone, f"g{(number or 0) % 8}": number is not None}
    return tag(
        "tr",
        tag("td", tag("span", group, class_="tag") if starts and group else None),
        tag("td", layer.index, class_="n"),
        tag("td", gutter.row(layer)),
        tag("td", layer.name),
        tag("td", layer_detail(layer)),
        tag("td", reads if layer.sources != (layer.index - 1,) else None, class_="soft"),
        tag("td", f"{layer.output.w}×{layer.output.h}" if layer.output.is_map else None),
        tag("td", None if gone else _bar(structure, layer, after, most)),
        tag("td", _width(layer, after), class_="n"),
        tag("td", count(shown.params) if shown.params else None, class_="n"),
        tag("td", count(shown.macs) if shown.macs else None, class_="n share", style=share),
        tag("td", _marks(structure, layer)),
        class_=" ".join(style for style, wanted in styles.items() if wanted) or None,
    )


def _width(layer: Layer, after: Layer | None) -> str | None:
    if not layer.output.is_map:
        return str(layer.output.outputs)
    if after is None or after.output.c == layer.output.c:
        return str(layer.output.c)
    return f"{layer.output.c} → {after.output.c}"


def _bar(structure: Structure, layer: Layer, after: Layer | None, most: int) -> Element | None:
    """Draws a layer's width; what only passes others' channels on is drawn thinner, and to the box's end at most."""
    if not layer.output.is_map:
        return None
    makes = layer.index in structure.channels.producers
    high = 10.0 if makes else 4.0
    before, now = (min(1.0, part.output.c / most) * _BAR for part in (layer, after or layer))
    return tag(
        "svg",
        tag("rect", x=0.0, y=5 - high / 2, width=max(1.0, before), height=high, class_="was"),
        tag("rect", x=0.0, y=5 - high / 2, width=max(1.0, now), height=high, class_="is"),
        width=int(_BAR), height=10, class_="width", aria_hidden="true",
    )  # fmt: skip


def _marks(structure: Structure, layer: Layer) -> list[Node]:
    """Marks coupled sets and pins."""
    marks: list[Node] = [tag("span", name, class_="tag set") for name in structure.sets_of(layer.index)]
    pins = structure.pins_of(layer.index)
    if pins:
        marks.append(tag("span", " pinned: " + "; ".join(pins), class_="pin"))
    return marks
