"""What a run starts from: the device, and the network with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from darkprune.darknet.weights import WeightsFile
from darkprune.errors import TrainingError, UsageError, WeightsError
from darkprune.graph.classes import with_classes
from darkprune.graph.graph import Graph
from darkprune.graph.partial import classes_of_weights, layers_held
from darkprune.graph.weights import NetworkWeights, broken_tensors, stored_tensors
from darkprune.layers.heads import Head
from darkprune.network import Network, initialise, load_weights, tensor_of


def choose_device(text: str, local: int = 0) -> torch.device:
    """Returns the device to train on.

    Raises:
        UsageError: it does not exist here.
    """
    if text == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(text)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {text[:40]}: {(str(error).splitlines() or ['?'])[0][:100]}") from None
    return device


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights that a run starts from; fresh ones where no file is given.

    Attributes:
        weights: a whole file.
        graph: the network that `weights` belongs to, where it has other heads than the one that is trained: layers of
            other shapes start fresh.
        backbone: a file of the first layers alone (`darknet partial`, such as yolov4.conv.137); the others are fresh.
        seed: of fresh weights.
    """

    weights: Path | None = None
    graph: Graph | None = None
    backbone: Path | None = None
    seed: int = 0


def open_network(graph: Graph, start: Start, device: torch.device) -> Network:
    """Makes a network with the weights that a run starts from.

    Raises:
        WeightsError: a file does not fit.
        TrainingError: a layer that cannot be trained here, or weights that are no numbers.
    """
    network = Network(graph, channels_last=device.type == "cuda" and graph.net.input.is_map)
    initialise(network, start.seed)  # also what `dontload` keeps out of a file
    if start.weights is not None:
        with NetworkWeights(start.graph or graph, start.weights) as stored:
            if start.graph is None:
                load_weights(network, stored)
            else:
                _load_fitting(network, stored)
            bad = broken_tensors(stored)
        if bad:
            raise TrainingError(f"{start.weights}: {bad[0]}; training cannot start from it")
    elif start.backbone is not None:
        _load_backbone(network, start.backbone)
    return network.to(device)


def find_start(graph: Graph, weights: Path, stored: Graph, seed: int) -> Start:
    """Finds out what a weights file holds: the network, the same one for other classes, or its first layers.

    Args:
        stored: the network that the file should belong to; another than `graph` where this has other classes.

    Raises:
        WeightsError: it is none of these.
    """
    try:
        with NetworkWeights(stored, weights):
            return Start(weights=weights, graph=stored if stored is not graph else None, seed=seed)
    except WeightsError as error:
        classes = classes_of_weights(graph, weights)
        if classes is not None:
            return Start(weights=weights, graph=with_classes(graph, classes), seed=seed)
        try:
            layers_held(graph, weights)
        except WeightsError:
            raise error from None
        return Start(backbone=weights, seed=seed)


def fresh_warnings(graph: Graph, start: Start) -> list[str]:
    """Returns a warning where layers cannot start from the weights that were given."""
    if start.weights is not None and start.graph is not None:
        fresh = fresh_layers(graph, start.graph)
        classes = [head.kind.classes for head in start.graph.heads if isinstance(head.kind, Head)]
        if fresh:
            return [
                f"{start.weights}: is for {classes[-1]} classes; layers {', '.join(map(str, fresh))} before the heads "
                "start fresh, all others are taken over"
            ]
    elif start.backbone is not None and (held := layers_held(graph, start.backbone)) < len(graph):
        rest = f"layers {held} to {len(graph) - 1} start fresh"
        return [f"{start.backbone}: layers 0 to {held - 1} are taken over, {rest}"]
    return []


def fresh_layers(graph: Graph, stored: Graph) -> list[int]:
    """Returns the layers of a network whose tensors have other shapes than in a stored one with the same layers."""
    return [
        layer.index
        for layer, other in zip(graph, stored, strict=True)
        if [blob.shape for blob in layer.stored] != [blob.shape for blob in other.stored]
    ]


@torch.no_grad()
def _load_fitting(network: Network, stored: NetworkWeights) -> None:
    """Loads the layers whose tensors have the same shapes in both networks."""
    fresh = fresh_layers(network.graph, stored.graph)
    for layer in network.graph:
        for blob in layer.stored if layer.index not in fresh else ():
            values = torch.from_numpy(stored.read(layer, blob.name))
            tensor_of(network, layer.index, blob.name).copy_(values)


def _load_backbone(network: Network, path: Path) -> None:
    """Loads the layers that a partial file holds: it has to end where a layer ends."""
    held = layers_held(network.graph, path)
    tensors = stored_tensors(network.graph)
    with WeightsFile(path, tensors) as file, torch.no_grad():
        for layer, name, _ in tensors:
            if layer < held:
                tensor_of(network, layer, name).copy_(torch.from_numpy(file.read(layer, name)))
