"""Ranges of a network's tensors over calibration images, and TensorRT's calibration cache.

The images come from a folder through a function that prepares them as the network takes them, so that calibration sees
what inference will see. They go through onnxruntime one by one: memory does not grow with their number.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.data.image_files import images_of
from darkprune.errors import DataError, ExportError
from darkprune.graph.graph import Layer
from darkprune.kit.board.runtime.callbacks import version_number
from darkprune.onnx.file import write_onnx
from darkprune.onnx.network import OnnxNetwork
from darkprune.onnx.nodes.builder import INPUT_NAME
from darkprune.onnx.nodes.layer_writer import layer_name
from darkprune.onnx.read import read_model
from darkprune.onnx.session import OnnxSession, onnxruntime, silenced
from darkprune.targets import Target

Floats = NDArray[np.float32]
#: smallest and largest value of a tensor by its name
Ranges = Mapping[str, tuple[float, float]]
METHODS = ("minmax", "entropy", "percentile")
_SMALLEST = 1e-6  #: range of a tensor that is always 0


def calibration_files(folder: Path, limit: int = 300) -> list[Path]:
    """Returns the images of a folder or a list, at most `limit`, evenly spread.

    Raises:
        DataError: there are none.
    """
    files = images_of(folder)
    places = np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int)
    return [files[place] for place in places]


def measure_ranges(
    network: OnnxNetwork, batches: Iterable[Floats], method: str = "percentile", tensors: Collection[str] | None = None
) -> Ranges:
    """Runs images through the network and returns the range of float tensors.

    The network's weights are mapped into memory from a file. The extremes are found while the network runs; for the
    other methods the tensors of one batch are in memory at a time.

    Args:
        network: in FP32; EfficientNMS cannot be run here.
        batches: (batch, c, h, w) in 0…1.
        method: one of `METHODS`: the extremes seen; the range that loses least information; 99.999 % of all values.
        tensors: names of those to measure; by default all.

    Raises:
        RunnerError: onnxruntime is missing or refuses the network.
        DataError: there were no images.
    """
    onnxruntime()
    if method not in METHODS:
        raise ExportError(f"calibration method {method!r}: unknown; choose one of {', '.join(METHODS)}")
    with TemporaryFolder() as folder:
        path, shown = Path(folder) / "network.onnx", Path(folder) / "shown.onnx"
        write_onnx(network, path)
        model = onnx.shape_inference.infer_shapes(read_model(path, mapped=True))
        inner = _inner_tensors(model, tensors)
        collected = _Extremes(model, inner) if method == "minmax" else _Histograms(model, inner, method)
        shown.write_bytes(model.SerializeToString())
        session = OnnxSession(shown, "the network", optimised=False)
        empty = True
        for images in batches:
            collected.add(images, session.run(images, collected.outputs))
            empty = False
        if empty:
            raise DataError("there are no images to calibrate with")
        return collected.ranges()


def _inner_tensors(model: onnx.ModelProto, tensors: Collection[str] | None) -> list[onnx.ValueInfoProto]:
    """Lists the float tensors between the nodes of a model whose shapes are known; all, or those named."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    names = dict.fromkeys(name for node in model.graph.node for name in (*node.input, *node.output))
    return [
        known[name]
        for name in names
        if name in known
        and name not in fixed
        and known[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        and (tensors is None or name in tensors)
    ]


class _Extremes:
    """Smallest and largest values, made symmetric; the network itself reduces its tensors to them.

    Attributes:
        outputs: names of what the network is to give.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[onnx.ValueInfoProto]) -> None:
        """Adds to a model, for each tensor, two outputs with its extremes.

        They stand right after the node that gives the tensor: a session that runs nodes in this order needs the
        tensor no longer than the network does.
        """
        self._largest: dict[str, float] = {}
        self._tensors: dict[str, str] = {}  # of each output
        inner, nodes = {tensor.name for tensor in tensors}, list(model.graph.node)
        del model.graph.node[:]
        for node in nodes:
            model.graph.node.append(node)
            for tensor, reduction in product(filter(inner.__contains__, node.output), ("ReduceMin", "ReduceMax")):
                output = f"{tensor}/{reduction}"
                model.graph.node.append(helper.make_node(reduction, [tensor], [output], name=output, keepdims=0))
                model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ()))
                self._tensors[output] = tensor
        self.outputs = list(self._tensors)

    def add(self, images: Floats, values: Mapping[str, Floats]) -> None:
        """Takes in a batch: the images, and the network's outputs."""
        for name, value in ((INPUT_NAME, images), *((self._tensors[name], value) for name, value in values.items())):
            self._largest[name] = max(self._largest.get(name, 0.0), float(np.abs(value).max()))

    def ranges(self) -> Ranges:
        """Returns the ranges."""
        return {name: (-largest, largest) for name, largest in self._largest.items()}


class _Histograms:
    """Histograms of values, from which onnxruntime chooses ranges.

    Attributes:
        outputs: names of what the network is to give.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[onnx.ValueInfoProto], method: str) -> None:
        """Makes the tensors outputs of a model."""
        from onnxruntime.quantization.calibrate import HistogramCollector

        there = {output.name for output in model.graph.output}
        model.graph.output.extend(tensor for tensor in tensors if tensor.name not in there)
        bins, quantised = (2048, 2048) if method == "percentile" else (128, 128)  # as its calibrators have it
        self._collector = HistogramCollector(method, True, bins, quantised, 99.999, "same")
        self.outputs = [tensor.name for tensor in tensors]

    def add(self, images: Floats, values: Mapping[str, Floats]) -> None:
        """Takes in a batch: the images, and the network's outputs."""
        with silenced():
            for name, value in ((INPUT_NAME, images), *values.items()):
                self._collector.collect({name: [value]})

    def ranges(self) -> Ranges:
        """Returns the ranges."""
        with silenced():
            found = self._collector.compute_collection_result()
        return {name: (_number(data[0]), _number(data[1])) for name, data in found.items()}


def _number(value: object) -> float:
    return float(np.asarray(value, np.float64).reshape(-1)[0])


def scales(ranges: Ranges) -> dict[str, float]:
    """Returns the step of 8-bit symmetric quantisation per tensor: the largest magnitude over 127."""
    return {name: max(abs(low), abs(high), _SMALLEST) / 127 for name, (low, high) in ranges.items()}


def calibration_cache(
    network: OnnxNetwork, steps: Mapping[str, float], left_out: Sequence[Layer], place: Target
) -> str:
    """Writes the text that TensorRT 8 to 10 read instead of calibrating.

    A header with version and algorithm, then a line per tensor: its name and the step as the hexadecimal digits of a
    big-endian float. TensorRT keeps the layers of tensors that are missing in FP16 or FP32: that is how the decoding
    of heads, exponentials and the layers left out stay precise.

    TensorRT skips a cache whose header has another version; whoever reads it on the board puts its own there
    (`with_version` of a kit's runtime).

    Args:
        network: names the tensors; those that need full precision are not listed.
        steps: per tensor.
        left_out: layers that are not to be quantised.
        place: target; the newest TensorRT it may have goes into the header.

    Raises:
        ExportError: a target without TensorRT, or with one that reads no cache (11).
    """
    version = version_number(place.tensorrt[0]) if place.tensorrt else 0
    if not 0 < version < 110000:
        raise ExportError(f"{place.name} has no TensorRT that reads a calibration cache; write Q/DQ nodes instead")
    starts = tuple(f"{layer_name(layer)}/" for layer in left_out)
    lines = [f"TRT-{version}-EntropyCalibration2", _line(INPUT_NAME, steps)]
    for node in network.model.graph.node:
        if node.name in network.full_precision or node.name.startswith(starts):
            continue
        lines += [_line(name, steps) for name in node.output if name in steps]
    return "\n".join(lines) + "\n"


def _line(name: str, steps: Mapping[str, float]) -> str:
    return f"{name}: {struct.pack('>f', steps[name]).hex()}"
