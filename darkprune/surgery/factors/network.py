"""A network some of whose convolutions are written as products, over the original's tensors.

A convolution k×k c→n becomes 1x1 c→c, k×k c→n, 1x1 n→n: the two 1x1 convolutions are inverse matrices, so that the
network computes what it did. A plan then cuts channels between the three like any others. The inner convolutions are
linear and without bias: the zero padding of k×k stays zero padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.cfg import Cfg, Section, parse_cfg
from darkprune.errors import PlanError
from darkprune.graph.graph import Graph, Layer, build_graph
from darkprune.graph.weights import DerivedSource, NetworkWriter, TensorSource
from darkprune.layers import INPUT
from darkprune.layers.convolution import Convolutional
from darkprune.surgery.factors.projection import MOST_CHANNELS, Factors
from darkprune.surgery.removed_units import renumbered_lines

#: keys of the window, which go with the k×k convolution
_WINDOW = ("size", "stride", "stride_x", "stride_y", "pad", "padding", "dilation")
#: keys of training, which all parts have
_TRAINING = ("learning_rate", "dont_update", "burnin_update", "train_only_bn", "clip")
#: keys with which a convolution is more than one
_SPECIAL = ("assisted_excitation", "bin_output", "sway", "rotate", "stretch", "stretch_sway", "coordconv")

Role = Literal["whole", "reduce", "core", "expand"]


@dataclass(frozen=True)
class Part:
    """What a layer of the factorised network is of a layer before.

    Attributes:
        layer: the layer's number before.
        role: `whole`: all of it; `reduce`: the 1x1 convolution of its inputs; `core`: its window; `expand`: the 1x1
            convolution of its sums.
        last: whether it has the layer's biases, batch normalisation and activation.
    """

    layer: int
    role: Role
    last: bool


def factorisable(graph: Graph, layer: Layer) -> bool:
    """Returns whether a layer can be written as a product: a dense convolution of its own, which reads no image."""
    kind = layer.kind
    if not isinstance(kind, Convolutional) or layer.sources[0] == INPUT or not layer.stored:
        return False
    if kind.geometry.groups > 1 or kind.share_index is not None or kind.antialiasing:
        return False
    if max(layer.inputs[0].c, layer.output.c) > MOST_CHANNELS:
        return False
    if kind.binary or kind.xnor or kind.flipped or len(layer.stored) != len(layer.blobs):
        return False
    section = graph.cfg.sections[layer.section]
    if any(section.find(key) is not None for key in _SPECIAL):
        return False
    return all(layer.index not in other.references for other in graph)


def parts_of(graph: Graph, factors: Mapping[int, Factors]) -> tuple[Part, ...]:
    """Returns what every layer of the factorised network is of the network before; the position is its number."""
    parts: list[Part] = []
    for layer in graph:
        found = factors.get(layer.index)
        if found is None:
            parts.append(Part(layer.index, "whole", True))
            continue
        if found.inputs is not None:
            parts.append(Part(layer.index, "reduce", False))
        parts.append(Part(layer.index, "core", found.outputs is None))
        if found.outputs is not None:
            parts.append(Part(layer.index, "expand", True))
    return tuple(parts)


def factorised_cfg(graph: Graph, factors: Mapping[int, Factors]) -> Cfg:
    """Inserts the sections of the inner convolutions, at full width, and rewrites every layer index.

    The section of a factorised layer stays the one with its batch normalisation and activation.

    Raises:
        PlanError: a layer cannot be written as a product, or a projection does not fit it.
    """
    _check(graph, factors)
    new = {part.layer: number for number, part in enumerate(parts_of(graph, factors)) if part.last}
    lines = renumbered_lines(graph, range(len(graph)), new)
    changes: dict[tuple[int, str], str] = {}
    for index, found in factors.items():
        section = graph.cfg.sections[graph[index].section]
        if found.outputs is not None:
            point = {key: "0" if key == "padding" else "1" for key in _WINDOW if key != "pad"}
            changes.update({(graph[index].section, k): v for k, v in point.items() if section.record(k) is not None})
    cfg = parse_cfg("".join(lines), graph.cfg.source).with_values(changes)
    lines = list(cfg.lines)
    for index, found in sorted(factors.items(), reverse=True):
        layer = graph[index]
        first = cfg.sections[layer.section].line - 1
        end = "\r\n" if lines[first].endswith("\r\n") else "\n"
        before = graph.cfg.sections[layer.section]
        inserted = []
        if found.inputs is not None:
            inserted += _inner(before, {"filters": str(layer.inputs[0].c), "size": "1", "stride": "1"})
        if found.outputs is not None:
            inserted += _inner(before, {"filters": str(layer.output.c), **_values(before, _WINDOW)})
        lines[first:first] = [line + end for line in inserted]
    return parse_cfg("".join(lines), graph.cfg.source)


def _inner(before: Section, keys: Mapping[str, str]) -> list[str]:
    """Returns the lines of an inner convolution."""
    options = {**keys, **_values(before, _TRAINING), "activation": "linear"}
    return ["[convolutional]", *(f"{key}={value}" for key, value in options.items()), ""]


def _values(section: Section, keys: tuple[str, ...]) -> dict[str, str]:
    found = {key: section.find(key) for key in keys}
    return {key: option.value for key, option in found.items() if option is not None and option.value is not None}


def _check(graph: Graph, factors: Mapping[int, Factors]) -> None:
    for index, found in factors.items():
        if not 0 <= index < len(graph) or not factorisable(graph, graph[index]):
            raise PlanError(f"plan: layer {index} is no convolution that can be written as a product")
        layer = graph[index]
        for part, width in ((found.inputs, layer.inputs[0].c), (found.outputs, layer.output.c)):
            if part is not None and part.width != width:
                raise PlanError(f"plan: layer {index}: a projection of {part.width} channels instead of {width}")


class WithFactors(DerivedSource):
    """The tensors of a network some of whose convolutions are written as products of full rank.

    Attributes:
        parts: what each layer is of the network before.
    """

    def __init__(self, source: TensorSource, factors: Mapping[int, Factors], graph: Graph | None = None) -> None:
        """Renumbers the layers.

        Args:
            source: the network before, which must stay open.
            factors: layer -> what it becomes.
            graph: of the factorised network, if it is known.

        Raises:
            PlanError: see `factorised_cfg`.
        """
        super().__init__(source, graph or build_graph(factorised_cfg(source.graph, factors)))
        self._factors = factors
        self.parts = parts_of(source.graph, factors)

    def read(self, layer: Layer, name: str) -> NDArray[np.float32]:
        """Reads a tensor; see `TensorSource`."""
        part = self.parts[layer.index]
        before = self._source.graph[part.layer]
        if part.role == "whole" or (part.last and name != "weights"):
            return self._source.read(before, name)
        if name != "weights":
            return np.zeros(layer.blob(name).shape, np.float32)
        factors = self._factors[part.layer]
        if part.role == "reduce" and factors.inputs is not None:
            return np.array(factors.inputs.whole.coordinates[:, :, None, None], np.float32)
        if part.role == "expand" and factors.outputs is not None:
            return np.array(factors.outputs.whole.basis[:, :, None, None], np.float32)
        return factors.core(np.array(self._source.read(before, name), np.float64), whole=True).astype(np.float32)

    def chunks(self, layer: Layer, name: str, limit: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Reads a tensor in parts, that of a factorised layer whole; see `TensorSource`."""
        part = self.parts[layer.index]
        if part.role == "whole":
            yield from self._source.chunks(self._source.graph[part.layer], name, limit)
        else:
            yield 0, self.read(layer, name)


def with_factors(source: TensorSource, factors: Mapping[int, Factors], graph: Graph | None = None) -> TensorSource:
    """Returns the network with some convolutions written as products: itself where there are none."""
    return WithFactors(source, factors, graph) if factors else source


def write_multiplied(graph: Graph, factors: Mapping[int, Factors], stand_in: TensorSource, file: BinaryIO) -> None:
    """Multiplies the parts of every factorised convolution into one again.

    Args:
        graph: the network before factorisation; the file is of its cfg.
        stand_in: tensors of the factorised network.
        file: empty, open for writing in binary.
    """
    writer = NetworkWriter(graph, file, stand_in.header)
    places: dict[int, dict[Role, Layer]] = {}
    for part, layer in zip(parts_of(graph, factors), stand_in.graph, strict=True):
        places.setdefault(part.layer, {})[part.role] = layer
    for layer in graph:
        roles = places[layer.index]
        last = roles.get("whole") or roles.get("expand") or roles["core"]
        tensors = {blob.name: stand_in.read(last, blob.name) for blob in layer.stored if blob.name != "weights"}
        if "weights" in (blob.name for blob in layer.stored):
            tensors["weights"] = stand_in.read(roles.get("core", last), "weights")
        if "reduce" in roles:
            points = stand_in.read(roles["reduce"], "weights")[:, :, 0, 0]
            tensors["weights"] = np.moveaxis(
                np.tensordot(np.array(tensors["weights"], np.float64), points, (1, 0)), -1, 1
            )
        if "expand" in roles:
            points = np.array(stand_in.read(roles["expand"], "weights")[:, :, 0, 0], np.float64)
            tensors["weights"] = np.tensordot(points, tensors["weights"], 1)
            offset = points @ stand_in.read(roles["core"], "biases")
            if "rolling_mean" in tensors:
                tensors["rolling_mean"] = tensors["rolling_mean"] - offset
            else:
                tensors["biases"] = tensors["biases"] + offset
        for name, values in tensors.items():
            writer.write(layer, name, np.asarray(values, np.float32))
    writer.finish()
