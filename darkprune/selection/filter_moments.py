"""How channels of a network vary together, estimated from the filters alone: similarity without images.

A batch-normalised channel is taken for normal before its activation, with mean β and deviation |γ|, and two channels of
a layer for correlated as their filters are (the cosine between them, times the signs of γ). The activation makes of
that, by Mehler's formula, Cov(f(x), g(y)) = Σ_k c_k(f)·c_k(g)·ρ^k, with c_k the coefficients of the two in normalised
Hermite polynomials. What is added in a shortcut is taken for independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers.activations import FUNCTIONS, activate, mean_under_normal
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.layers.merge import Route, Shortcut
from darkprune.layers.pooling import MaxPool
from darkprune.layers.resample import Upsample

PART = 1 << 25  #: bytes of filters that are read at a time
TERMS = 20  #: of Mehler's series; what is left of a kink is below 1 % of the variance


@dataclass(frozen=True)
class Moments:
    """Means and covariances of some channels of one map.

    Attributes:
        positions: (n,) where they lie in the map; in the order of the classes that were asked for.
        mean: (n,) mean over images and places.
        covariance: (n, n); 0 between channels of which one may not be replaced by the other here.
    """

    positions: Indices
    mean: Floats
    covariance: Floats


#: classes of an atom -> layer -> moments of every occurrence in its output; None where they are not known
MomentsOf = Callable[[Indices], Mapping[int, Sequence[Moments]] | None]
#: makes such a function for a network: `filter_moments`, or what measures on images
MomentsFrom = Callable[[TensorSource, ChannelMap], MomentsOf]


def filter_moments(weights: TensorSource, channels: ChannelMap) -> MomentsOf:
    """Returns moments estimated from the filters.

    They are known for batch-normalised convolutions, dense, grouped and depthwise, through pooling, upsampling,
    concatenation, slices and plain linear shortcuts; for a class that passes anything else they are not.
    """

    def moments(classes: Indices) -> Mapping[int, Sequence[Moments]] | None:
        known: dict[int, list[Moments]] = {}
        for layer in channels.graph:
            if not np.isin(channels.of_layer[layer.index], classes).any():
                continue
            here = _of_layer(weights, channels, layer, classes, known)
            if here is None:
                return None
            known[layer.index] = here
        return known

    return moments


def _of_layer(
    weights: TensorSource, channels: ChannelMap, layer: Layer, classes: Indices, known: Mapping[int, list[Moments]]
) -> list[Moments] | None:
    kind = layer.kind
    given = [known.get(source, []) for source in layer.sources]
    if isinstance(kind, Convolutional):
        if not layer.is_normalised or kind.flipped or kind.activation not in FUNCTIONS:
            return None
        if layer.is_depthwise:
            return _depthwise(weights, layer, given[0])
        return _produced(weights, layer, channels.of_layer[layer.index], classes)
    if isinstance(kind, Route):
        return _routed(layer, kind, given)
    if isinstance(kind, Shortcut):
        return _added(kind, given)
    if isinstance(kind, MaxPool) and not kind.depth:  # y_i = a·y_j + b passes a maximum only for a > 0
        return [replace(part, covariance=np.maximum(part.covariance, 0)) for part in given[0]]
    if isinstance(kind, Upsample) and kind.stride > 0:
        factor = kind.scale
        return [replace(p, mean=p.mean * factor, covariance=p.covariance * factor**2) for p in given[0]]
    return given[0] if kind.keeps_mean else None


def _produced(weights: TensorSource, layer: Layer, own: Indices, classes: Indices) -> list[Moments] | None:
    order = np.argsort(own, kind="stable")
    if np.isin(own, classes).sum() != len(classes):
        return None  # a class twice in one layer (reorg couples neighbours)
    positions = order[np.searchsorted(own, classes, sorter=order)]
    return [_activated(weights, layer, positions, _cosines_of(weights, layer, positions))]


def _depthwise(weights: TensorSource, layer: Layer, given: Sequence[Moments]) -> list[Moments]:
    """Every channel has filters of its own: the correlation of the inputs times that of the filters."""
    per_channel = layer.output.c // layer.inputs[0].c
    filters = np.array(weights.read(layer, "weights").reshape(layer.output.c, -1), np.float64)
    parts = []
    for part in given:
        spread = np.sqrt(np.maximum(np.diag(part.covariance), 1e-30))
        before = part.covariance / np.outer(spread, spread)
        for filter_number in range(per_channel):
            positions = part.positions * per_channel + filter_number
            parts.append(_activated(weights, layer, positions, before * _cosines(filters[positions])))
    return parts


def _cosines_of(weights: TensorSource, layer: Layer, positions: Indices) -> Floats:
    """Returns the cosines between some filters of a layer, of which only parts are in memory."""

    def parts() -> Iterator[tuple[Indices, Floats]]:
        for first, rows in weights.chunks(layer, "weights", PART):
            wanted = np.flatnonzero((positions >= first) & (positions < first + len(rows)))
            yield wanted, _unit(np.array(rows.reshape(len(rows), -1)[positions[wanted] - first], np.float64))

    cosines = np.zeros((len(positions), len(positions)))
    for number, (ours, unit) in enumerate(parts()):
        cosines[np.ix_(ours, ours)] = unit @ unit.T
        for theirs, other in islice(parts(), number):
            cosines[np.ix_(ours, theirs)] = block = unit @ other.T
            cosines[np.ix_(theirs, ours)] = block.T
    return cosines


def _cosines(filters: Floats) -> Floats:
    unit = _unit(filters)
    return np.asarray(unit @ unit.T)


def _unit(filters: Floats) -> Floats:
    """Returns filters of length 1."""
    return np.asarray(filters / np.sqrt(np.maximum(np.square(filters).sum(axis=1, keepdims=True), 1e-30)))


def _activated(weights: TensorSource, layer: Layer, positions: Indices, correlation: Floats) -> Moments:
    assert isinstance(layer.kind, Convolutional)
    name = layer.kind.activation
    gamma = np.array(weights.read(layer, "scales"), np.float64)[positions]
    beta = np.array(weights.read(layer, "biases"), np.float64)[positions]
    coefficients = _hermite(name, np.abs(gamma), beta)
    signed = np.clip(correlation, -1, 1) * np.outer(np.sign(gamma), np.sign(gamma))
    covariance, power = np.zeros_like(signed), np.ones_like(signed)
    for row in coefficients:
        power = power * signed
        covariance += np.outer(row, row) * power
    return Moments(positions, mean_under_normal(name, gamma, beta), covariance)


def _hermite(name: str, scale: Floats, shift: Floats) -> Floats:
    """Returns (TERMS, n): coefficients 1 to TERMS of act(scale·z + shift) in normalised Hermite polynomials."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(65)
    values = activate(name, shift[:, None] + scale[:, None] * nodes) * (weights / weights.sum())
    before, polynomial = np.zeros_like(nodes), np.ones_like(nodes)
    rows = []
    for degree in range(TERMS):
        before, polynomial = polynomial, (nodes * polynomial - np.sqrt(degree) * before) / np.sqrt(degree + 1)
        rows.append(values @ polynomial)
    return np.array(rows)


def _routed(layer: Layer, kind: Route, given: Sequence[Sequence[Moments]]) -> list[Moments]:
    parts, offset = [], 0
    for shape, moments in zip(layer.inputs, given, strict=True):
        width = shape.c // kind.groups
        first = kind.group_id * width
        for part in moments:
            inside = (part.positions >= first) & (part.positions < first + width)
            if inside.all():  # an atom lies in one slice, or in none
                parts.append(replace(part, positions=part.positions - first + offset))
        offset += width
    return parts


def _added(kind: Shortcut, given: Sequence[Sequence[Moments]]) -> list[Moments] | None:
    if kind.activation != "linear" or kind.weights_type != "none":
        return None
    ordered = [sorted(parts, key=lambda part: int(part.positions[0])) for parts in given]
    if len({len(parts) for parts in ordered}) > 1:
        return None
    added = []
    for parts in zip(*ordered, strict=True):
        if any(not np.array_equal(part.positions, parts[0].positions) for part in parts):
            return None
        mean, covariance = sum(part.mean for part in parts), sum(part.covariance for part in parts)
        added.append(Moments(parts[0].positions, np.asarray(mean), np.asarray(covariance)))
    return added
