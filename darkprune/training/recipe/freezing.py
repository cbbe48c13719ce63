"""Which layers learn when: `stopbackward`, `train_only_bn`, `dont_update`, `burnin_update`, `--freeze` and others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.network import Network


@dataclass(frozen=True)
class LayerHold:
    """Why and how long one layer does not learn.

    Attributes:
        until: it learns from this step on (1 is the first); None never.
        statistics: whether its running statistics stay as they are, too.
    """

    until: int | None
    statistics: bool


class Freezing:
    """Applies a network's holds.

    In darknet a layer with `stopbackward=1` stops learning for itself and everything before it, a larger value until
    that step; `train_only_bn=1` leaves itself and everything before it with running statistics only. Both keep
    normalising by the batch. `freeze` is for fine-tuning: the first layers stay exactly as they are.

    With few images the statistics of a batch differ from those that the network is measured with: `frozen_bn`
    normalises by the running statistics and keeps them.
    """

    def __init__(self, graph: Graph, freeze: int, burn_in: int, frozen_bn: bool = False) -> None:
        """Reads the keys.

        Args:
            freeze: number of first layers to leave as they are.
            burn_in: of the schedule, for `burnin_update`.
            frozen_bn: normalise by running statistics everywhere, and keep them.

        Raises:
            UsageError: more layers than there are.
        """
        if not 0 <= freeze < len(graph):
            raise UsageError(f"--freeze {freeze}: the network has layers 0 to {len(graph) - 1}")
        self.graph = graph
        self.frozen_bn = frozen_bn
        self.holds = _holds(graph, freeze, burn_in)
        self._held: frozenset[int] | None = None

    def apply(self, network: Network, step: int) -> None:
        """Marks what learns at a step; call after `network.train()`."""
        held = frozenset(i for i, hold in enumerate(self.holds) if hold.until is None or step < hold.until)
        for index, hold in enumerate(self.holds):
            module = network.layers[index]
            normalises = any(True for _ in module.buffers(recurse=False))  # the running statistics
            if (hold.statistics and index in held) or (self.frozen_bn and normalises):
                module.eval()
        if held == self._held:
            return
        self._held = held
        for index, module in enumerate(network.layers):
            _set_learning(module, index not in held)


def _set_learning(module: nn.Module, learning: bool) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(learning)
        if not learning:
            parameter.grad = None


def _holds(graph: Graph, freeze: int, burn_in: int) -> tuple[LayerHold, ...]:
    holds: list[LayerHold] = []
    later: int | None = 0  # what the later layers demand: learn from this step on
    for layer in reversed(graph.layers):
        options = graph.options(layer)
        stop = options.int("stopbackward")
        if options.flag("train_only_bn") or stop == 1:
            later = None
        elif stop > 1 and later is not None:
            later = max(later, stop + 1)
        own = later
        if options.flag("onlyforward"):
            own = None
        if own is not None:
            own = max(own, options.int("dont_update") + 1, options.int("burnin_update") * burn_in)
        frozen = layer.index < freeze
        holds.append(LayerHold(None if frozen else own, frozen))
    return tuple(reversed(holds))
