"""The lines between layers that do not follow each other, as lanes beside the list of layers."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from darkprune.graph.graph import Graph, Layer
from darkprune.layers.convolution import Convolutional
from darkprune.layers.merge import Route, Shortcut
from darkprune.layers.resample import Upsample
from darkprune.layers.simple import Final
from darkprune.pages.markup import tag

MOST_LANES = 20  #: connections beyond them are only named in the list
ROW = 22  #: height of a row, as in style.css
PITCH = 8  #: distance of lanes
_MARGIN = 8


@dataclass(frozen=True)
class Lane:
    """A connection from one layer to those that read it further down.

    Attributes:
        source: the layer that is read.
        readers: the layers that read it, without its direct successor.
        place: 0 is next to the layers.
    """

    source: int
    readers: tuple[int, ...]
    place: int

    @property
    def end(self) -> int:
        """The last reader."""
        return self.readers[-1]


def lay_lanes(graph: Graph) -> tuple[Lane, ...]:
    """Gives every connection a lane that is free from its source to its last reader."""
    free_from: list[int] = []  # per place the row from which it is free
    lanes = []
    for source, readers in enumerate(graph.consumers):
        distant = tuple(reader for reader in readers if reader != source + 1)
        if not distant:
            continue
        place = next((p for p, row in enumerate(free_from) if row <= source), len(free_from))
        if place == len(free_from):
            if place == MOST_LANES:
                continue
            free_from.append(0)
        free_from[place] = distant[-1]
        lanes.append(Lane(source, distant, place))
    return tuple(lanes)


class Gutter:
    """Draws the connections beside the layers, row by row."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        lanes = lay_lanes(graph)
        self.width = (1 + max((lane.place for lane in lanes), default=0)) * PITCH + 2 * _MARGIN
        self._node = float(self.width - _MARGIN)
        self._lanes: list[list[Lane]] = [[] for _ in graph]
        for lane in lanes:
            for row in range(lane.source, lane.end + 1):
                self._lanes[row].append(lane)

    def row(self, layer: Layer) -> Element:
        """Draws one row: the layer's own sign, the lanes that pass, start or end here."""
        index, node, half = layer.index, self._node, ROW / 2
        lines = [self._lane(lane, index) for lane in self._lanes[index]]
        if index - 1 in layer.sources:
            lines.append(f"M{node:g} 0V{half:g}")
        if index + 1 < len(self.graph) and index in self.graph[index + 1].sources:
            lines.append(f"M{node:g} {half:g}V{ROW}")
        return tag(
            "svg",
            tag("path", d="".join(lines), class_="wire"),
            draw_sign(sign_of(layer), node, half),
            width=self.width, height=ROW, viewBox=f"0 0 {self.width} {ROW}", aria_hidden="true",
        )  # fmt: skip

    def _lane(self, lane: Lane, row: int) -> str:
        x = self._node - (lane.place + 1) * PITCH
        node, half = self._node, ROW / 2
        out = f"M{node:g} {half:g}Q{x:g} {half:g} {x:g} {ROW}" if row == lane.source else ""
        into = f"M{x:g} 0Q{x:g} {half:g} {node:g} {half:g}" if row in lane.readers else ""
        through = f"M{x:g} 0V{ROW}" if lane.source < row < lane.end else ""
        return out + into + through


#: the layers' signs and their meaning; they differ in shape, not only in colour
SIGNS = {
    "convolution": "convolution",
    "grouped": "depthwise or grouped",
    "shortcut": "shortcut",
    "route": "route",
    "upsample": "upsample",
    "head": "head",
    "other": "other",
}


def sign_of(layer: Layer) -> str:
    """Returns the name of a layer's sign."""
    kind = layer.kind
    if isinstance(kind, Convolutional):
        return "grouped" if kind.geometry.groups > 1 else "convolution"
    by_class = {Shortcut: "shortcut", Route: "route", Upsample: "upsample", Final: "head"}
    return next((name for class_, name in by_class.items() if isinstance(kind, class_)), "other")


def draw_sign(name: str, x: float, y: float) -> Element:
    """Draws a sign around a point."""
    if name in ("convolution", "grouped"):
        return tag("circle", cx=x, cy=y, r=4.0, class_="sign" if name == "convolution" else "sign open")
    if name == "shortcut":
        return tag("path", d=f"M{x - 5:g} {y:g}h10M{x:g} {y - 5:g}v10", class_="plus")
    if name == "route":
        return tag("path", d=f"M{x - 5:g} {y - 4:g}h10l-5 9Z", class_="sign")
    if name == "upsample":
        return tag("path", d=f"M{x - 5:g} {y + 4:g}h10l-5 -9Z", class_="sign open")
    size = 5.0 if name == "head" else 3.0
    style = "sign" if name == "head" else "sign open"
    return tag("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, class_=style)
