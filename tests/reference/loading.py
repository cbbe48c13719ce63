"""cfg text and weights bytes into a network; random weights for a cfg that has none."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from .network import ReferenceLayer, ReferenceNetwork
from .reading import FloatStream, read_sections
from .shapes import BATCH_NORM, describe


def load(cfg_text: str, weights: bytes | Path | None) -> ReferenceNetwork:
    """Reads a network; without weights its tensors are darknet's initial ones, with zeros for the random weights.

    Raises:
        ValueError: the cfg makes no sense to darknet, or the weights have too few or too many bytes.
        NotImplementedError: a kind outside this referee's reach.
    """
    (_, options), *sections = read_sections(cfg_text)
    shape = (options.integer("channels", 0), options.integer("height", 0), options.integer("width", 0))
    network = ReferenceNetwork(options, shape, options.integer("inputs", math.prod(shape)))
    if not network.inputs:
        raise ValueError("No input parameters supplied")
    before, inputs = network.input_shape, network.inputs
    for index, (kind, layer_options) in enumerate(sections):
        layer = ReferenceLayer(index, kind, layer_options, before, inputs, sources=[index - 1])
        describe(network, layer)
        network.layers.append(layer)
        before, inputs = layer.shape, layer.outputs

    stream = None
    if weights is not None:
        stream = FloatStream.parse(weights if isinstance(weights, bytes) else Path(weights).read_bytes())
        network.seen = stream.seen
    for layer in network.layers:
        for name, tensor_shape in layer.tensors:
            layer.arrays[name] = _tensor(layer, name, tensor_shape, stream)
    if stream is not None:
        stream.finish()
    return network


def _tensor(layer: ReferenceLayer, name: str, shape: tuple[int, ...], stream: FloatStream | None) -> np.ndarray:
    without_scales = bool(layer.options.integer("dontloadscales", 0)) and layer.kind in ("convolutional", "connected")
    absent = bool(layer.options.integer("dontload", 0)) or (without_scales and name in BATCH_NORM)
    if stream is None or absent:
        initially_one = name == "scales" or layer.kind == "shortcut"
        return np.full(shape, 1 if initially_one else 0, np.float32)
    flipped = layer.kind == "convolutional" and layer.options.integer("flipped", 0)
    if name == "weights" and (flipped or (layer.kind == "connected" and stream.transposed)):
        return np.ascontiguousarray(stream.take((math.prod(shape[1:]), shape[0])).T).reshape(shape)
    return stream.take(shape)


def random_weights(cfg_text: str, seed: int) -> bytes:
    """A .weights file of plausible random tensors: activations keep their scale, variances are far from zero."""
    rng = np.random.default_rng(seed)
    chunks = [struct.pack("<3iQ", 0, 2, 5, 0)]
    for layer in load(cfg_text, None).layers:
        for name, shape in layer.tensors:
            if name in ("scales", "rolling_variance"):
                values = rng.uniform(0.5, 1.5, shape)
            elif layer.kind == "shortcut":
                values = rng.uniform(-0.5, 1.5, shape)
            elif name == "weights" and layer.kind != "implicit":
                fan_in = math.prod(shape[2:] if layer.kind == "local" else shape[1:])
                values = rng.normal(0, math.sqrt(1 / fan_in), shape)
            else:
                values = rng.normal(0, 0.3, shape)
            chunks.append(values.astype("<f4").tobytes())
    return b"".join(chunks)
