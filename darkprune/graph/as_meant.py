"""The same network with the activation that was meant where its cfg has a name that darknet does not know."""

from __future__ import annotations

from darkprune.darknet.cfg import without_comment
from darkprune.errors import UsageError
from darkprune.graph.graph import Graph, build_graph
from darkprune.layers import activations


def with_activation(graph: Graph, name: str | None) -> Graph:
    """Returns the network with an activation in place of those that darknet does not know (`silu`), and takes for ReLU.

    Args:
        name: darknet's name of what was meant (`swish`); None leaves the network as darknet reads it.

    Raises:
        UsageError: darknet knows every activation of the network.
    """
    if name is None:
        return graph
    unknown = {}
    for number, section in enumerate(graph.cfg.sections):
        option = section.find("activation")
        if option is not None and without_comment(option.value or "") not in activations.NAMES:
            unknown[number, "activation"] = name
    if not unknown:
        raise UsageError(f"--as {name}: darknet knows every activation of {graph.cfg.source}; leave out --as")
    return build_graph(graph.cfg.with_values(unknown))
