"""Stand-ins of full width: the original network changed so that it computes what the slim one should.

*Masked*: everything that the cut does except taking channels out. The slim network must equal it.
*Held*: the original, with every channel whose content goes held at its constant by γ = 0 and act(β) = constant; nothing
is compensated. The slim network's difference from it is the error of the compensation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

import numpy as np

from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWriter
from darkprune.layers import Role
from darkprune.layers.activations import preimage
from darkprune.layers.base import Floats
from darkprune.layers.convolution import Convolutional
from darkprune.layers.dense import Connected
from darkprune.surgery.apply import write_slim
from darkprune.surgery.constants import makes_constants, removed_constants
from darkprune.surgery.replaced_channels import without_replacements
from darkprune.surgery.surgery import Surgery


def write_masked(surgery: Surgery, file: BinaryIO) -> None:
    """Writes the masked network's tensors; its cfg is that of `surgery.base`."""
    cut = surgery.cut
    masked = replace(cut, keep=np.ones_like(cut.keep), carriers=cut.gone)
    write_slim(surgery.base, masked, surgery.constants, file)  # only the cut's own carriers carry


def write_held(surgery: Surgery, file: BinaryIO) -> None:
    """Writes the held network's tensors; its cfg is that of `surgery.base`.

    Channels that others replace stay as they are.
    """
    weights, cut = surgery.factorised, without_replacements(surgery.cut, surgery.plan.similar)
    constants = removed_constants(weights, cut.channels, cut.gone, cut.constant, cut.measured)
    writer = NetworkWriter(weights.graph, file, weights.header)
    for layer in weights.graph:
        held = _held_at(layer, constants[layer.index]) if makes_constants(layer, cut.constant, cut.measured) else None
        for blob in layer.stored:
            values = weights.read(layer, blob.name)
            if held is not None:
                where, shift = np.isfinite(held), np.nan_to_num(held)
                if blob.name == "biases":
                    values = np.where(where, shift, values)
                elif blob.name == "scales":
                    values = np.where(where, 0, values)
                elif blob.name == "weights":
                    axis = 0 if blob.axes[0].role is Role.OUT else -1
                    np.moveaxis(values, axis, 0)[where] = 0
            writer.write(layer, blob.name, values.astype(np.float32))
    writer.finish()


def _held_at(layer: Layer, constants: Floats) -> Floats | None:
    """Returns β per channel to be held, NaN for the others; None for layers that cannot hold any."""
    kind = layer.kind
    if not isinstance(kind, Convolutional | Connected) or not np.isfinite(constants).any():
        return None
    return np.where(np.isfinite(constants), preimage(kind.activation, np.nan_to_num(constants)), np.nan)
