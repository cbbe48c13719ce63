"""[connected], normalisations, [softmax], [detection], [implicit], [activation], identities; and what is refused."""

from __future__ import annotations

import numpy as np

from darkprune.layers import Kind
from darkprune.layers.convolution import batch_norm
from darkprune.layers.dense import Connected
from darkprune.layers.heads import Detection
from darkprune.layers.norm import BatchNorm, Normalization
from darkprune.layers.recurrent import ConvLstm, Crnn, Gru, History, Lstm, Rnn
from darkprune.layers.simple import Activation, Contrastive, Cost, Dropout, Empty, Implicit, Softmax
from darkprune.onnx.nodes.activations import activate
from darkprune.onnx.nodes.builder import INPUT_NAME, LayerOutput
from darkprune.onnx.nodes.convolution import folded, norm_of
from darkprune.onnx.nodes.layer_writer import UNSUPPORTED, LayerWriter, writes

_MAX_BAND = 4096  #: widest map that [normalization] is written for: its kernel has this squared values

UNSUPPORTED.update(
    dict.fromkeys(
        (Rnn, Crnn, Gru, Lstm, ConvLstm, History),
        "keeps a state from one call to the next, which an ONNX file of a detector does not: it cannot be exported",
    )
)


@writes(Connected)
def _connected(writer: LayerWriter[Connected]) -> LayerOutput:
    slope, intercept = norm_of(writer)
    shape = (writer.kind.outputs, writer.inputs[0].feature.outputs)
    weights = writer.builder.deferred(f"{writer.prefix}/weights", shape, folded(writer, slope))
    biases = writer.constant("biases", intercept)
    made = writer.node("Gemm", [writer.flat_of(), weights, biases], "connect", transB=1)
    return writer.flat(activate(writer, made, writer.kind.activation))


@writes(BatchNorm)
def _batchnorm(writer: LayerWriter[BatchNorm]) -> LayerOutput:
    slope, intercept = (values.reshape(1, -1, 1, 1) for values in batch_norm(writer.blob))
    scaled = writer.multiply(writer.map_of(), writer.constant("slope", slope), "scale")
    return writer.map(writer.add(scaled, writer.constant("intercept", intercept), "shift"))


@writes(Normalization)
def _normalization(writer: LayerWriter[Normalization]) -> LayerOutput:
    """x·(κ + α·S)^−β, where S, darknet's sum over a window of channels, is a 1x1 convolution of the squares."""
    kind, channels = writer.kind, writer.layer.output.c
    if channels > _MAX_BAND:
        raise writer.error(f"{channels} channels: the kernel that sums over its window would be too large")
    band = (kind.alpha * kind.window(channels)).reshape(channels, channels, 1, 1)
    with writer.builder.in_fp32():  # squares leave the range of half precision at 256
        x = writer.map_of()
        inputs = [writer.multiply(x, x, "square"), writer.constant("window", band)]
        inputs.append(writer.constant("kappa", np.full(channels, kind.kappa)))
        power = writer.node(
            "Pow", [writer.node("Conv", inputs, "sum", kernel_shape=[1, 1]), writer.builder.scalar(-kind.beta)]
        )
        return writer.map(writer.multiply(x, power, "normalise"))


@writes(Softmax)
def _softmax(writer: LayerWriter[Softmax]) -> LayerOutput:
    kind, count = writer.kind, writer.layer.output.outputs
    if kind.has_tree:
        raise writer.error("a softmax over a tree of classes cannot be exported")
    if kind.spatial:
        writer.builder.remarks.append(f"layer {writer.layer.index}: spatial=1 is without effect, as on darknet's CPU")
    with writer.builder.in_fp32():
        x = writer.flat_of()
        if kind.temperature != 1:
            x = writer.multiply(x, 1 / kind.temperature, "temper")
        if kind.groups == 1:
            return writer.flat(writer.node("Softmax", [x], axis=1))
        parts = writer.node("Softmax", [writer.reshape(x, 0, kind.groups, count // kind.groups, step="parts")], axis=2)
        return writer.flat(writer.reshape(parts, 0, count, step="whole"))


@writes(Detection)
def _detection(writer: LayerWriter[Detection]) -> LayerOutput:
    """darknet's output: side²·classes (softmax if asked for), side²·num objectness, side²·num boxes, all raw."""
    kind, x = writer.kind, writer.flat_of()
    if not kind.softmax:
        return writer.flat(x)
    cells, count = kind.side**2, kind.side**2 * kind.classes
    with writer.builder.in_fp32():
        classes = writer.reshape(writer.slice(x, 1, 0, count, step="classes"), 0, cells, kind.classes, step="cells")
        shares = writer.reshape(writer.node("Softmax", [classes], axis=2), 0, count, step="shares")
        rest = writer.slice(x, 1, count, writer.layer.output.outputs, step="rest")
        return writer.flat(writer.node("Concat", [shares, rest], axis=1))


@writes(Implicit)
def _implicit(writer: LayerWriter[Implicit]) -> LayerOutput:
    values = writer.blob("weights").reshape(1, writer.kind.filters, writer.kind.atoms, 1)
    if writer.builder.batch is not None:
        return writer.map(writer.constant("weights", np.repeat(values, writer.builder.batch, axis=0)))
    images = writer.slice(writer.node("Shape", [INPUT_NAME]), 0, 0, 1, step="images")
    sizes = writer.node("Concat", [images, writer.builder.integers(*values.shape[1:])], "sizes", axis=0)
    return writer.map(writer.node("Expand", [writer.constant("weights", values), sizes]))


@writes(Activation)
def _activation(writer: LayerWriter[Activation]) -> LayerOutput:
    if not writer.layer.output.is_map:
        return writer.flat(activate(writer, writer.flat_of(), writer.kind.activation))
    return writer.map(activate(writer, writer.map_of(), writer.kind.activation))


def _identity(writer: LayerWriter[Kind]) -> LayerOutput:
    return writer.inputs[0]


for _kind in (Dropout, Empty, Cost, Contrastive):
    writes(_kind)(_identity)
