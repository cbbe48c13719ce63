"""[route], [shortcut], [scale_channels], [sam]."""

from __future__ import annotations

import numpy as np

from darkprune.layers.merge import Route, Sam, ScaleChannels, Shortcut
from darkprune.onnx.emit.activations import activate
from darkprune.onnx.emit.base import Signal
from darkprune.onnx.emit.scope import Scope, emits


@emits(Route)
def _route(scope: Scope[Route]) -> Signal:
    kind, features = scope.kind, [signal.feature for signal in scope.inputs]
    by_channel = scope.layer.output.is_map and all(feature.c % kind.groups == 0 for feature in features)
    if len(features) == 1 and kind.groups == 1:
        return scope.inputs[0]
    parts = []
    for number, feature in enumerate(features):
        tensor = scope.map_of(number) if by_channel else scope.flat_of(number)
        share = (feature.c if by_channel else feature.outputs) // kind.groups
        if kind.groups > 1:
            tensor = scope.slice(tensor, 1, share * kind.group_id, share * (kind.group_id + 1))
        parts.append(tensor)
    joined = parts[0] if len(parts) == 1 else scope.node("Concat", parts, axis=1)
    return scope.map(joined) if by_channel else scope.flat(joined)


@emits(Shortcut)
def _shortcut(scope: Scope[Shortcut]) -> Signal:
    kind, output = scope.kind, scope.layer.output
    if any((s.feature.h, s.feature.w) != (output.h, output.w) for s in scope.inputs):
        sizes = ", ".join(str(signal.feature) for signal in scope.inputs)
        raise scope.error(f"adds maps of different sizes ({sizes}), on which darknet aborts")
    tensors = [_weighted(scope, number) for number in range(len(scope.inputs))]
    total = tensors[0]
    for tensor, signal in zip(tensors[1:], scope.inputs[1:], strict=True):
        total = _add_common(scope, total, output.c, tensor, signal.feature.c)
    return scope.map(activate(scope, total, kind.activation))


def _weighted(scope: Scope[Shortcut], number: int) -> str:
    """Returns an input times its normalised factor: per input, or per input and channel of the output."""
    tensor = scope.map_of(number)
    if scope.kind.weights_type == "none":
        return tensor
    factors = scope.kind.normalised(np.float64(scope.blob("weights")).reshape(len(scope.inputs), -1))[number]
    channels = scope.inputs[number].feature.c
    if len(factors) > 1 and channels != len(factors):  # only the common channels are added
        factors = np.concatenate([factors, np.ones(channels)])[:channels]
    return scope.multiply(
        tensor, scope.constant(f"factor.{number}", factors.reshape(1, -1, 1, 1)), f"weighted.{number}"
    )


def _add_common(scope: Scope[Shortcut], total: str, channels: int, tensor: str, others: int) -> str:
    """Adds the first channels that both have; the rest of the total passes through."""
    if others == channels:
        return scope.add(total, tensor)
    if others > channels:
        return scope.add(total, scope.slice(tensor, 1, 0, channels, step="common"))
    common = scope.add(scope.slice(total, 1, 0, others, step="common"), tensor)
    return scope.node("Concat", [common, scope.slice(total, 1, others, channels, step="rest")], axis=1)


@emits(ScaleChannels)
def _scale_channels(scope: Scope[ScaleChannels]) -> Signal:
    factors, source = (signal.feature for signal in scope.inputs)
    if not scope.kind.scale_wh and (factors.h, factors.w) != (1, 1):
        raise scope.error(f"scales {source} by a map of {factors} instead of one value per channel: darknet aborts")
    product = scope.multiply(scope.map_of(1), scope.map_of(0), "scale")
    return scope.map(activate(scope, product, scope.kind.activation))


@emits(Sam)
def _sam(scope: Scope[Sam]) -> Signal:
    product = scope.multiply(scope.map_of(1), scope.map_of(0), "product")
    return scope.map(activate(scope, product, scope.kind.activation))
