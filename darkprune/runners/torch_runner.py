"""torch as a runner of Darknet pairs; on a GPU where there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from darkprune.errors import RunnerError, TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network, initialise, load_weights
from darkprune.network.loading import default_device
from darkprune.processes import giving_back_memory
from darkprune.runners.base import LoadedNetwork, Maps


def load(graph: Graph, weights: Path, *, taps: bool = True, once: bool = False) -> LoadedNetwork:
    """Loads a pair; recurrent layers are refused."""
    device = default_device()
    incomplete = any(layer.stored != layer.blobs for layer in graph)
    streamed = once and not incomplete and not any(layer.references for layer in graph)
    try:
        with torch.device("meta") if streamed else nullcontext():
            network = Network(graph, channels_last=not taps and not streamed)  # whose copies take memory
    except TrainingError as error:
        raise RunnerError(f"torch cannot run {graph.cfg.source}: {error}") from None
    if streamed:
        return _StreamedNetwork(network.eval(), device, weights)
    if incomplete:
        initialise(network, seed=0)  # what the file does not hold (dontload) is random in darknet too
    with NetworkWeights(graph, weights) as file:
        load_weights(network, file)
    network.eval()
    if not taps:
        network.fuse()
    return _TorchNetwork(network.to(device), device)


class _TorchNetwork(LoadedNetwork):
    def __init__(self, network: Network, device: torch.device) -> None:
        self.graph = network.graph
        self.network = network
        self.device = device

    def head_maps(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            heads = self.network(self._batch(images)).heads
        return [_array(heads[head.index]) for head in self.graph.heads]

    def layer_times(self, images: NDArray[np.float32]) -> dict[int, float]:
        times: dict[int, float] = {}
        started = 0.0

        def before(*_: object) -> None:
            nonlocal started
            self._wait()
            started = time.perf_counter()

        def after(index: int) -> None:
            self._wait()
            times[index] = (time.perf_counter() - started) * 1e3

        hooks = []
        for index, module in enumerate(self.network.layers):
            hooks.append(module.register_forward_pre_hook(before))
            hooks.append(module.register_forward_hook(lambda *_, index=index: after(index)))
        try:
            self.head_maps(images)
        finally:
            for hook in hooks:
                hook.remove()
        return times

    def outputs(self, image: NDArray[np.float32]) -> Maps:
        heads = {head.index for head in self.graph.heads}
        shown = [layer.index for layer in self.graph if layer.output.is_map and layer.index not in heads]
        with torch.inference_mode():
            taps = self.network(self._batch(image[None]), taps=shown).taps
        return {index: _array(values)[0] for index, values in taps.items()}

    def _batch(self, images: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(self.device)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class _StreamedNetwork(_TorchNetwork):
    """Holds the weights of one layer at a time: each layer reads its own before it runs, and drops them after."""

    def __init__(self, network: Network, device: torch.device, weights: Path) -> None:
        super().__init__(network, device)
        self._path = weights
        self._file: NetworkWeights | None = None
        for layer, module in zip(self.graph, network.layers, strict=True):
            if layer.blobs:
                module.register_forward_pre_hook(partial(self._read, layer))
                module.register_forward_hook(self._drop)

    def head_maps(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._opened():
            return super().head_maps(images)

    def outputs(self, image: NDArray[np.float32]) -> Maps:
        with self._opened():
            return super().outputs(image)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with giving_back_memory(), NetworkWeights(self.graph, self._path) as self._file:
            yield

    def _read(self, layer: Layer, module: torch.nn.Module, *_: object) -> None:
        assert self._file is not None
        for blob in layer.blobs:
            values = np.ascontiguousarray(self._file.read(layer, blob.name), np.float32)
            tensor = torch.from_numpy(values).to(self.device)
            setattr(module, blob.name, torch.nn.Parameter(tensor, requires_grad=False) if blob.trained else tensor)

    def _drop(self, module: torch.nn.Module, *_: object) -> None:
        module.to("meta")


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.detach().to("cpu", torch.float32).numpy())
