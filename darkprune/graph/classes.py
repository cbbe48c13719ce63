"""The same network for another number of classes: its heads, and the convolutions before them, rewritten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from darkprune.errors import UsageError
from darkprune.graph.graph import Graph, build_graph
from darkprune.layers.heads import Head


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
