"""onnxruntime on the processor: pairs through `darkprune.onnx`, and files that it wrote.

Where a `.onnx` file is given for the weights, that file is run as it is: so half precision and INT8 are measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.errors import ExportError, RunnerError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.options import ExportOptions
from darkprune.onnx.read import facts_of_file
from darkprune.onnx.session import OnnxSession
from darkprune.runners.base import LoadedNetwork, Maps, by_layer

Floats = NDArray[np.float32]
_LAYER = re.compile(r"(\d{3,})_[a-zA-Z]")  #: how the names of a layer's nodes and tensors begin
_TIMED_RUNS = 3


def load(graph: Graph, weights: Path, *, taps: bool = True, once: bool = False) -> LoadedNetwork:
    """Loads a pair, or the file that was exported from it."""
    try:
        if weights.suffix == ".onnx":
            check_file(graph, weights)
            return _OnnxRuntimeNetwork(graph, weights)
        folder = TemporaryFolder()
        path = folder.path / "network.onnx"
        tapped = write_heads(graph, weights, path, "onnxruntime", None, taps)
    except ExportError as error:
        raise RunnerError(f"onnxruntime: {error}") from None
    return _OnnxRuntimeNetwork(graph, path, tapped, folder)


class _OnnxRuntimeNetwork(LoadedNetwork):
    def __init__(
        self,
        graph: Graph,
        path: Path,
        tapped: Mapping[int, str] | None = None,
        folder: TemporaryFolder | None = None,
    ) -> None:
        self.graph = graph
        self.tapped = tapped or {}
        self._path = path
        self._folder = folder  # keeps the file for `layer_times`
        self._session = OnnxSession(path, graph.cfg.source)
        self._heads = tensors_of_heads(graph, self._session.outputs)

    def head_maps(self, images: Floats) -> list[Floats]:
        size = self._session.batch
        return self._maps(images) if size is None else in_parts(self._maps, images, size)

    def layer_times(self, images: Floats) -> dict[int, float]:
        size = self._session.batch
        batch = images if size is None else np.resize(images, (size, *images.shape[1:]))
        with TemporaryFolder() as folder:
            session = OnnxSession(self._path, self._session.name, profile=Path(folder) / "profile")
            for _ in range(1 + _TIMED_RUNS):
                session.run(batch, self._heads)
            events = session.end_profile()
        started = sorted(event["ts"] for event in events if event.get("name") == "model_run")
        nodes = [event for event in events if event.get("cat") == "Node" and event["ts"] >= started[1]]
        times = ((layer_of(event["name"]), event["dur"] / 1e3 / _TIMED_RUNS) for event in nodes)
        return by_layer(times, len(self.graph))

    def outputs(self, image: Floats) -> Maps:
        tensors = dict(self.tapped)
        heads = zip(self.graph.heads, self._heads, strict=True)
        tensors |= {head.sources[0]: name for head, name in heads if head.sources[0] >= 0}
        values = self._session.run(image[None], list(tensors.values()))
        shown = {}
        for index, name in tensors.items():
            shape, found = self.graph[index].output, values[name]
            if found.size == shape.c * shape.h * shape.w:
                shown[index] = found.reshape(shape.c, shape.h, shape.w)
        return shown

    def _maps(self, images: Floats) -> list[Floats]:
        values = self._session.run(images, self._heads)
        return [values[name] for name in self._heads]


def write_heads(
    graph: Graph, weights: Path, path: Path, target: str, batch: int | None, taps: bool = False
) -> dict[int, str]:
    """Exports a pair with raw heads, and with `taps` every layer's output; a batch of None is left open.

    Returns:
        With `taps` the layers, with the tensors' names.

    Raises:
        ExportError: a layer that ONNX has no operators for.
    """
    with NetworkWeights(graph, weights) as pair:
        network = build_onnx(pair, ExportOptions(target=target, batch=batch))
        tapped = _tensors_of_layers(graph, network.model) if taps else {}
        write_onnx(replace(network, model=_with_outputs(network.model, tapped.values())), path)
    return tapped


def check_file(graph: Graph, path: Path) -> None:
    """Refuses an ONNX file that does not give the heads of this network.

    Raises:
        ExportError: it cannot be read, or another program made it.
        RunnerError: it was made in another form, from another cfg or for another size.
    """
    facts = facts_of_file(path)
    if facts["outputs"] != "heads":
        raise RunnerError(f"{path}: gives {facts['outputs']}, not raw heads; export it with --outputs heads")
    if facts["cfg_sha256"] != sha256(graph.cfg.encode()).hexdigest():
        raise RunnerError(f"{path}: was not made from {graph.cfg.source}, or for another --size")


def tensors_of_heads(graph: Graph, names: Sequence[str]) -> list[str]:
    """Returns for each head the tensor that holds what it reads.

    Raises:
        RunnerError: there are too few.
    """
    by_name = [next((n for n in names if layer_of(n) == head.sources[0]), None) for head in graph.heads]
    found = [name for name in by_name if name is not None]
    if len(found) < len(by_name):  # a head that reads what a layer passed on from another: outputs stand in order
        found = list(names[: len(by_name)])
    if len(found) < len(by_name):
        raise RunnerError(f"{graph.cfg.source}: has {len(by_name)} heads, but there are {len(names)} outputs")
    return found


def layer_of(name: str) -> int | None:
    """Returns the darknet layer that a node or tensor belongs to."""
    match = _LAYER.search(name)
    return None if match is None else int(match[1])


def in_parts(run: Callable[[Floats], Sequence[Floats]], images: Floats, size: int) -> list[Floats]:
    """Runs images through a network with a fixed batch size; the last part is filled up with zeros.

    Each call of `run` takes (size, c, h, w) and gives a list of (size, …).
    """
    parts = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        missing = size - len(part)
        filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
        parts.append([np.array(values[: len(part)]) for values in run(filled)])
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _tensors_of_layers(graph: Graph, model: ModelProto) -> dict[int, str]:
    made = {name for node in model.graph.node for name in node.output}
    names = {layer.index: f"{layer.index:03d}_{layer.name}" for layer in graph if layer.output.is_map}
    return {index: name for index, name in names.items() if name in made}


def _with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    given = {output.name for output in model.graph.output}
    copy = ModelProto()
    copy.CopyFrom(model)
    for name in names:
        if name not in given:
            copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy
