"""Kinds without channels of their own to speak of: identities, losses, constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    one,
    register,
)
from darkprune.layers.convolution import activation_of
from darkprune.layers.pooling import Passing


@register
@dataclass(frozen=True)
class Dropout(Passing):
    """The identity at inference; its output is the input's memory."""

    names = ("dropout",)
    zero_if = slice(None)
    keeps_mean = True
    other_keys = frozenset(["dropblock", "dropblock_size_rel", "dropblock_size_abs"])

    probability: float = key(lambda options: options.float("probability", 0.2))


@register
@dataclass(frozen=True)
class Empty(Passing):
    """The layer before under another index."""

    names = ("empty", "silence")
    zero_if = slice(None)
    keeps_mean = True


@register
@dataclass(frozen=True)
class Activation(Passing):
    """An activation by itself (`activation_layer.c`)."""

    names = ("activation",)
    zero_if = slice(None)

    activation: str = key(lambda options: activation_of(options, "linear"))

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Passes the channels on unless they are mixed."""
        source = one(inputs)
        if self.activation in activations.ACROSS_CHANNELS:
            rules.pin(source, f"activation {self.activation} mixes the channels of a pixel")
        return source

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Activates the constant."""
        return activations.activate(self.activation, one(inputs))


@register
@dataclass(frozen=True)
class Implicit(Kind):
    """A learned constant of filters x atoms x 1; ignores its input (`representation_layer.c`)."""

    names = ("implicit",)

    filters: int = key(lambda options: options.positive("filters", 128))
    atoms: int = key(lambda options: options.positive("atoms", 1))
    mean: float = key(lambda options: options.float("mean", 0.0))  # of its fresh values, as `std`
    std: float = key(lambda options: options.float("std", 0.2))

    def sources(self, index: int) -> tuple[int, ...]:
        """Reads nothing."""
        return ()

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns filters x atoms x 1."""
        return bounded(self.filters, self.atoms, 1, "[implicit]")

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """weights (filters, atoms)."""
        return (Blob("weights", (Axis(Role.OUT, self.filters), Axis(Role.FIXED, self.atoms))),)

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """New channels, which follow those that they are joined with."""
        labels = rules.new(self.filters)
        rules.follow(labels)
        return labels

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """The stored values (their mean over the atoms)."""
        return np.asarray(np.array(blob("weights"), np.float64).mean(axis=1))

    def widths(self, kept_in: int, kept_out: int) -> dict[str, int]:
        """`filters`."""
        return {"filters": kept_out}


class Final(Kind):
    """Base of kinds that end a network: what they read is pinned, and nothing may be read from them by channel."""

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns a flat output of as many values."""
        return Feature.flat(one(inputs).outputs)

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Pins the input; a layer after it sees the same channels."""
        source = one(inputs)
        rules.pin(source, f"read by [{self.names[0]}]")
        return source[: output.c]


@register
@dataclass(frozen=True)
class Softmax(Final):
    """Softmax over `groups` equal parts of the input (`softmax_layer.c`)."""

    names = ("softmax", "soft")
    other_keys = frozenset(["noloss"])

    groups: int = key(lambda options: options.positive("groups", 1))
    temperature: float = key(lambda options: options.float("temperature", 1.0))
    spatial: bool = key(lambda options: options.float("spatial") != 0)
    has_tree: bool = key(lambda options: options.has("tree"))  # the file is not opened

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Keeps the number of values, which the groups must divide."""
        source = one(inputs)
        if source.outputs % self.groups:
            raise CfgError(f"[softmax] groups={self.groups} does not divide {source.outputs} values")
        return Feature.flat(source.outputs)


@register
@dataclass(frozen=True)
class Cost(Final):
    """A training loss; not part of the network's output at inference (`cost_layer.c`)."""

    names = ("cost",)
    other_keys = frozenset(["type", "scale", "ratio"])


@register
@dataclass(frozen=True)
class Contrastive(Final):
    """A training loss on embeddings (`contrastive` layers of `softmax_layer.c`)."""

    names = ("contrastive",)
    index_key = ("yolo_layer", False)
    other_keys = frozenset(["temperature", "cls_normalizer", "max_delta", "contrastive_neg_max"])

    classes: int = key(lambda options: options.int("classes", 1000))
    yolo_layer: int = key(lambda options: options.int("yolo_layer"))  # 0: none

    def references(self, index: int) -> tuple[int, ...]:
        """Returns the yolo layer that it belongs to."""
        return () if self.yolo_layer == 0 else (absolute(self.yolo_layer, index),)
