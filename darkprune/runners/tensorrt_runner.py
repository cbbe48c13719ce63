"""TensorRT, or TensorRT for RTX, on a GPU of this machine.

Of a pair an engine is built first. Where an `.engine` file is given for the weights, that engine is run as it is: so
half precision and INT8 are measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.errors import ExportError, RunnerError
from darkprune.graph.graph import Graph
from darkprune.kit.board.runtime import RuntimeFailure
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.kit.board.runtime.command import import_tensorrt
from darkprune.kit.board.runtime.cuda import Cuda
from darkprune.runners.base import LoadedNetwork, Maps, by_layer
from darkprune.runners.onnxruntime_runner import in_parts, layer_of, tensors_of_heads, write_heads
from darkprune.targets import target
from darkprune.tensorrt import engine
from darkprune.tensorrt.run import Engine, failures_as


def load(graph: Graph, weights: Path, *, taps: bool = True, once: bool = False) -> LoadedNetwork:
    """Loads an engine, or builds one of a pair in FP32, which takes a minute or more."""
    try:
        import_tensorrt()
    except RuntimeFailure as error:
        raise RunnerError(f"TensorRT is not installed here ({error})") from None
    with failures_as(RunnerError):
        Cuda().device()  # TensorRT for RTX would build without a GPU, but not run
    with TemporaryFolder() as folder:
        path = weights
        if weights.suffix != ".engine":
            source, path = Path(folder) / "network.onnx", Path(folder) / "network.engine"
            try:
                write_heads(graph, weights, source, "workstation", 1)
                place = target("workstation")
                engine.build(source, path, BuildOptions(workspace_mb=place.workspace_mb), place)
            except ExportError as error:
                raise RunnerError(f"TensorRT: {error}") from None
        return _TensorRtNetwork(graph, path)


class _TensorRtNetwork(LoadedNetwork):
    def __init__(self, graph: Graph, path: Path) -> None:
        self.graph = graph
        self.engine = Engine(path)
        self.names = tensors_of_heads(graph, list(self.engine.outputs))
        image = graph.net.input
        shapes = [(str(path), self.engine.shape, image)]
        shapes += [
            (name, self.engine.outputs[name], graph.feature(head.sources[0]))
            for head, name in zip(graph.heads, self.names, strict=True)
        ]
        for what, shape, feature in shapes:
            if tuple(shape[1:]) != (feature.c, feature.h, feature.w):
                self.engine.close()
                raise RunnerError(f"{what}: has the shape {tuple(shape)}, the network {feature}; build it of this pair")

    def head_maps(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        size = self.engine.shape[0]
        return in_parts(self._run, images, size if size > 0 else len(images))

    def layer_times(self, images: NDArray[np.float32]) -> dict[int, float]:
        size = self.engine.shape[0]
        batch = np.resize(images, (size, *images.shape[1:])) if size > 0 else images
        return by_layer(((layer_of(name), ms) for name, ms in self.engine.layer_times(batch)), len(self.graph))

    def outputs(self, image: NDArray[np.float32]) -> Maps:
        maps = self.head_maps(image[None])
        return {
            head.sources[0]: values[0]
            for head, values in zip(self.graph.heads, maps, strict=True)
            if head.sources[0] >= 0
        }

    def _run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = self.engine.run(np.ascontiguousarray(images, np.float32))
        return [found[name] for name in self.names]
