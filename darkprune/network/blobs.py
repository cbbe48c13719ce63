"""Weights in, out and fresh, through the tensors that the kinds declare: (layer index, name), as surgery sees them."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from darkprune.darknet.weights import Header
from darkprune.errors import TrainingError, WeightsError
from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWriter, TensorSource, stored_tensors
from darkprune.layers import Blob
from darkprune.network.modules import LayerModule
from darkprune.network.network import Network


def tensor_of(network: Network, layer: int, name: str) -> Tensor:
    """Returns a network's tensor by darknet's name (`weights`, `biases`, `scales`, …), in the file's axis order.

    Raises:
        WeightsError: there is no such tensor, or it was folded away.
    """
    tensor = getattr(network.layers[layer], name, None)
    if not isinstance(tensor, Tensor):
        raise WeightsError(f"layer {layer} ({network.graph[layer].name}) has no {name}")
    return tensor


def load_weights(network: Network, weights: TensorSource) -> None:
    """Copies a file's tensors into a network; what the file does not hold (`dontload`) stays as it is.

    Raises:
        WeightsError: the network is fused, or the file belongs to another one.
    """
    _refuse_fused(network)
    if stored_tensors(weights.graph) != stored_tensors(network.graph):
        raise WeightsError(f"{weights.path}: holds the tensors of another network than {network.graph.cfg.source}")
    with torch.no_grad():
        for layer, blob in _stored(network):
            values = np.ascontiguousarray(weights.read(layer, blob.name), np.float32)
            tensor_of(network, layer.index, blob.name).copy_(torch.from_numpy(values))


def save_weights(network: Network, file: BinaryIO, header: Header) -> None:
    """Writes a network's tensors to an empty file; loading and saving gives the same bytes.

    The header is written as it is; its version decides how connected layers are laid out.

    Raises:
        WeightsError: the network is fused.
    """
    _refuse_fused(network)
    writer = NetworkWriter(network.graph, file, header)
    for layer, blob in _stored(network):
        values = tensor_of(network, layer.index, blob.name).detach().to("cpu", torch.float32).numpy()
        writer.write(layer, blob.name, values)
    writer.finish()


def initialise(network: Network, seed: int) -> None:
    """Draws weights as darknet does: uniform within ±sqrt(2/(k²·c/groups)), γ = 1, β = 0, μ = 0.

    Other than in darknet the running variance starts at 1: darknet's 0 would multiply by 316 in every layer that is
    looked at before it was trained. A seed gives the same weights on any device.

    Raises:
        TrainingError: the network is fused.
    """
    if network.fused:
        raise TrainingError("a network whose batch normalisation is folded into its weights cannot start afresh")
    generator = torch.Generator().manual_seed(seed)
    for module in network.layers:
        assert isinstance(module, LayerModule)
        module.reset(generator)


def _stored(network: Network) -> list[tuple[Layer, Blob]]:
    return [(layer, blob) for layer in network.graph for blob in layer.stored]


def _refuse_fused(network: Network) -> None:
    if network.fused:
        raise WeightsError("the network's batch normalisation is folded into its weights: they do not fit its cfg now")
