"""The layer graph: how the sections of a cfg are wired, what shapes result, and what the weights file must hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from darkprune.darknet.cfg import Cfg, excerpt, read_cfg
from darkprune.darknet.options import INT_MAX, Options
from darkprune.errors import CfgError, DarkpruneError, GraphError, UsageError, one_line
from darkprune.graph.layer import Layer as Layer
from darkprune.graph.misread import misread, unknown_section
from darkprune.layers import INPUT, KINDS, Feature, Kind, Net
from darkprune.layers.convolution import Convolutional
from darkprune.layers.heads import Head

_JOINING = ("route", "shortcut", "sam", "scale_channels")
_STRIDES = (2, 4, 8, 16, 32, 64, 128)  #: total strides of networks
MAX_SIDE = 65_536  #: largest width, height or number of channels of an input that is taken seriously


@dataclass(frozen=True)
class Graph:
    """A network: immutable, and right once built.

    Attributes:
        cfg: the text it was built from.
        net: what `[net]` says.
        layers: all layers in order.
        warnings: why AlexeyAB's program would abort on it, and values that it would read otherwise than meant.
    """

    cfg: Cfg
    net: Net
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For every layer the layers that read its output."""
        readers: list[list[int]] = [[] for _ in self.layers]
        for layer in self.layers:
            for source in dict.fromkeys(layer.sources):
                if source != INPUT:
                    readers[source].append(layer.index)
        return tuple(map(tuple, readers))

    @cached_property
    def last_use(self) -> dict[int, int]:
        """The last layer that reads each layer, or the input (`INPUT`); what nobody reads is missing."""
        return {source: layer.index for layer in self.layers for source in layer.sources}

    @cached_property
    def heads(self) -> tuple[Layer, ...]:
        """The detection heads with a map ([yolo], [Gaussian_yolo], [region])."""
        return tuple(layer for layer in self.layers if isinstance(layer.kind, Head))

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """Layers whose output nobody reads, and the last layer before a trailing [cost]: what the network gives."""
        last = max((layer.index for layer in self.layers if layer.name != "cost"), default=0)
        unread = {layer.index for layer in self.layers if not self.consumers[layer.index] and layer.name != "cost"}
        return tuple(sorted(unread | {last}))

    def feature(self, source: int) -> Feature:
        """Returns the shape of a layer's output, or of the network's input."""
        return self.net.input if source == INPUT else self.layers[source].output

    def options(self, layer: Layer) -> Options:
        """Returns a reader of the layer's section (training keys, for example)."""
        return Options(self.cfg.sections[layer.section], self.cfg.source)

    def net_options(self) -> Options:
        """Returns a reader of `[net]`."""
        return Options(self.cfg.sections[0], self.cfg.source)

    @property
    def params(self) -> int:
        """Stored floats of the whole network."""
        return sum(layer.params for layer in self.layers)

    @property
    def trainable_params(self) -> int:
        """Floats changed by gradient."""
        return sum(layer.trainable_params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def bflops(self) -> float:
        """darknet's total: its 32-bit sum, which is a little off for large networks."""
        total = np.float32(0)
        for layer in self.layers:
            total += np.float32(layer.bflops)
        return float(total)


def read_graph(path: Path) -> Graph:
    """Reads a cfg file and builds its graph.

    Raises:
        CfgError: the file, or a section, cannot be read.
        GraphError: layers do not fit together.
    """
    return build_graph(read_cfg(path))


def build_graph(cfg: Cfg) -> Graph:
    """Builds the graph of a parsed cfg.

    Raises:
        CfgError: no `[net]`, an unknown section, a value that no network can have.
        GraphError: a reference to a layer that is not before this one; shapes that do not fit.
    """
    first = cfg.sections[0]
    if first.name not in ("net", "network"):
        if "]" in first.name:
            raise unknown_section(cfg, first)
        name = excerpt(first.name)[1:-1]
        raise CfgError(f"{cfg.source}:{first.line}: the first section is [{name}]; darknet wants [net] there")
    net = _read_net(Options(first, cfg.source))
    layers: list[Layer] = []
    troubles: dict[str, list[Layer]] = {}
    read: list[tuple[Options, Kind]] = []
    for number, section in enumerate(cfg.sections[1:], start=1):
        options = Options(section, cfg.source)
        try:
            layer = _build_layer(cfg, number, options, net, layers)
        except GraphError as error:
            raise GraphError(f"{error}{_next_sizes(cfg, net, number)}") from None
        trouble = layer.kind.trouble(layer.inputs, layer.output)
        if trouble:
            troubles.setdefault(trouble, []).append(layer)
        layers.append(layer)
        read.append((options, layer.kind))
    warnings = [*(f"{_places(found)}: {text}" for text, found in troubles.items()), *misread(cfg, read)]
    if not layers:
        raise CfgError(f"{cfg.source}: has no layer after [{first.name}]")
    if not any(layer.inputs and layer.inputs[0].h > 1 and layer.inputs[0].w > 1 for layer in layers):
        warnings.append("no layer reads a map larger than 1x1: darknet stops with a division by zero on such networks")
    return Graph(cfg, net, tuple(layers), tuple(map(one_line, warnings)))


def _places(layers: Sequence[Layer]) -> str:
    """Names layers, of one kind or several, with their lines."""
    if len(layers) == 1:
        return layers[0].place
    shown = ", ".join(str(layer.index) for layer in layers[:4]) + (", …" if len(layers) > 4 else "")
    kinds = "/".join(dict.fromkeys(layer.name for layer in layers))
    return f"layers {shown} ({kinds}, line {layers[0].line} and on)"


def with_input_size(graph: Graph, width: int, height: int) -> Graph:
    """Returns the same network for another input size; the graph itself where that is its own.

    Raises:
        GraphError: the network cannot take that size.
    """
    if (width, height) == (graph.net.input.w, graph.net.input.h):
        return graph
    return build_graph(graph.cfg.with_values({(0, "width"): str(width), (0, "height"): str(height)}))


def resized(graph: Graph, size: str | None) -> Graph:
    """Returns the same network for an input size given as `416` or `416x320` (width x height); None keeps its own.

    Raises:
        UsageError: the size cannot be read.
        GraphError: the network cannot take that size.
    """
    if size is None:
        return graph
    parts = size.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--size {size[:40]}: write it as 416 or 416x320 (width x height)")
    return with_input_size(graph, int(parts[0]), int(parts[-1]))


def _read_net(options: Options) -> Net:
    sizes = [options.int(key) for key in ("channels", "height", "width")]
    for key, size in zip(("channels", "height", "width"), sizes, strict=True):
        if not 0 <= size <= MAX_SIDE:
            raise options.error(f"{key}={size} is out of range; it must be 1 to {MAX_SIDE}", key)
    if all(sizes):
        shape = Feature.map(*sizes)
        shape = shape._replace(outputs=options.positive("inputs", shape.outputs, limit=max(INT_MAX, shape.outputs)))
    else:
        inputs = options.int("inputs")
        if inputs < 1:
            raise options.error("gives neither width, height and channels nor inputs (or one of them is 0)")
        shape = Feature.flat(inputs)
    subdivisions = options.positive("subdivisions", 1)
    return Net(
        shape,
        options.positive("batch", 1),
        subdivisions,
        max(1, options.int("time_steps", 1)),
        options.flag("letter_box"),
    )


def _next_sizes(cfg: Cfg, net: Net, failed: int) -> str:
    """Returns a hint for an error: the next widths and heights with which a section is no trouble; "" if none help.

    Args:
        failed: number of the section whose maps do not fit.
    """
    section = cfg.sections[failed]
    width, height = net.input.w, net.input.h
    if section.name not in _JOINING or not net.input.is_map:
        return ""
    for stride in _STRIDES:
        if width % stride == 0 and height % stride == 0:
            continue
        shape = Feature.map(net.input.c, -(-height // stride) * stride, -(-width // stride) * stride)
        layers: list[Layer] = []
        try:
            for number, each in enumerate(cfg.sections[1 : failed + 1], start=1):
                options = Options(each, cfg.source)
                layers.append(_build_layer(cfg, number, options, replace(net, input=shape), layers))
        except DarkpruneError:
            continue
        odd = [(name, size) for name, size in (("width", width), ("height", height)) if size % stride]
        found = [
            f"{name}={max(1, size // stride) * stride} or {(size // stride + 1) * stride} instead of {size}"
            for name, size in odd
        ]
        return f"; the strides need multiples of {stride}: {', '.join(found)}"
    return ""


def _build_layer(cfg: Cfg, number: int, options: Options, net: Net, before: list[Layer]) -> Layer:
    index, section = number - 1, options.section
    kind_class = KINDS.get(section.name)
    if kind_class is None:
        raise unknown_section(cfg, section)
    kind = kind_class.read(options)
    sources, references = kind.sources(index), kind.references(index)
    where = f"{cfg.source}:{section.line}: layer {index} ({kind.names[0]})"
    for source, may_be_input in (*((source, True) for source in sources), *((source, False) for source in references)):
        first = INPUT if may_be_input and source == index - 1 else 0
        if not first <= source < index:
            problem = "reads itself" if source == index else f"refers to layer {source}"
            layers = f"it can only refer to layers 0 to {index - 1}" if index else "there is no layer before it"
            raise GraphError(f"{where} {problem}; {layers}")
    try:
        inputs = tuple(
            _seen(net, before, source, after=kind.follows and position == 0) for position, source in enumerate(sources)
        )
        output = kind.output(inputs)
        blobs = kind.blobs(inputs, output)
    except CfgError as error:
        raise GraphError(f"{where} {error}") from None
    if isinstance(kind, Convolutional) and kind.share_index is not None:
        _check_sharing(where, kind, inputs[0], before[references[0]])
    stored = blobs
    if options.flag("dontload"):
        stored = ()
    elif options.flag("dontloadscales"):
        stored = tuple(b for b in blobs if b.name not in ("scales", "rolling_mean", "rolling_variance"))
    return Layer(index, number, section.line, kind, sources, references, inputs, output, blobs, stored)


def _seen(net: Net, before: list[Layer], source: int, after: bool) -> Feature:
    """Returns a source's shape: after an antialiased layer the blurred map, elsewhere the map before the blur."""
    if source == INPUT:
        return net.input
    layer = before[source]
    return layer.kind.seen_after(layer.output) if after else layer.output


def _check_sharing(where: str, kind: Convolutional, source: Feature, owner: Layer) -> None:
    """Demands that a convolution that uses another's weights has as many of them, as darknet does."""
    other = owner.kind
    if not (
        isinstance(other, Convolutional)
        and owner.inputs[0].c == source.c
        and (other.geometry.filters, other.geometry.size, other.geometry.groups)
        == (kind.geometry.filters, kind.geometry.size, kind.geometry.groups)
    ):
        raise GraphError(
            f"{where} shares the weights of layer {owner.index} ({owner.name}), "
            "which is no convolution with as many channels, filters, groups and taps"
        )
