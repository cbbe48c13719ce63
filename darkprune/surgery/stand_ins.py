"""Stand-ins of full width: the original network changed so that it says what the slim one should compute.

*Masked*: everything that the cut does except taking channels out. The slim network must equal it.
*Held*: the original, with every channel whose content goes held at its constant by γ = 0 and act(β) = constant; nothing
is compensated. What the slim network differs from it by is the error of the compensation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

import numpy as np

from darkprune.darknet.weights import WeightsWriter
from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWeights, stored_tensors
from darkprune.layers import Role
from darkprune.layers.activations import preimage
from darkprune.layers.base import Floats
from darkprune.layers.convolution import Convolutional
from darkprune.layers.dense import Connected
from darkprune.surgery.apply import Cut, constants_of, write_slim
from darkprune.surgery.constants import removed_constants
from darkprune.surgery.replaced_channels import with_offsets


def write_masked(weights: NetworkWeights, cut: Cut, file: BinaryIO) -> None:
    """Writes the masked network's tensors; its cfg is the original's."""
    masked = replace(cut, keep=np.ones_like(cut.keep), carriers=cut.gone)
    constants = with_offsets(weights, constants_of(weights, cut))  # only the cut's own carriers carry
    write_slim(weights, masked, constants, file)


def write_held(weights: NetworkWeights, cut: Cut, file: BinaryIO) -> None:
    """Writes the held network's tensors; its cfg is the original's."""
    constants = removed_constants(weights, cut.channels, cut.gone, cut.constant, cut.measured)
    writer = WeightsWriter(file, weights.file.header, stored_tensors(weights.graph, weights.file.header.transposed))
    for layer in weights.graph:
        held = _held_at(cut, layer, constants[layer.index])
        for blob in layer.stored:
            values = weights.file.read(layer.index, blob.name)
            if held is not None:
                where, shift = np.isfinite(held), np.nan_to_num(held)
                if blob.name == "biases":
                    values = np.where(where, shift, values)
                elif blob.name == "scales":
                    values = np.where(where, 0, values)
                elif blob.name == "weights":
                    out_last = (blob.axes[0].role is not Role.OUT) ^ (
                        weights.file.header.transposed and blob.transposable
                    )
                    np.moveaxis(values, -1 if out_last else 0, 0)[where] = 0
            writer.write(layer.index, blob.name, values.astype(np.float32))
    writer.finish()


def _held_at(cut: Cut, layer: Layer, constants: Floats) -> Floats | None:
    """Returns β per channel to be held, NaN for the others; None for layers that hold nothing themselves."""
    kind = layer.kind
    if not isinstance(kind, Convolutional | Connected) or not np.isfinite(constants).any():
        return None
    if isinstance(kind, Convolutional) and kind.depthwise(layer.inputs[0].c):
        return None
    return np.where(np.isfinite(constants), preimage(kind.activation, np.nan_to_num(constants)), np.nan)
