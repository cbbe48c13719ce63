"""The constant values that removed channels leave, at every map of the network.

With γ near 0 a batch-normalised channel is act(β), not 0; where γ is not small the better constant is
E[act(γz + β)], z ~ N(0, 1). A depthwise convolution with batch normalisation has statistics of its own, of what it
makes of each channel: they tell more than the constant that comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np

from darkprune.graph.channels import BoolArray, ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers import INPUT
from darkprune.layers.activations import ACROSS_CHANNELS, CARRIER_SHIFT, activate, mean_under_normal
from darkprune.layers.base import Floats
from darkprune.layers.convolution import BN_EPSILON, Convolutional
from darkprune.layers.dense import Connected
from darkprune.layers.merge import ScaleChannels

Constant = Literal["mean", "beta"]
NOT_MEASURED: Mapping[int, Floats] = MappingProxyType({})

#: layer -> value per output channel, for layers whose constants do not follow from their inputs'
Own = Callable[[Layer], Floats | None]


def removed_constants(
    weights: TensorSource,
    channels: ChannelMap,
    gone: BoolArray,
    how: str,
    measured: Mapping[int, Floats] = NOT_MEASURED,
) -> list[Floats]:
    """Computes the constant of every removed channel of every layer.

    Args:
        gone: per class whether its original content goes.
        how: `mean`: E[act(γz + β)], z ~ N(0, 1); `beta`: act(β).
        measured: layer -> means on images, one per channel, instead.

    Returns:
        Per layer one value per output channel, NaN where the channel stays.
    """

    def own(layer: Layer) -> Floats | None:
        if layer.index in measured:
            return measured[layer.index]
        return _own_constant(weights, layer, how)

    factors = _spatial_factors(channels)
    values = propagate(weights, channels, gone | factors, own)
    if not (factors & ~gone).any():
        return values
    gone_in = [np.where(classes < 0, False, gone[classes]) for classes in channels.of_layer]
    return [np.where(here, known, np.nan) for here, known in zip(gone_in, values, strict=True)]


def _spatial_factors(channels: ChannelMap) -> BoolArray:
    """Returns per class whether it scales other channels place by place: they are left with its mean."""
    factors = np.zeros(channels.count, bool)
    for layer in channels.graph:
        if isinstance(layer.kind, ScaleChannels) and layer.kind.scale_wh:
            classes = channels.inputs(layer)
            factors[classes[classes >= 0]] = True
    return factors


def carrier_constants(weights: TensorSource, channels: ChannelMap, carriers: BoolArray) -> list[Floats]:
    """Computes κ, the value of every carrier channel, at every layer's output; NaN elsewhere."""

    def own(layer: Layer) -> Floats | None:
        value = carrier_value(layer)
        if value is not None:
            return np.full(layer.output.c, value)
        return _own_constant(weights, layer, "beta")

    return propagate(weights, channels, carriers, own)


def carrier_value(layer: Layer) -> float | None:
    """Returns the constant c = act(β) ≠ 0 that a carrier of this layer holds; None if it can hold none."""
    if not isinstance(layer.kind, Convolutional | Connected):
        return None
    shift = CARRIER_SHIFT.get(layer.kind.activation)
    return None if shift is None else float(activate(layer.kind.activation, np.array([shift]))[0])


def propagate(weights: TensorSource, channels: ChannelMap, wanted: BoolArray, own: Own) -> list[Floats]:
    """Carries constants from the layers that make channels to every layer that passes them on.

    Args:
        weights: the tensors that passing layers need (depthwise filters, weighted shortcuts, batch normalisation).
        wanted: per class whether it has a constant.
        own: the values of a producing layer; asked for depthwise convolutions too, which pass on when it says None.
    """
    graph = channels.graph
    values: list[Floats] = []
    with np.errstate(invalid="ignore"):
        for layer in graph:
            classes = channels.of_layer[layer.index]
            here = np.where(classes < 0, False, wanted[classes]) if len(classes) else np.zeros(0, bool)
            if not here.any() or getattr(layer.kind, "activation", "") in ACROSS_CHANNELS:  # which leave no constant
                values.append(np.full(len(classes), np.nan))
                continue
            made = own(layer)
            if made is None:
                inputs = [np.full(graph.net.input.c, np.nan) if s == INPUT else values[s] for s in layer.sources]
                made = layer.kind.constant(inputs, weights.reader(layer))
            values.append(np.where(here, made, np.nan))
    return values


def makes_constants(layer: Layer, how: str, measured: Mapping[int, Floats]) -> bool:
    """Returns whether the constants at a layer's output are its own, not what it makes of those at its input.

    Args:
        how, measured: see `removed_constants`.
    """
    if layer.index in measured:
        return True
    if not isinstance(layer.kind, Convolutional | Connected):
        return False
    return layer.is_dense or (how == "mean" and layer.is_normalised and bool(layer.stored))


def _own_constant(weights: TensorSource, layer: Layer, how: str) -> Floats | None:
    """Returns act(β), or its mean where there is batch normalisation; None for layers that pass channels on."""
    if not makes_constants(layer, how, NOT_MEASURED):
        return None
    kind = layer.kind
    assert isinstance(kind, Convolutional | Connected)
    read = weights.reader(layer)
    shift = np.array(read("biases"), np.float64)
    owner = layer
    while not owner.stored and owner.references:  # a convolution that shares weights is normalised as their owner is
        owner = weights.graph[owner.references[0]]
    if how == "beta" or not owner.is_normalised:
        return activate(kind.activation, shift)
    scale = np.array(read("scales"), np.float64)
    if not layer.is_dense:  # ε matters where what comes in hardly varies
        variance = np.maximum(np.array(read("rolling_variance"), np.float64), 0)
        scale = scale * np.sqrt(variance / (variance + BN_EPSILON))
    return mean_under_normal(kind.activation, scale, shift)


def consumers_with_border(
    channels: ChannelMap, constants: Sequence[Floats], makes: Callable[[Layer], bool]
) -> list[int]:
    """Lists the padding convolutions that read a constant other than 0: folding is not exact at their borders.

    Depthwise ones that pass constants on are listed too: what they make of them holds inside the map only.

    Args:
        constants: per layer and channel, from `removed_constants`.
        makes: tells whether a layer's constants are its own, see `makes_constants`.
    """
    return [
        layer.index
        for layer in channels.graph
        if isinstance(layer.kind, Convolutional)
        and layer.kind.geometry.padding > 0
        and layer.sources[0] != INPUT
        and (layer.is_dense or not makes(layer))
        and np.nan_to_num(constants[layer.sources[0]]).any()
    ]
