"""A whole network at a glance: width and operations of every layer, groups, coupled sets."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from darkprune.graph.graph import Layer
from darkprune.pages.markup import tag
from darkprune.pages.structure import Structure

_WIDE = 1200.0
_LEFT = 34.0
_TOP = 20.0
_HIGH = 120.0  #: of the widest layer
_WORK = 46.0  #: of the layer with the most operations, downwards
MOST_SETS = 24  #: coupled sets that get a line


def draw_overview(structure: Structure) -> Element:
    """Draws layers from left to right: channels upwards, multiply-adds downwards, below groups and coupled sets."""
    layers = structure.graph.layers
    pitch = (_WIDE - _LEFT) / len(layers)
    sets = structure.channels.coupled_sets[:MOST_SETS]
    base = _TOP + _HIGH
    bands = base + _WORK + 8
    height = bands + 22 + 13 * len(sets)
    most = max((layer.output.c for layer in layers), default=1) or 1
    most_macs = max((layer.macs for layer in layers), default=1) or 1

    def bar(layer: Layer, value: float, style: str, down: bool = False) -> Element | None:
        tall = value * (_WORK if down else _HIGH)
        if not tall:
            return None
        x = _LEFT + layer.index * pitch
        y = base + 1 if down else base - tall
        return tag("rect", x=x, y=y, width=max(0.8, pitch * 0.8), height=tall, class_=style)

    parts: list[Element | None] = []
    for layer in layers:
        after = structure.after(layer) if structure.slim else layer
        number = structure.group_numbers[layer.index]
        parts.append(
            tag(
                "g",
                tag("title", _describe(structure, layer)),
                bar(layer, layer.output.c / most, "was") if structure.slim else None,
                bar(layer, after.output.c / most if after else 0, "is"),
                bar(layer, layer.macs / most_macs, "was", down=True) if structure.slim else None,
                bar(layer, after.macs / most_macs if after else 0, "is", down=True),
                class_=None if number is None else f"g{number % 8}",
            )
        )
    return tag(
        "svg",
        tag("path", d=f"M{_LEFT:g} {base:g}H{_WIDE:g}", class_="axis"),
        tag("text", most, x=_LEFT - 4, y=_TOP + 8, text_anchor="end"),
        tag("text", "0", x=_LEFT - 4, y=base + 4, text_anchor="end"),
        tag("text", "MACs", x=_LEFT - 4, y=base + _WORK - 2, text_anchor="end"),
        list(_scales(structure, pitch)),
        parts,
        list(_bands(structure, pitch, bands)),
        [_set(structure, number, pitch, bands + 30 + 13 * number) for number in range(len(sets))],
        viewBox=f"0 0 {_WIDE:g} {height:g}", class_="overview", role="img",
        aria_label="channels of every layer upwards, multiply-adds downwards, groups and coupled sets below",
    )  # fmt: skip


def _describe(structure: Structure, layer: Layer) -> str:
    text = f"layer {layer.index}: {layer.name} {layer.output}"
    after = structure.after(layer)
    if structure.slim is None:
        return text
    return f"{text} → {after.output}" if after else f"{text}, cut out"


def _scales(structure: Structure, pitch: float) -> Iterator[Element]:
    """Writes the size of the maps where it changes, where there is space."""
    last, free_from = "", 0.0
    for layer in structure.graph:
        scale = f"{layer.output.w}×{layer.output.h}" if layer.output.is_map and layer.output.h > 1 else last
        if scale == last:
            continue
        x, last = _LEFT + layer.index * pitch, scale
        yield tag("path", d=f"M{x:g} {_TOP - 6:g}V{_TOP + _HIGH:g}", class_="axis")
        if x >= free_from:
            yield tag("text", scale, x=x + 2, y=_TOP - 8)
            free_from = x + 7.0 * len(scale)


def _bands(structure: Structure, pitch: float, y: float) -> Iterator[Element]:
    for number, group in enumerate(structure.groups):
        x, wide = _LEFT + group.first * pitch, (group.last - group.first + 1) * pitch
        yield tag("rect", x=x, y=y, width=max(1.0, wide - 1.5), height=4.0, class_=f"is g{number % 8}")
        yield tag("text", f"{group.name} {group.first}–{group.last}" if wide > 70 else group.name, x=x, y=y + 16)


def _set(structure: Structure, number: int, pitch: float, y: float) -> Element:
    members = structure.channels.coupled_sets[number]
    xs = [_LEFT + (index + 0.4) * pitch for index in members]
    return tag(
        "g",
        tag("title", f"coupled set {structure.set_names[number]}: layers {', '.join(map(str, members))}"),
        tag("text", structure.set_names[number], x=_LEFT - 6, y=y + 4, text_anchor="end", class_="letter"),
        tag("path", d=f"M{xs[0]:.1f} {y:g}H{xs[-1]:.1f}", class_="link"),
        [tag("circle", cx=x, cy=y, r=2.6, class_="dot") for x in xs],
    )
