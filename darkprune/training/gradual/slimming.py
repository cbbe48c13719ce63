"""A cut of a network in training: weights, moments and averages lose the same channels.

Everything that has a value for each weight of the network is written as a weights file, cut as `darkprune prune` does,
and read back, so that there is only one implementation of the cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.darknet.weights import Header
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights, NetworkWriter
from darkprune.network import Network
from darkprune.progress import reporting, silent
from darkprune.surgery.apply import Cut, constants_of, write_slim

Values = Mapping[str, Tensor]  #: by the names of `Network.state_dict`


@contextmanager
def as_weights(graph: Graph, values: Values) -> Iterator[NetworkWeights]:
    """Writes values, 0 for what is missing, as a weights file that is deleted when the block ends."""
    with TemporaryFolder() as folder:
        path = Path(folder) / "values.weights"
        with path.open("wb") as file:
            writer = NetworkWriter(graph, file, Header())
            for layer in graph:
                for blob in layer.stored:
                    value = values.get(f"layers.{layer.index}.{blob.name}", torch.zeros(blob.shape))
                    writer.write(layer, blob.name, value.detach().to("cpu", torch.float32).numpy())
            writer.finish()
        with NetworkWeights(graph, path) as weights:
            yield weights


@reporting(silent)
def cut_weights(cut: Cut, values: Values) -> dict[str, Tensor]:
    """Cuts weights: constants of removed channels are folded into the layers that read them.

    Returns:
        The slim network's, on the CPU.
    """
    graph = cut.channels.graph
    with as_weights(graph, values) as weights, TemporaryFolder() as folder:
        path = Path(folder) / "slim.weights"
        with path.open("wb") as file:
            write_slim(weights, cut, constants_of(weights, cut), file)
        with NetworkWeights(cut.slim, path) as stored:
            found = {
                f"layers.{layer.index}.{blob.name}": torch.from_numpy(
                    np.ascontiguousarray(stored.read(layer, blob.name))
                )
                for layer in cut.slim
                for blob in layer.stored
            }
    # what no file holds (`dontload`) is pinned: its shape stays
    return {name: found[name] if name in found else value.cpu() for name, value in values.items()}


def cut_moments(cut: Cut, values: Values) -> dict[str, Tensor]:
    """Removes the same channels from values that only have the weights' shapes: nothing is folded."""
    return cut_weights(replace(cut, compensate="none", carriers=np.zeros_like(cut.carriers)), values)


def slim_network(network: Network, graph: Graph) -> Network:
    """Makes a network for a slim graph on the device, and with the memory layout, of another; its weights are unset."""
    return Network(graph, channels_last=network.channels_last).to(network.device)
