"""PyTorch, on the processor or a CUDA device, through `darkprune.network`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# torch's threads spin while they wait, which starves everything else on a small machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from darkprune.errors import RunnerError, TrainingError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network.blobs import load_weights
from darkprune.network.network import Network
from darkprune.runners.base import LoadedNetwork, Maps, Runner


class TorchRunner(Runner):
    """Runs pairs in PyTorch."""

    name = "torch"

    def load(self, graph: Graph, weights: Path, *, taps: bool = True) -> LoadedNetwork:
        """Loads a pair; batch normalisation is folded where no layer's output will be asked for."""
        try:
            network = Network(graph, channels_last=True)
        except TrainingError as error:
            raise RunnerError(str(error)) from None
        with NetworkWeights(graph, weights) as stored:
            load_weights(network, stored)
        if not taps:
            network.fuse()
        return _TorchNetwork(graph, network)


class _TorchNetwork(LoadedNetwork):
    def __init__(self, graph: Graph, network: Network) -> None:
        self.graph = graph
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device).eval()

    @torch.inference_mode()
    def head_maps(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = self.network(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        return [found.heads[head.index].float().cpu().numpy() for head in self.graph.heads]

    def layer_times(self, images: NDArray[np.float32]) -> dict[int, float]:
        started: dict[int, float] = {}
        times: dict[int, float] = {}
        handles = []
        for index, module in enumerate(self.network.layers):

            def start(*_: object, index: int = index) -> None:
                started[index] = time.perf_counter()

            def stop(*_: object, index: int = index) -> None:
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                times[index] = (time.perf_counter() - started[index]) * 1e3

            handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
        try:
            self.head_maps(images)
        finally:
            for handle in handles:
                handle.remove()
        return times

    @torch.inference_mode()
    def outputs(self, image: NDArray[np.float32]) -> Maps:
        asked = [layer.index for layer in self.graph if layer.output.is_map and layer not in self.graph.heads]
        found = self.network(torch.from_numpy(np.ascontiguousarray(image[None])).to(self.device), asked)
        return {index: found.taps[index][0].float().cpu().numpy() for index in asked}
