"""Pruning inside a run: step by step, while the network learns (Yin et al., ICCAI 2020, doi 10.1145/3404555.3404612).

Each phase chooses its channels as `darkprune prune` does, on the weights of that moment, and lets them fade: their γ
(or filters, where there is no batch normalisation) shrink to 0 over the phase's steps. What is left of a channel then
is the constant act(β), which the cut at the end of the phase folds into the consumers, so that the loss does not jump;
every step after it is cheaper.

The removed share rises between two epochs, by default as 1 − (1 − t)³: fast at first, slowly towards the end (Zhu &
Gupta, *To prune, or not to prune*, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Tensor

from darkprune.errors import PlanError, UsageError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import Graph
from darkprune.graph.stats import count
from darkprune.layers import Role
from darkprune.network import Network, tensor_of
from darkprune.selection.budget import HIGHEST, Place, bisection
from darkprune.selection.decide import Ranking, decide, rank
from darkprune.surgery.apply import Cut
from darkprune.surgery.plan import Plan
from darkprune.surgery.plan_file import parse_plan
from darkprune.surgery.surgery import Surgery
from darkprune.training.gradual.slimming import as_weights
from darkprune.training.loop.checkpoint import State
from darkprune.training.loop.distributed import Ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.settings import GradualSettings

BISECTIONS = 20
#: name -> share of the channels to remove that is removed at a time t, from 0 to 1
SCHEDULES: dict[str, Callable[[float], float]] = {"cubic": lambda t: 1 - (1 - t) ** 3, "linear": lambda t: t}
#: defaults: begin and end as shares of the run, and the number of cuts
FROM, UNTIL, CUTS = 0.1, 0.6, 10


@dataclass(frozen=True)
class Phase:
    """One cut, and the steps that lead to it.

    Attributes:
        marked: the channels to go are chosen after this step, and masked little by little from there on.
        cut: they are gone after this step.
        remaining: what is left then, as a fraction of the original.
    """

    marked: int
    cut: int
    remaining: float


def make_timetable(settings: GradualSettings, epoch_steps: int, steps: int) -> tuple[Phase, ...]:
    """Turns the epochs of settings with a `prune_to` into steps.

    Returns:
        The phases; each begins where the one before ends, and less remains after each.

    Raises:
        UsageError: epochs after the end of the run, or in the wrong order.
    """
    epochs = steps / epoch_steps
    start = FROM * epochs if settings.prune_from is None else settings.prune_from
    until = max(start, UNTIL * epochs) if settings.prune_until is None else settings.prune_until
    first, last = round(start * epoch_steps), round(until * epoch_steps)
    if not last > first:
        raise UsageError(f"--prune-until {until:g} must be after --prune-from {start:g}")
    if last > steps:
        raise UsageError(f"--prune-until {until:g}: the run has {epochs:.3g} epochs of {epoch_steps} steps")
    way = last - first
    each = way / CUTS if settings.prune_every is None else settings.prune_every * epoch_steps
    count = min(way, max(1, math.floor(way / each + 1e-9)))
    bounds = [first + round(way * number / count) for number in range(count + 1)]
    remaining, schedule = settings.prune_to or 1.0, SCHEDULES[settings.prune_schedule]
    shares = [*(1 - (1 - remaining) * schedule(number / count) for number in range(count)), remaining]
    return tuple(Phase(*pair, share) for pair, share in zip(pairwise(bounds), shares[1:], strict=True))


class GradualPruning(Hook):
    """Prunes a network between two epochs.

    Attributes:
        cuts: step and size of the network after every cut so far.
    """

    name = "pruning"
    columns = ("macs", "params")
    slims = True

    def __init__(self, network: Network, settings: GradualSettings, phases: tuple[Phase, ...], ranks: Ranks) -> None:
        """Prepares.

        Args:
            network: as it is at the start of the run.
            ranks: processes; the first one chooses.

        Raises:
            PlanError: with every layer at its floor more would remain than is asked for.
            UsageError: settings that this network does not allow.
        """
        self.network = network
        self.settings = settings
        self.phases = phases
        self.ranks = ranks
        self.whole = size_of(network.graph, settings.prune_of)
        self.cuts: list[dict[str, int]] = []
        self._plan: Plan | None = None
        self._fading: list[tuple[Tensor, Tensor]] = []
        if ranks.first:
            self._check_floors()

    @property
    def identity(self) -> dict[str, object]:
        """What makes a run this one, as plain values."""
        phases = [[phase.marked, phase.cut, phase.remaining] for phase in self.phases]
        chosen = self.settings.prune_settings(0).described()
        return {"of": self.settings.prune_of, "stages": phases, "prune": chosen}

    def before_step(self, step: int) -> None:
        """Chooses the channels of a phase when it begins."""
        phase = self._phase(step)
        if phase is not None and self._plan is None:
            text = self._choose(phase).dumps() if self.ranks.first else ""
            self._mask(parse_plan(self.ranks.share(text)))

    @torch.no_grad()
    def after_step(self, step: int, rate: float) -> None:
        """Lets the chosen channels fade: evenly, to 0 at the last step of the phase."""
        phase = self._phase(step)
        if phase is None:
            return
        left = phase.cut - step
        for tensor, removed in self._fading:
            tensor[removed] *= left / (left + 1)

    def cut_after(self, step: int) -> Cut | None:
        """Returns the cut that is due after a step."""
        phase, plan = self._phase(step), self._plan
        if phase is None or plan is None or step < phase.cut:
            return None
        self._plan, self._fading = None, []
        if not plan.layers:
            return None
        channels = map_channels(self.network.graph)
        keep, carriers = plan.classes(channels)
        chosen = self.settings.prune_settings(0)
        return Cut(channels, keep, carriers, chosen.compensate, chosen.constant)

    def use(self, network: Network, cut: Cut | None = None) -> None:
        """Continues with the slim network."""
        self.network = network

    def after_cut(self, step: int) -> str:
        """Records a cut; returns a line for the user."""
        graph = self.network.graph
        self.cuts.append({"step": step, "macs": graph.macs, "params": graph.params})
        return (
            f"step {step}: pruned to {count(graph.macs)} MACs, {count(graph.params)} parameters "
            f"({self._share():.1f} % of {self.settings.prune_of}, goal {100 * self.phases[-1].remaining:.0f} %)"
        )

    def figures(self) -> dict[str, float]:
        """Returns the network's size."""
        return {"macs": float(self.network.graph.macs), "params": float(self.network.graph.params)}

    def status(self) -> str:
        """Returns how much is left."""
        return f"{self._share():.0f} % of {self.settings.prune_of}"

    def state_dict(self) -> State:
        """Returns the channels that fade now, and the cuts so far."""
        return {"plan": self._plan.dumps() if self._plan is not None else None, "cuts": list(self.cuts)}

    def load_state_dict(self, state: State) -> None:
        """Restores them; the network has been slimmed before."""
        self.cuts = list(state["cuts"])
        self._plan, self._fading = None, []
        if state["plan"] is not None:
            self._mask(parse_plan(state["plan"]))

    def _phase(self, step: int) -> Phase | None:
        return next((phase for phase in self.phases if phase.marked < step <= phase.cut), None)

    def _share(self) -> float:
        return 100 * size_of(self.network.graph, self.settings.prune_of) / self.whole

    def _choose(self, phase: Phase) -> Plan:
        """Finds the ratio that leaves what is nearest to a phase's share, by bisection."""
        ranking = self._rank()
        target, of = phase.remaining * self.whole, self.settings.prune_of

        def left_at(ratio: float) -> float:
            return size_of(self._decide(ranking, ratio).graph, of)

        ends = Place(0.0, self.whole), Place(HIGHEST, 0.0)
        tried = islice(bisection(left_at, target, *ends), BISECTIONS)
        nearest = min(tried, key=lambda place: abs(place.left - target))
        return self._decide(ranking, nearest.at).plan

    def _rank(self) -> Ranking:
        with as_weights(self.network.graph, self.network.state_dict()) as weights:
            return rank(weights, self.settings.prune_settings(0))

    def _decide(self, ranking: Ranking, ratio: float) -> Surgery:
        return decide(ranking, self.settings.prune_settings(ratio))

    def _check_floors(self) -> None:
        least = size_of(self._decide(self._rank(), HIGHEST).graph, self.settings.prune_of)
        if least > self.phases[-1].remaining * self.whole:
            raise PlanError(
                f"--prune-to {self.phases[-1].remaining:g} cannot be met: with every layer at its floor "
                f"{least / self.whole:.3f} of the {self.settings.prune_of} remain; lower --prune-min-channels, or "
                "give more"
            )

    def _mask(self, plan: Plan) -> None:
        """Takes a plan, and finds the values that fade."""
        self._plan, self._fading = plan, []
        for index, (width, kept, _) in plan.layers.items():
            blobs = {blob.name: blob for blob in self.network.graph[index].blobs}
            name = "scales" if "scales" in blobs else "weights"
            if name in blobs and blobs[name].axes[0][0] is Role.OUT:  # others are cut as they are
                tensor = tensor_of(self.network, index, name)
                removed = np.setdiff1d(np.arange(width), kept)
                self._fading.append((tensor, torch.from_numpy(removed).to(tensor.device)))


def size_of(graph: Graph, quantity: str) -> int:
    """Returns multiply-adds, stored floats, or the sum of the convolutions' widths."""
    if quantity == "channels":
        return sum(layer.output.c for layer in graph if layer.name in ("convolutional", "connected"))
    return graph.macs if quantity == "macs" else graph.params
