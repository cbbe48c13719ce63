"""The classes of a network: the file of their names, and the same network for another number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from darkprune.darknet.input import read_file
from darkprune.errors import UsageError
from darkprune.graph.graph import Graph, build_graph
from darkprune.layers.heads import Head
from darkprune.settings import PathLike
from darkprune.zoo import folder

MAX_NAMES_BYTES = 16 << 20
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


def names_to_copy(graph: Graph, given: PathLike | None = None, names: Sequence[str] = ()) -> bytes | None:
    """Returns the content of the names file that belongs beside what is made of a network; None where there is none.

    Args:
        graph: the network, whose own file is taken last.
        given: a names file.
        names: those of a data set, taken where no file is given.

    Raises:
        DataError: the file cannot be read.
    """
    if given is None and names:
        return "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
    file = Path(given) if given is not None else names_file(graph)
    return None if file is None else read_file(file, MAX_NAMES_BYTES, "a names file")


def with_classes(graph: Graph, classes: int | None) -> Graph:
    """Returns the network with detection heads for a number of classes; None keeps its own.

    Only the values of `classes` in every head and of `filters` in the convolution before it change.

    Raises:
        UsageError: there is no detection head, or no convolution before one.
        CfgError: a value that fits the old number of classes alone, such as `counters_per_class`.
    """
    if classes is None:
        return graph
    if not graph.heads:
        raise UsageError(f"--classes {classes}: {graph.cfg.source} has no detection head")
    changes: dict[tuple[int, str], str] = {}
    for head in graph.heads:
        before = graph[head.sources[0]]
        if before.name != "convolutional" or graph.consumers[before.index] != (head.index,):
            raise UsageError(
                f"--classes {classes}: [{head.name}] in line {head.line} does not read a convolution of its own; "
                "change classes= and filters= by hand"
            )
        kind = cast(Head, replace(cast(Any, head.kind), classes=classes))
        changes[head.index + 1, "classes"] = str(classes)
        changes[before.index + 1, "filters"] = str(kind.channels)
    return build_graph(graph.cfg.with_values(changes))
