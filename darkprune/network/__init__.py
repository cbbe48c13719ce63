"""Darknet graphs as torch modules: `Network`, its weights in and out, fresh weights.

network = Network(graph)
load_weights(network, weights)            # or initialise(network, seed=0)
output = network(images, taps={12, 30})   # .heads, .taps, .output
"""

from darkprune.network.blobs import load_weights, save_weights, tensor_of
from darkprune.network.init import initialise
from darkprune.network.modules import BN_MOMENTUM, LayerModule, head_activation
from darkprune.network.network import Network, NetworkOutput

__all__ = [
    "BN_MOMENTUM",
    "LayerModule",
    "Network",
    "NetworkOutput",
    "head_activation",
    "initialise",
    "load_weights",
    "save_weights",
    "tensor_of",
]
