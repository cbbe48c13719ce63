"""Pairs as networks that are ready to run, and images as what they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from darkprune.data.images import Planes
from darkprune.data.samples import Sample
from darkprune.graph.weights import TensorSource
from darkprune.network.blobs import load_weights
from darkprune.network.network import Network


def default_device() -> torch.device:
    """Returns the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_network(weights: TensorSource, device: torch.device | None = None) -> Network:
    """Makes a network of an open pair, in eval mode and without gradients, by default on `default_device`."""
    network = Network(weights.graph, device or default_device())
    load_weights(network, weights)
    return network.eval().requires_grad_(False)


def batches_for(network: Network, sample: Sample) -> Iterator[Tensor]:
    """Yields the images of a sample in batches, (b, c, h, w) float32, on the network's device."""
    for images in sample.batches():
        yield torch.from_numpy(images).to(network.device)


def run_of(network: Network) -> Callable[[Planes], list[Planes]]:
    """Returns a network as a function of images that computes the maps which its heads read (or its output)."""

    def run(images: Planes) -> list[Planes]:
        with torch.inference_mode():
            output = network(torch.from_numpy(images).to(network.device))
        maps = [output.heads[layer.index] for layer in network.graph.heads] or [output.output]
        return [values.to("cpu", torch.float32).numpy() for values in maps]

    return run
