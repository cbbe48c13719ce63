"""Why a weights file does not have the size that its cfg asks for."""

from __future__ import annotations

from pathlib import Path

from darkprune.darknet.weights import WeightsFile
from darkprune.graph.graph import Graph
from darkprune.graph.misread import ignored_keys
from darkprune.layers.heads import Head


def explain(graph: Graph, file: WeightsFile) -> str:
    """Returns which layer does not fit, and what may have happened."""
    place = f"{file.path}: {file.size} bytes, but {graph.cfg.source} needs {file.expected_size}"
    hint = _hint(graph, file)
    if file.size > file.expected_size:
        extra = file.size - file.expected_size
        return f"{place}: {extra} bytes are left after the last layer ({len(graph) - 1}); {hint}"
    for blob in file.blobs.values():
        end = blob.offset + 4 * blob.floats
        if end > file.size:
            layer = graph[blob.layer]
            found = max(0, file.size - blob.offset)
            return (
                f"{place}: layer {layer.index} ({layer.name}, line {layer.line}) needs {4 * blob.floats} bytes of "
                f"{blob.name}, {found} are left; {hint}"
            )
    raise AssertionError("the sizes differ")


def _hint(graph: Graph, file: WeightsFile) -> str:
    ignored = ignored_keys(graph.cfg)
    if ignored is not None:  # the likely cause, even where the size fits other classes by chance
        return ignored
    classes = fitting_classes(graph, file.size - file.expected_size)
    if classes is not None:
        return (
            f"it would fit classes={classes}: take the cfg that it was trained with, or let `darkprune train` take "
            "over all but the heads"
        )
    if file.size == file.header.size:
        return "it holds a header and no weights"
    cause = _not_loaded(graph, file) or _folded(graph, file)
    if cause:
        return cause
    starts = {blob.layer: blob.offset for blob in reversed(file.blobs.values())}
    if file.size in starts.values():
        last = max(layer for layer, start in starts.items() if start < file.size)
        return (
            f"it ends exactly after layer {last}: a cut-off file for pre-training "
            f"({Path(graph.cfg.source).stem}.conv.{last + 1}), which has no weights for the rest"
        )
    return "take the cfg and the weights of one and the same network"


def _not_loaded(graph: Graph, file: WeightsFile) -> str | None:
    """Returns a hint where the cfg leaves out tensors that the file may hold (`dontload`, `dontloadscales`)."""
    layers = [layer for layer in graph if layer.stored != layer.blobs]
    if not layers:
        return None
    left_out = 4 * sum(blob.count for layer in layers for blob in layer.blobs if blob not in layer.stored)
    names = ", ".join(str(layer.index) for layer in layers[:3]) + (", …" if len(layers) > 3 else "")
    text = f"dontload or dontloadscales keeps tensors of layers {names} out of the file"
    return f"{text}, but it holds them: delete that key" if file.size - file.expected_size == left_out else text


def _folded(graph: Graph, file: WeightsFile) -> str | None:
    """Returns a hint where the file is as much shorter as if batch normalisation was folded into the filters."""
    missing = 4 * sum(
        blob.count
        for layer in graph
        if layer.name == "convolutional"
        for blob in layer.stored
        if blob.name in ("scales", "rolling_mean", "rolling_variance")
    )
    if not missing or file.expected_size - file.size != missing:
        return None
    return (
        "it was saved after batch normalisation was folded into the filters: take the original, or delete "
        "batch_normalize=1 from the cfg"
    )


def fitting_classes(graph: Graph, excess: int) -> int | None:
    """Returns the number of classes with which the network would fill a file, if there is one.

    Args:
        excess: bytes that the file has beyond what the network needs; negative where it is too short.
    """
    heads = [layer for layer in graph.heads if layer.sources[0] >= 0]
    feeders = [graph[head.sources[0]] for head in heads]
    if not heads or any(feeder.name != "convolutional" for feeder in feeders):
        return None
    kinds = [head.kind for head in heads if isinstance(head.kind, Head)]
    per_class = 4 * sum(
        len(kind.anchors) * feeder.params // feeder.output.c for kind, feeder in zip(kinds, feeders, strict=True)
    )
    classes = kinds[0].classes + excess // per_class
    return classes if excess % per_class == 0 and classes >= 1 else None
