"""OpenCV 4's own Darknet reader (`cv2.dnn.readNetFromDarknet`); OpenCV 5 has none.

It computes batch normalisation with an epsilon of 1e-6 where darknet has 1e-5; the difference is added to the variances
that it is given, so that its outputs are darknet's.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.cfg import Cfg
from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.errors import RunnerError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights, stored_tensors
from darkprune.layers.heads import Head
from darkprune.runners.base import LoadedNetwork, Maps, by_layer

#: layers that OpenCV makes of a section's activation; their number is one more than darknet's
_ACTIVATIONS = frozenset(["relu", "leaky", "mish", "swish", "logistic", "tanh", "relu6", "elu", "selu", "hardswish"])
_MISSING_EPSILON = np.float32(9e-6)
_NAME = re.compile(r"([a-zA-Z_]+[a-zA-Z0-9]*?)_(\d+)")


def load(graph: Graph, weights: Path, *, taps: bool = True, once: bool = False) -> LoadedNetwork:
    """Loads a pair; sections that OpenCV does not know are its own error."""
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        raise RunnerError(f"OpenCV {cv2.__version__} has no Darknet reader; install opencv-python-headless<5")
    text = _plain_cfg(graph)
    # files, because OpenCV copies what it is given in memory, several times
    with TemporaryFolder() as folder:
        cfg, corrected = Path(folder) / "network.cfg", Path(folder) / "network.weights"
        cfg.write_bytes(text.encode())
        _correct(graph, weights, corrected)
        try:
            net = cv2.dnn.readNetFromDarknet(str(cfg), str(corrected))
        except cv2.error as error:
            where = f"OpenCV {cv2.__version__} cannot read {graph.cfg.source}"
            known = [line for line in graph.warnings if "OpenCV" in line]
            raise RunnerError(f"{where}: {(known or [_reason(error)])[0]}") from None
    if taps:
        net.enableFusion(False)  # a fused layer shows the values of the one that it was fused with
    if once:
        net.enableWinograd(False)  # is faster with weights that take four times the memory
    return _OpenCvNetwork(graph, net)


def _plain_cfg(graph: Graph) -> Cfg:
    """Returns a cfg that OpenCV reads as darknet reads the network's."""
    values = {(0, "batch"): "1", (0, "subdivisions"): "1"}  # OpenCV counts a batch of the cfg's size otherwise
    for layer in graph:
        given, used = graph.options(layer).text("activation"), getattr(layer.kind, "activation", "")
        if given and used and given != used:  # names that darknet does not know are ReLU there
            values[layer.section, "activation"] = used
    return graph.cfg.with_values(values).as_read()


def _correct(graph: Graph, weights: Path, path: Path) -> None:
    """Copies a weights file with a right header, and variances that make up for OpenCV's epsilon."""
    shutil.copyfile(weights, path)
    with NetworkWeights(graph, weights) as source:
        position = source.header.size
        tensors = [(graph[index], name, 4 * math.prod(shape)) for index, name, shape in stored_tensors(graph)]
        with path.open("r+b") as file:
            file.write(source.header.encode())
            for layer, name, size in tensors:
                if name == "rolling_variance":
                    file.seek(position)
                    file.write((source.read(layer, name) + _MISSING_EPSILON).astype("<f4"))
                position += size


class _OpenCvNetwork(LoadedNetwork):
    def __init__(self, graph: Graph, net: cv2.dnn.Net) -> None:
        self.graph = graph
        self.net = net
        self.names = _names_by_layer(graph, net.getLayerNames())

    def head_maps(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        sources = [head.sources[0] for head in self.graph.heads]
        each = [self._forward(image, [self.names[source] for source in sources]) for image in images]
        shapes = [self.graph[source].output for source in sources]
        return [
            np.stack([np.float32(maps[i]).reshape(shape.c, shape.h, shape.w) for maps in each])
            for i, shape in enumerate(shapes)
        ]

    def layer_times(self, images: NDArray[np.float32]) -> dict[int, float]:
        indices, scale = [_layer_of(name) for name in self.net.getLayerNames()], 1e3 / cv2.getTickFrequency()
        times: list[tuple[int | None, float]] = []
        for image in images:
            self.head_maps(image[None])
            _, ticks = self.net.getPerfProfile()
            times += zip(indices, (np.ravel(ticks) * scale).tolist(), strict=False)
        return by_layer(times, len(self.graph))

    def _forward(self, image: NDArray[np.float32], names: list[str]) -> Sequence[NDArray[np.float32]]:
        try:
            self.net.setInput(np.ascontiguousarray(image[None], np.float32))
            maps: Sequence[NDArray[np.float32]] = self.net.forward(names)  # type: ignore[assignment]
        except cv2.error as error:
            raise RunnerError(f"OpenCV cannot run {self.graph.cfg.source}: {_reason(error)}") from None
        return maps

    def outputs(self, image: NDArray[np.float32]) -> Maps:
        maps = self._forward(image, list(self.names.values()))
        shown = {}
        for index, values in zip(self.names, maps, strict=True):
            shape = self.graph[index].output
            if shape.is_map and values.size == shape.outputs:
                shown[index] = np.asarray(values, np.float32).reshape(shape.c, shape.h, shape.w)
        return shown


def _names_by_layer(graph: Graph, names: Sequence[str]) -> dict[int, str]:
    """Returns for each darknet layer the last of OpenCV's layers that were made of it."""
    found: dict[int, str] = {}
    for name in names:
        index = _layer_of(name)
        if index is not None and index < len(graph) and not isinstance(graph[index].kind, Head):
            found[index] = name
    return found


def _layer_of(name: str) -> int | None:
    """Returns the darknet layer that one of OpenCV's was made of."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[2]) - (match[1] in _ACTIVATIONS)


def _reason(error: cv2.error) -> str:
    text = re.sub(r"^OpenCV\([^)]*\)\s*\S+: error: ", "", " ".join(str(error).split()))
    return re.sub(r" in function '.*", "", text)[:160]
