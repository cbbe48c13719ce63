"""Darknet graphs as torch modules: `Network`, its weights in and out, fresh weights.

network = Network(graph)
load_weights(network, weights)            # or initialise(network, seed=0)
output = network(images, taps={12, 30})   # .heads, .taps, .output
"""

from darkprune.network.blobs import initialise, load_weights, save_weights, tensor_of
from darkprune.network.modules import BN_MOMENTUM, LayerModule
from darkprune.network.network import Network, NetworkOutput

__all__ = [
    "BN_MOMENTUM",
    "LayerModule",
    "Network",
    "NetworkOutput",
    "initialise",
    "load_weights",
    "save_weights",
    "tensor_of",
]
