"""The cut: original tensors in, slim cfg and tensors out, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.cfg import Cfg
from darkprune.graph.channels import BoolArray, ChannelMap, distinct
from darkprune.graph.graph import Graph, Layer, build_graph
from darkprune.graph.weights import NetworkWriter, TensorSource
from darkprune.layers import INPUT, Role
from darkprune.layers.activations import CARRIER_SHIFT
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.layers.dense import Connected
from darkprune.progress import track
from darkprune.surgery.carriers import SMALLEST
from darkprune.surgery.constants import carrier_constants, removed_constants

CHUNK_BYTES = 2 << 20  #: rows of a tensor that are in memory at once; more only costs fresh memory

Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """A decision that is ready to be carried out.

    Attributes:
        channels: labels of the original network.
        keep: per class.
        carriers: per class; a carrier is kept, but its content is replaced by a constant.
        compensate: `fold`, `carrier` or `none`.
        constant: `mean` or `beta`.
        measured: layer -> measured means of its channels, used instead.
    """

    channels: ChannelMap
    keep: BoolArray
    carriers: BoolArray
    compensate: str
    constant: str
    measured: Mapping[int, Floats] = field(default_factory=dict)

    @property
    def gone(self) -> BoolArray:
        """Per class whether its original content goes."""
        return ~self.keep | self.carriers

    def kept(self, classes: Indices) -> Indices:
        """Returns the positions that stay."""
        return self.channels.kept_channels(self.keep, classes)

    @cached_property
    def slim(self) -> Graph:
        """The network after the cut."""
        return build_graph(slim_cfg(self))


class _Input(NamedTuple):
    """What a consumer needs to know about the channels that it reads.

    Attributes:
        keep: per channel, whether its slot stays.
        constant: per channel: constant of a channel whose content goes, else 0.
        gone: per channel, whether its content goes.
        kappa: per channel: value of a carrier, else 0.
    """

    keep: BoolArray
    constant: Floats
    gone: BoolArray
    kappa: Floats

    def block(self, number: int, blocks: int) -> _Input:
        """Returns one of equal consecutive blocks."""
        size = len(self.keep) // blocks
        part = slice(number * size, (number + 1) * size)
        return _Input._make(values[part] for values in self)

    def repeated(self, times: int) -> _Input:
        """Returns the columns of a connected layer: every channel h·w times."""
        return _Input._make(values.repeat(times) for values in self)


@dataclass(frozen=True)
class Constants:
    """What stands in for the content that goes, at every layer's output.

    Attributes:
        removed: per layer and channel the constant of content that goes; NaN elsewhere.
        kappa: per layer and channel the value of a carrier; NaN elsewhere.
    """

    removed: Sequence[Floats]
    kappa: Sequence[Floats]


def constants_of(weights: TensorSource, cut: Cut) -> Constants:
    """Computes the constants of a cut."""
    none = [np.full(len(classes), np.nan) for classes in cut.channels.of_layer]
    removed = none
    if cut.compensate != "none":
        removed = removed_constants(weights, cut.channels, cut.gone, cut.constant, cut.measured)
    with_carriers = cut.compensate == "carrier" and cut.carriers.any()
    kappa = carrier_constants(weights, cut.channels, cut.carriers) if with_carriers else none
    return Constants(removed, kappa)


def slim_cfg(cut: Cut) -> Cfg:
    """Rewrites the widths in the cfg's text; everything else stays as it is."""
    changes: dict[tuple[int, str], str] = {}
    graph = cut.channels.graph
    for layer in graph:
        classes = cut.channels.of_layer[layer.index]
        kept_out = len(cut.kept(classes))
        if kept_out == len(classes):
            continue
        kept_in = len(cut.kept(cut.channels.inputs(layer))) if layer.sources else 0
        for key, value in layer.kind.widths(kept_in, kept_out).items():
            changes[layer.section, key] = str(value)
    return graph.cfg.with_values(changes)


def write_slim(
    weights: TensorSource,
    cut: Cut,
    constants: Constants,
    file: BinaryIO,
) -> None:
    """Writes the slim network's tensors.

    Args:
        constants: what stands in for it, from `constants_of`.
        file: empty, open for writing in binary.
    """
    writer = NetworkWriter(cut.slim, file, weights.header)
    step = track("pruning", len(weights.graph), "layer")
    for layer in weights.graph:
        if layer.stored:
            _cut_layer(weights, cut, layer, writer, _input_of(cut, layer, constants))
        step()
    writer.finish()


def _input_of(cut: Cut, layer: Layer, constants: Constants) -> _Input | None:
    if not layer.sources or layer.sources[0] == INPUT:
        return None
    source = layer.sources[0]
    classes = cut.channels.of_layer[source]
    if not len(classes):  # after a layer without a map, such as [softmax]
        return None
    return _Input(
        np.where(classes < 0, True, cut.keep[classes]),
        np.nan_to_num(constants.removed[source]),
        np.where(classes < 0, False, cut.gone[classes]),
        np.nan_to_num(constants.kappa[source]),
    )


def _cut_layer(weights: TensorSource, cut: Cut, layer: Layer, writer: NetworkWriter, given: _Input | None) -> None:
    if isinstance(layer.kind, Convolutional | Connected):
        _cut_filters(weights, cut, layer, writer, given)
        return
    out = cut.kept(cut.channels.of_layer[layer.index])
    for blob in layer.stored:
        values = weights.read(layer, blob.name)
        for axis, (role, _) in enumerate(blob.axes):
            if role is Role.OUT:
                values = values.take(out, axis=axis)
        writer.write(layer, blob.name, values)


def _cut_filters(weights: TensorSource, cut: Cut, layer: Layer, writer: NetworkWriter, given: _Input | None) -> None:
    """Cuts a convolution or connected layer, and lets its filters take up the constants of the inputs that go."""
    assert isinstance(layer.kind, Convolutional | Connected)
    own = cut.channels.of_layer[layer.index]
    out = cut.kept(own)
    carrier = np.where(own < 0, False, cut.carriers[own])[out]
    out_last = layer.blob("weights").axes[0].role is not Role.OUT
    offset = np.zeros(len(out))
    if layer.is_depthwise or out_last:
        axis = -1 if out_last else 0
        rows = np.moveaxis(weights.read(layer, "weights"), axis, 0)
        filters, offset = (rows[out], offset) if layer.is_depthwise else _cut_rows(layer, rows, out, given)
        filters[carrier] = 0
        writer.write(layer, "weights", np.moveaxis(filters, 0, axis))
    else:
        done = 0
        for first, rows in weights.chunks(layer, "weights", CHUNK_BYTES):
            chosen = out[(out >= first) & (out < first + len(rows))]
            if not len(chosen):
                continue
            filters, taken = _cut_rows(layer, rows, chosen, given, first)
            here = slice(done, done + len(chosen))
            offset[here] = taken
            filters[carrier[here]] = 0  # what a carrier computes is multiplied by γ = 0, or is its bias alone
            writer.write(layer, "weights", filters, done)
            done += len(chosen)
    shift = CARRIER_SHIFT.get(layer.kind.activation, 0.0)
    norm = any(blob.name == "rolling_mean" for blob in layer.stored)
    for blob in layer.stored:
        if blob.name == "weights":
            continue
        values = np.array(weights.read(layer, blob.name)[out], np.float64)
        if blob.name == "rolling_mean":
            values -= offset
        elif blob.name == "biases":
            values = np.where(carrier, shift, values if norm else values + offset)
        elif blob.name == "scales":
            values = np.where(carrier, 0.0, values)
        writer.write(layer, blob.name, values.astype(np.float32))


def _cut_rows(
    layer: Layer, rows: Array32, chosen: Indices, given: _Input | None, first: int = 0
) -> tuple[Array32, Floats]:
    """Cuts the inputs of some filters.

    Args:
        layer: a dense or grouped convolution, or a connected layer.
        rows: its filters from number `first` on: (rows, inputs of the block, taps…).
        chosen: numbers of the filters that stay.
        given: the inputs; None where the layer reads the network's input.
        first: number of the first row.

    Returns:
        The slim filters, and what each has to add to its sum for the constants that were not given to a carrier.
    """
    filters = rows.take(chosen - first, axis=0)
    if given is None:
        return filters, np.zeros(len(chosen))
    if isinstance(layer.kind, Connected):
        return _absorb(filters, given.repeated(rows.shape[1] // len(given.keep)), use_carrier=False)
    assert isinstance(layer.kind, Convolutional)
    geometry = layer.kind.geometry
    if geometry.groups == 1:
        return _absorb(filters, given, use_carrier=geometry.padding > 0)  # without padding, folding is exact
    block_of = chosen // (geometry.filters // geometry.groups)
    parts = [
        _absorb(filters[block_of == number], given.block(number, geometry.groups), use_carrier=geometry.padding > 0)
        for number in distinct(block_of).tolist()
    ]
    return np.concatenate([part for part, _ in parts]), np.concatenate([taken for _, taken in parts])


def _absorb(filters: Array32, given: _Input, *, use_carrier: bool) -> tuple[Array32, Floats]:
    """Slices the inputs of one block of filters and moves the constants of what goes to a carrier or to the sum."""
    offset = np.zeros(len(filters))
    if given.keep.all() and not given.gone.any():
        return filters, offset
    slim = filters.compress(given.keep, axis=1) if not given.keep.all() else filters
    lost = np.flatnonzero(given.gone & (given.constant != 0))
    effect = np.einsum("c,rc...->r...", given.constant[lost], filters.take(lost, axis=1))  # (rows, taps…)
    carriers = np.flatnonzero(given.kappa[given.keep] * given.gone[given.keep])
    slim[:, np.flatnonzero(given.gone[given.keep])] = 0
    strength = np.abs(given.kappa[given.keep][carriers])
    if use_carrier and len(lost) and len(carriers) and strength.max() > SMALLEST:
        best = carriers[strength.argmax()]
        slim[:, best] = effect / given.kappa[given.keep][best]
    else:
        offset = effect.reshape(len(filters), -1).sum(axis=1)
    return slim, offset
