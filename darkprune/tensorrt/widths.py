"""The same network with other widths, for comparing what TensorRT plans."""

from __future__ import annotations

from collections.abc import Callable

from darkprune.errors import DarkpruneError
from darkprune.graph.graph import Graph, build_graph
from darkprune.layers.convolution import Convolutional


def with_widths(graph: Graph, width: Callable[[int], int]) -> Graph | None:
    """Changes the widths of a network's convolutions: `width` gives the new number of channels by the old one.

    Coupled layers have equal widths, so they stay equal. What heads read, and the outputs of a classifier, stay as they
    are.

    Returns:
        The other network, which has no weights; the graph itself where nothing changes, None where the new widths do
        not fit together.
    """
    fixed = {source for head in graph.heads for source in head.sources} | set(graph.outputs)
    changes: dict[tuple[int, str], str] = {}
    for layer in graph:
        if isinstance(layer.kind, Convolutional) and layer.index not in fixed:
            new = width(layer.output.c)
            if new != layer.output.c:
                keys = ("filters", "groups") if layer.is_depthwise else ("filters",)
                changes |= {(layer.section, key): str(new) for key in keys}
    if not changes:
        return graph
    try:
        return build_graph(graph.cfg.with_values(changes))
    except DarkpruneError:
        return None


def rounded_up(graph: Graph, multiple: int) -> Graph | None:
    """Returns a network with every width rounded up to a multiple; see `with_widths`."""
    return with_widths(graph, lambda width: -(-width // multiple) * multiple)
