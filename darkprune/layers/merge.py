"""[route], [shortcut], [scale_channels], [sam]: kinds that join maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkprune.darknet.options import Options
from darkprune.errors import CfgError
from darkprune.layers import activations
from darkprune.layers.base import (
    Axis,
    Blob,
    BlobReader,
    ChannelRules,
    Feature,
    Floats,
    Kind,
    Labels,
    Role,
    absolute,
    bounded,
    key,
    register,
    require_map,
)
from darkprune.layers.convolution import activation_of

#: values of `weights_type` and `weights_normalization`; darknet takes any other for `none`
_WEIGHTS_TYPES = {"per_feature": "per_feature", "per_layer": "per_feature", "per_channel": "per_channel"}
_NORMALIZATIONS = {"relu": "relu", "avg_relu": "relu", "softmax": "softmax"}


def _named(options: Options, name: str, what: str) -> tuple[int, ...]:
    """Reads a list of layers that has to be there; `what` they are, for the error."""
    layers = options.ints(name)
    if not layers:
        raise options.error(f"has no {name}=; name the {what}")
    return layers


def _group_id(options: Options) -> int:
    groups, group_id = options.positive("groups", 1), options.int("group_id")
    if not 0 <= group_id < groups:
        raise options.error(f"group_id={group_id} is not among {groups} groups", "group_id")
    return group_id


def _sizes(inputs: Sequence[Feature]) -> str:
    return ", ".join(map(str, inputs))


@register
@dataclass(frozen=True)
class Route(Kind):
    """Concatenation; with `groups` the group_id-th slice of every input, each sliced by itself (`route_layer.c`)."""

    names = ("route",)
    zero_if = slice(None)
    index_key = ("layers", True)
    follows = False
    other_keys = frozenset(["stream", "wait_stream"])

    layers: tuple[int, ...] = key(lambda options: _named(options, "layers", "layers that it joins"))
    groups: int = key(lambda options: options.positive("groups", 1))
    group_id: int = key(_group_id)

    def sources(self, index: int) -> tuple[int, ...]:
        """Returns the named layers; the layer before is not read unless named."""
        return tuple(absolute(layer, index) for layer in self.layers)

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output: channels add up, rows and columns must agree."""
        if len({(f.h, f.w) for f in inputs}) > 1:
            raise CfgError(f"joins maps of different sizes ({_sizes(inputs)})")
        outputs = sum(f.outputs for f in inputs) // self.groups
        if not inputs[0].is_map:
            return Feature.flat(outputs)
        channels = sum(f.c for f in inputs) // self.groups
        out = bounded(channels, inputs[0].h, inputs[0].w, "[route]")
        return out._replace(outputs=outputs)

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Concatenates; slices stay where they are because every slice keeps as many channels."""
        if self.groups == 1:
            return np.concatenate(list(inputs))
        parts = []
        for labels in inputs:
            if len(labels) % self.groups:
                for all_labels in inputs:
                    rules.pin(all_labels, f"cut into {self.groups} slices that do not divide its channels")
                cut = rules.new(output.c)
                rules.pin(cut, "made by slices that do not divide their channels")
                return cut
            rules.equal_split(labels, self.groups)
            parts.append(labels.reshape(self.groups, -1)[self.group_id])
        return np.concatenate(parts)

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Concatenates the constants (of the slices)."""
        return np.concatenate([values.reshape(self.groups, -1)[self.group_id] for values in inputs])


@register
@dataclass(frozen=True)
class Shortcut(Kind):
    """Sum of the layer before and others, weighted or not, then an activation (`shortcut_layer.c`).

    Output: the shape of the layer before. Where channel counts differ only the common first ones are added.
    """

    names = ("shortcut",)
    zero_if = slice(None)
    index_key = ("from", True)

    layers: tuple[int, ...] = key(lambda options: _named(options, "from", "layer that it adds"))
    activation: str = key(lambda options: activation_of(options, "linear"))
    weights_type: str = key(lambda options: _WEIGHTS_TYPES.get(options.text("weights_type"), "none"))
    weights_normalization: str = key(lambda options: _NORMALIZATIONS.get(options.text("weights_normalization"), "none"))

    def sources(self, index: int) -> tuple[int, ...]:
        """Returns the layer before, then the named ones."""
        return (index - 1, *(absolute(layer, index) for layer in self.layers))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Takes the shape of the layer before."""
        return require_map(inputs[0], "[shortcut]")

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """darknet asserts equal sizes, and demands a normalisation where there are weights."""
        if any((f.h, f.w) != (output.h, output.w) for f in inputs):
            return f"darknet aborts: it adds maps of different sizes ({_sizes(inputs)})"
        if self.weights_type != "none" and self.weights_normalization == "none":
            return "darknet aborts: weights_type needs weights_normalization=relu or softmax"
        return None

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """weights: one per input, or one per input and channel."""
        inputs_axis = Axis(Role.FIXED, len(inputs))
        if self.weights_type == "per_feature":
            return (Blob("weights", (inputs_axis,)),)
        if self.weights_type == "per_channel":
            return (Blob("weights", (inputs_axis, Axis(Role.OUT, output.c))),)
        return ()

    def bflops(self, inputs: Sequence[Feature], output: Feature) -> float:
        """Computes one operation per value and added layer, two with weights."""
        per_value = (len(inputs) - 1) * (2 if self.weights_type != "none" else 1)
        return output.outputs * per_value / 1e9

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Couples the inputs channel by channel."""
        if any(len(labels) != len(inputs[0]) for labels in inputs):
            for labels in inputs:
                rules.pin(labels, "added by a [shortcut] to a map of another width")
            return inputs[0]
        for labels in inputs[1:]:
            rules.unite(inputs[0], labels)
        if self.activation in activations.ACROSS_CHANNELS:
            rules.pin(inputs[0], f"activation {self.activation} mixes the channels of a pixel")
        return inputs[0]

    def normalised(self, weights: Floats) -> Floats:
        """Returns the factors that darknet multiplies the inputs by: (inputs,) or (inputs, c)."""
        if self.weights_normalization == "relu":
            positive = np.maximum(weights, 0.001)
            return np.asarray(positive / (1e-4 + positive.sum(axis=0)))
        if self.weights_normalization == "softmax":
            exponents = np.exp(weights - weights.max(axis=0))
            return np.asarray(exponents / (1e-4 + exponents.sum(axis=0)))
        return weights

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Adds the constants with their weights and activates."""
        if self.weights_type == "none":
            total = np.sum(inputs, axis=0)
        else:
            factors = self.normalised(np.array(blob("weights"), np.float64).reshape(len(inputs), -1))
            total = (factors * np.stack(list(inputs))).sum(axis=0)
        return activations.activate(self.activation, total)


def _multiplied(options: Options) -> int:
    if not options.has("from"):
        raise options.error("has no from=; name the layer that it multiplies")
    return options.int("from")


@dataclass(frozen=True)
class _Product(Kind):
    """Base of the products of the map that `from` names and the layer before, which gives the factors."""

    zero_if = slice(1, 2)  # a product is 0 where the map that is scaled is
    index_key = ("from", False)

    layer: int = key(_multiplied)
    activation: str = key(lambda options: activation_of(options, "linear"))

    def sources(self, index: int) -> tuple[int, ...]:
        """Returns the factors, then the map that they scale."""
        return (index - 1, absolute(self.layer, index))

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Couples factors and map; the factors' producer follows without a vote."""
        factors, source = inputs
        rules.unite(factors, source)
        rules.follow(factors)
        return source

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Constant x factor, where the factor is the constant (or mean) that its own branch gives.

        The true factor depends on the image: exact only where the constant is 0.
        """
        factors, values = inputs  # with scale_wh one factor for all
        return activations.activate(self.activation, values * factors)


@register
@dataclass(frozen=True)
class ScaleChannels(_Product):
    """Squeeze-and-excitation: `from` times the layer before, one factor per channel (`scale_channels_layer.c`).

    With `scale_wh` the layer before has one channel and scales every position instead.
    """

    names = ("scale_channels",)

    scale_wh: bool = key(lambda options: options.flag("scale_wh"))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Takes the shape of `from`."""
        factors, source = require_map(inputs[0], "[scale_channels]"), require_map(inputs[1], "[scale_channels]")
        fits = (factors.c, factors.h, factors.w) == (
            (1, source.h, source.w) if self.scale_wh else (source.c, factors.h, factors.w)
        )
        if not fits:
            raise CfgError(f"[scale_channels] cannot scale {source} by {factors}")
        return source

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """darknet asserts that the factors are one per channel."""
        if not self.scale_wh and (inputs[0].h, inputs[0].w) != (1, 1):
            return f"darknet aborts: it scales by a map of {inputs[0]} instead of one value per channel"
        return None

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Couples factors and map, except that one factor for all channels stays."""
        if not self.scale_wh:
            return super().label(inputs, output, rules)
        rules.pin(inputs[0], "the one channel of a spatial scale")
        return inputs[1]


@register
@dataclass(frozen=True)
class Sam(_Product):
    """Elementwise product of two maps of one shape (`sam_layer.c`)."""

    names = ("sam",)

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Takes the common shape."""
        if inputs[0] != inputs[1]:
            raise CfgError(f"[sam] multiplies maps of different shapes ({_sizes(inputs)})")
        return require_map(inputs[0], "[sam]")
