"""Pairs as networks that are ready to run."""

from __future__ import annotations

import torch

from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network, load_weights


def load_network(graph: Graph, weights: NetworkWeights, device: torch.device) -> Network:
    """Makes a network of a pair, ready for inference."""
    network = Network(graph, device)
    load_weights(network, weights)
    return network.eval().requires_grad_(False)
