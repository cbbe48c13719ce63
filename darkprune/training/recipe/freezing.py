"""Which layers learn when: `stopbackward`, `train_only_bn`, `dont_update`, `burnin_update`, `--freeze` and others."""

from __future__ import annotations

from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.network import Network


class Freezing:
    """Marks which layers of a network learn.

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
        self._freeze, self._frozen_bn = freeze, frozen_bn
        self._learn_from = _first_steps(graph, freeze, burn_in)
        self._held: frozenset[int] | None = None

    def apply(self, network: Network, step: int) -> None:
        """Marks what learns at a step; call after `network.train()`."""
        held = frozenset(index for index, first in enumerate(self._learn_from) if first is None or step < first)
        for index, module in enumerate(network.layers):
            normalises = any(True for _ in module.buffers(recurse=False))  # the running statistics
            if index < self._freeze or (self._frozen_bn and normalises):
                module.eval()
        if held == self._held:
            return
        self._held = held
        for index, module in enumerate(network.layers):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(index not in held)
                if index in held:
                    parameter.grad = None


def _first_steps(graph: Graph, freeze: int, burn_in: int) -> list[int | None]:
    """Returns the step (1 is the first) from which each layer learns; None for never."""
    found: list[int | None] = []
    later: int | None = 0  # what the later layers demand: learn from this step on
    for layer in reversed(graph.layers):
        options = graph.options(layer)
        stop = options.int("stopbackward")
        if options.flag("train_only_bn") or stop == 1:
            later = None
        elif stop > 1 and later is not None:
            later = max(later, stop + 1)
        if later is None or options.flag("onlyforward") or layer.index < freeze:
            found.append(None)
        else:
            found.append(max(later, options.int("dont_update") + 1, options.int("burnin_update") * burn_in))
    return found[::-1]
