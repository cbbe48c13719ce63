"""The names of a network's classes: given, beside its cfg, or those that come with darkprune."""

from __future__ import annotations

from pathlib import Path

from darkprune.data.darknet_data import read_names
from darkprune.graph.graph import Graph
from darkprune.layers.heads import Head
from darkprune.settings import PathLike
from darkprune.zoo import folder

#: classes of darkprune's own networks -> the file in `cfg/`
_OWN = {80: "coco.names", 20: "voc.names"}


def names_file(graph: Graph) -> Path | None:
    """Finds the names that belong to a network: beside its cfg, or darkprune's own for its own networks."""
    cfg = Path(graph.cfg.source)
    beside = cfg.with_suffix(".names")
    if beside.is_file():
        return beside
    counts = {layer.kind.classes for layer in graph.heads if isinstance(layer.kind, Head)}
    if cfg.parent == folder("cfg") and len(counts) == 1 and counts <= set(_OWN):
        return cfg.with_name(_OWN[counts.pop()])
    return None


def class_names(given: PathLike | None, graph: Graph) -> tuple[str, ...]:
    """Returns the names in a given file, else those that belong to the network; nothing where there are none.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    path = Path(given) if given else names_file(graph)
    return read_names(path)[0] if path is not None else ()
