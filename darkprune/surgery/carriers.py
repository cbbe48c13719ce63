"""Carrier channels: kept channels of a known constant that stand in for removed ones at padded borders.

Folding a removed channel's constant into a bias is wrong where a consumer pads, because the padding is 0 and not the
constant. A carrier is a channel that holds a constant c everywhere; with weights V[o, tap] = Σ w[o, k, tap]·const_k / κ
it gives at every tap what the removed channels gave, and the padding acts on it as it did on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkprune.graph.channels import BoolArray, ChannelMap, distinct
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers import INPUT
from darkprune.layers.base import Floats, Indices
from darkprune.layers.convolution import Convolutional
from darkprune.layers.dense import Connected
from darkprune.layers.resample import Reorg
from darkprune.surgery.constants import carrier_constants, carrier_value

SMALLEST = 1e-6  #: a carrier whose value at a tap is smaller than this is of no use there


@dataclass(frozen=True)
class Need:
    """A block of a padding convolution's input that lost channels with constants other than 0.

    Attributes:
        layer: the convolution.
        classes: classes of the block's channels.
    """

    layer: int
    classes: Indices


def input_blocks(layer: Layer, classes: Indices) -> Indices:
    """Returns the classes of a dense or grouped convolution's input as rows, one per block."""
    assert isinstance(layer.kind, Convolutional)
    return classes.reshape(layer.kind.geometry.groups, -1)


def find_needs(channels: ChannelMap, gone: BoolArray, constants: Sequence[Floats]) -> list[Need]:
    """Lists the blocks where folding would be wrong at the border.

    Args:
        gone: per class whether its content goes.
        constants: per layer and channel, from `removed_constants`.
    """
    needs = []
    for layer in channels.graph:
        kind = layer.kind
        if not isinstance(kind, Convolutional) or not layer.is_dense:
            continue
        if kind.geometry.padding == 0 or layer.sources[0] == INPUT:
            continue
        classes = channels.inputs(layer)
        lost = (classes >= 0) & gone[classes] & (np.nan_to_num(constants[layer.sources[0]]) != 0)
        for row, missing in zip(input_blocks(layer, classes), input_blocks(layer, lost), strict=True):
            if missing.any():
                needs.append(Need(layer.index, row))
    return needs


def choose_carriers(
    weights: TensorSource,
    channels: ChannelMap,
    keep: BoolArray,
    rounded: BoolArray,
    constants: Sequence[Floats],
) -> BoolArray:
    """Chooses a small set of classes as carriers so that every need has one.

    A class that only rounding kept is taken before one that was removed, and before others the one that serves most.

    Args:
        keep: per class.
        rounded: per class whether only rounding kept it.
        constants: of the removed channels.

    Returns:
        Per class whether it becomes a carrier.
    """
    available = (~keep | rounded) & _able(channels)
    kappa = carrier_constants(weights, channels, available)
    available &= ~_mixed(channels, kappa)
    needs = find_needs(channels, ~keep, constants)
    served: list[Indices] = []
    for need in needs:
        source = channels.graph[need.layer].sources[0]
        strong = np.abs(np.nan_to_num(kappa[source])) > SMALLEST
        fit = distinct(channels.of_layer[source][strong])
        candidates = need.classes[need.classes >= 0]
        served.append(np.intersect1d(candidates[available[candidates]], fit))
    carriers = np.zeros(channels.count, bool)
    open_needs = [candidates for candidates in served if len(candidates)]
    while open_needs:
        coverage = np.bincount(np.concatenate(open_needs), minlength=channels.count)
        best = int(np.lexsort((np.arange(channels.count), ~rounded, -coverage))[0])
        carriers[best] = True
        open_needs = [candidates for candidates in open_needs if best not in candidates]
    return carriers


def _mixed(channels: ChannelMap, kappa: Sequence[Floats]) -> BoolArray:
    """Returns per class whether a [reorg] would mix carriers of different values: the result is not constant."""
    mixed = np.zeros(channels.count, bool)
    for layer in channels.graph:
        if isinstance(layer.kind, Reorg) and layer.sources[0] != INPUT and layer.kind.fits(layer.inputs[0].c):
            blocks = layer.kind.blocks(layer.inputs[0].c)
            values = np.nan_to_num(kappa[layer.sources[0]])[blocks]
            uneven = channels.inputs(layer)[blocks][np.ptp(values, axis=1) > SMALLEST]
            mixed[uneven[uneven >= 0]] = True
    return mixed


def _able(channels: ChannelMap) -> BoolArray:
    """Returns per class whether every convolution in which it occurs as an output can hold a constant other than 0."""
    able: BoolArray = channels.free.copy()
    for layer in channels.graph:
        classes = channels.of_layer[layer.index]
        made_here = isinstance(layer.kind, Convolutional | Connected)
        unable = made_here and (carrier_value(layer) is None or not layer.stored)
        if unable or layer.name in ("implicit", "batchnorm"):
            able[classes[classes >= 0]] = False
    return able
