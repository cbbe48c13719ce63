"""[route], [shortcut], [scale_channels], [sam]."""

from __future__ import annotations

import numpy as np

from darkprune.layers.merge import Route, Sam, ScaleChannels, Shortcut
from darkprune.onnx.nodes.activations import activate
from darkprune.onnx.nodes.builder import LayerOutput
from darkprune.onnx.nodes.layer_writer import LayerWriter, writes


@writes(Route)
def _route(writer: LayerWriter[Route]) -> LayerOutput:
    kind, features = writer.kind, [layer_output.feature for layer_output in writer.inputs]
    by_channel = writer.layer.output.is_map and all(feature.c % kind.groups == 0 for feature in features)
    if len(features) == 1 and kind.groups == 1:
        return writer.inputs[0]
    parts = []
    for number, feature in enumerate(features):
        tensor = writer.map_of(number) if by_channel else writer.flat_of(number)
        share = (feature.c if by_channel else feature.outputs) // kind.groups
        if kind.groups > 1:
            tensor = writer.slice(tensor, 1, share * kind.group_id, share * (kind.group_id + 1))
        parts.append(tensor)
    joined = parts[0] if len(parts) == 1 else writer.node("Concat", parts, axis=1)
    return writer.map(joined) if by_channel else writer.flat(joined)


@writes(Shortcut)
def _shortcut(writer: LayerWriter[Shortcut]) -> LayerOutput:
    kind, output = writer.kind, writer.layer.output
    if any((s.feature.h, s.feature.w) != (output.h, output.w) for s in writer.inputs):
        sizes = ", ".join(str(layer_output.feature) for layer_output in writer.inputs)
        raise writer.error(f"adds maps of different sizes ({sizes}), on which darknet aborts")
    tensors = [_weighted(writer, number) for number in range(len(writer.inputs))]
    total = tensors[0]
    for tensor, layer_output in zip(tensors[1:], writer.inputs[1:], strict=True):
        total = _add_common(writer, total, output.c, tensor, layer_output.feature.c)
    return writer.map(activate(writer, total, kind.activation))


def _weighted(writer: LayerWriter[Shortcut], number: int) -> str:
    """Returns an input times its normalised factor: per input, or per input and channel of the output."""
    tensor = writer.map_of(number)
    if writer.kind.weights_type == "none":
        return tensor
    factors = writer.kind.normalised(np.array(writer.blob("weights"), np.float64).reshape(len(writer.inputs), -1))[
        number
    ]
    channels = writer.inputs[number].feature.c
    if len(factors) > 1 and channels != len(factors):  # only the common channels are added
        factors = np.concatenate([factors, np.ones(channels)])[:channels]
    return writer.multiply(
        tensor, writer.constant(f"factor.{number}", factors.reshape(1, -1, 1, 1)), f"weighted.{number}"
    )


def _add_common(writer: LayerWriter[Shortcut], total: str, channels: int, tensor: str, others: int) -> str:
    """Adds the first channels that both have; the rest of the total passes through."""
    if others == channels:
        return writer.add(total, tensor)
    if others > channels:
        return writer.add(total, writer.slice(tensor, 1, 0, channels, step="common"))
    common = writer.add(writer.slice(total, 1, 0, others, step="common"), tensor)
    return writer.node("Concat", [common, writer.slice(total, 1, others, channels, step="rest")], axis=1)


@writes(ScaleChannels)
def _scale_channels(writer: LayerWriter[ScaleChannels]) -> LayerOutput:
    factors, source = (layer_output.feature for layer_output in writer.inputs)
    if not writer.kind.scale_wh and (factors.h, factors.w) != (1, 1):
        raise writer.error(f"scales {source} by a map of {factors} instead of one value per channel: darknet aborts")
    product = writer.multiply(writer.map_of(1), writer.map_of(0), "scale")
    return writer.map(activate(writer, product, writer.kind.activation))


@writes(Sam)
def _sam(writer: LayerWriter[Sam]) -> LayerOutput:
    product = writer.multiply(writer.map_of(1), writer.map_of(0), "product")
    return writer.map(activate(writer, product, writer.kind.activation))
