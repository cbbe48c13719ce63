"""[connected]: darknet's `connected_layer.c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from darkprune.errors import CfgError
from darkprune.layers.base import (
    MAX_ELEMENTS,
    Axis,
    Blob,
    ChannelRules,
    Feature,
    Kind,
    Labels,
    Role,
    key,
    one,
    register,
)
from darkprune.layers.convolution import activation_of, norm_blobs


def connected_blobs(
    outputs: int,
    inputs: int,
    batch_normalize: bool,
    part: str = "",
    roles: tuple[Role, Role] = (Role.FIXED, Role.FIXED),
) -> tuple[Blob, ...]:
    """Lists biases, weights (out, in) and, unlike a convolution *after* them, scales, mean and variance."""
    out = Axis(roles[0], outputs)
    return (
        Blob(f"{part}biases", (out,)),
        Blob(f"{part}weights", (out, Axis(roles[1], inputs)), transposable=True),
        *(norm_blobs(out, part) if batch_normalize else ()),
    )


@register
@dataclass(frozen=True)
class Connected(Kind):
    """A fully connected layer over channels, rows and columns in memory order; output x 1 x 1."""

    names = ("connected", "conn")

    outputs: int = key(lambda options: options.positive("output", 1))
    activation: str = key(lambda options: activation_of(options, "logistic"))
    batch_normalize: bool = key(lambda options: options.flag("batch_normalize"))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns output x 1 x 1."""
        if one(inputs).outputs * self.outputs > MAX_ELEMENTS:
            raise CfgError("[connected] would have more than 2^31 - 1 weights")
        return Feature.map(self.outputs, 1, 1)

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """biases, weights (output, inputs), scales, rolling_mean, rolling_variance."""
        return connected_blobs(self.outputs, inputs[0].outputs, self.batch_normalize, roles=(Role.OUT, Role.IN_FLAT))

    def macs(self, inputs: Sequence[Feature], output: Feature) -> int:
        """Counts the weights."""
        return inputs[0].outputs * self.outputs

    def is_dense(self, inputs: Sequence[Feature]) -> bool:
        """Is always dense."""
        return True

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """New channels; the input's channels each own h·w columns of the weights."""
        return rules.new(self.outputs)

    def widths(self, kept_in: int, kept_out: int) -> dict[str, int]:
        """`output`."""
        return {"output": kept_out}
