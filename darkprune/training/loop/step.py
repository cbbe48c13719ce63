"""One step of training: gradients over the parts of a batch, and the change of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from darkprune.data.dataset import DataProblem
from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph
from darkprune.network import Network
from darkprune.surgery.apply import Cut
from darkprune.training.data.batches import Batch
from darkprune.training.gradual.slimming import cut_moments, cut_weights, slim_network
from darkprune.training.loop.checkpoint import State
from darkprune.training.loop.distributed import Ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.memory import advice, is_out_of_memory
from darkprune.training.loop.objective import Objective
from darkprune.training.recipe.ema import Ema
from darkprune.training.recipe.freezing import Freezing
from darkprune.training.recipe.optimizer import Optimizer, gradients
from darkprune.training.recipe.recipe import Recipe

_TORCH_STREAM = 4  #: stream of torch's own random numbers (dropout), see `batches`
NAMED_IMAGES = 6  #: images named in an error
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """What a step gave.

    Attributes:
        rate: learning rate.
        figures: of the objective.
        waited: seconds in which the network waited for data.
        asked: whether some process was asked to stop.
        unreadable: images that could not be read.
    """

    rate: float
    figures: dict[str, float]
    waited: float
    asked: bool
    unreadable: tuple[DataProblem, ...] = field(default=())


@dataclass(kw_only=True, eq=False)
class Stepper:
    """Does the steps of a run; holds everything that they change.

    Attributes:
        network: with its starting weights, on the device to train on; another one after every cut.
        objective: what to minimise.
        recipe: what decides the result.
        ranks: the processes that share the run.
        hooks: what else happens.
        paths: image files, to be named in errors.
        ema: the average of the weights.
    """

    network: Network
    objective: Objective
    recipe: Recipe
    ranks: Ranks = field(default_factory=Ranks)
    hooks: Sequence[Hook] = ()
    paths: Sequence[Path] = ()

    def __post_init__(self) -> None:
        self.device = self.network.device
        self._prepare(self.network)
        self.ema = Ema(self.network, self.recipe.ema)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.recipe.precision == "fp16" else None

    def cut(self, cut: Cut) -> None:
        """Removes channels from the network, its moments and its average."""
        self.ranks.average_statistics(self.network)  # the processes' constants have to be the same
        weights, before = cut_weights(cut, self.network.state_dict()), self.optimizer
        self.use(cut.slim, cut)
        self.network.load_state_dict(weights)
        self.optimizer.take_over(before, lambda values: cut_moments(cut, values))
        if self.ema.values:
            self.ema.take(cut_weights(cut, self.ema.values))

    def use(self, graph: Graph, cut: Cut | None = None) -> None:
        """Continues with a slim network, whose weights and moments are still to be set."""
        self._prepare(slim_network(self.network, graph))
        self.ema.network = self.network
        if cut is not None:
            self.objective.use(cut)
        for hook in self.hooks:
            hook.use(self.network, cut)

    def _prepare(self, network: Network) -> None:
        recipe = self.recipe
        self.network = network
        spare = any(hook.spares_batch_norm for hook in self.hooks)
        gamma_rate = math.prod(hook.gamma_rate for hook in self.hooks)
        self.optimizer = Optimizer(
            network, recipe.optimizer, recipe.batch, spare_batch_norm=spare, gamma_rate=gamma_rate
        )
        self.freezing = Freezing(network.graph, recipe.freeze, recipe.schedule.burn_in, recipe.frozen_bn)

    def train_from(self, step: int) -> None:
        """Puts the network into training as it is at a step (1 is the first)."""
        self.network.train()
        self.freezing.apply(self.network, step)

    def step(self, batches: Iterator[Batch], step: int, asked: Callable[[], bool]) -> Step:
        """Computes gradients and changes the weights.

        Args:
            batches: this process's parts, in order.
            step: from 1.
            asked: whether this process was asked to stop.

        Raises:
            TrainingError: the loss is no number any more, or memory ran out.
            DataError: images cannot be read.
        """
        recipe = self.recipe
        rate = recipe.schedule.at(step, recipe.seed)
        self.optimizer.set_rate(rate)
        self.freezing.apply(self.network, step)
        self.optimizer.zero_grad()
        waited = 0.0
        parts: list[tuple[Batch, Tensor]] = []
        for number in range(self.ranks.rank, recipe.parts, self.ranks.count):
            began = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - began
            torch.manual_seed(_torch_seed(recipe.seed, step, number))
            seen = (step - 1) * recipe.batch + (number + 1) * (recipe.batch // recipe.parts)
            parts.append((batch, self._part(batch, seen)))
        self.ranks.add_gradients(self.network)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer.inner)
        sums = torch.stack([found for _, found in parts]).sum(dim=0)
        flag = sums.new_tensor([float(asked())])
        totals = self.ranks.add(torch.cat([sums, flag])).tolist()
        if not np.isfinite(totals).all() or not self._gradients_finite():
            raise self._not_a_number(step, parts)
        for hook in self.hooks:
            hook.before_step(step)
        self.optimizer.step(self.scaler)
        if self.scaler is not None:
            self.scaler.update()
        for hook in self.hooks:
            hook.after_step(step, rate)
        self.ema.update(step)
        problems = tuple(problem for batch, _ in parts for problem in batch.problems)
        return Step(rate, self.objective.report(totals[:-1], recipe.batch), waited, totals[-1] > 0, problems)

    def state_dict(self) -> State:
        """Returns what the steps so far have made: tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "objective": self.objective.state_dict(),
            "hooks": {hook.name: hook.state_dict() for hook in self.hooks},
        }

    def load_state_dict(self, state: State) -> None:
        """Restores it."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.objective.load_state_dict(state["objective"])
        for hook in self.hooks:
            hook.load_state_dict(state["hooks"][hook.name])

    def _part(self, batch: Batch, seen: int) -> Tensor:
        """Runs one part forwards and backwards; returns its figures."""
        try:
            return self._forwards_and_backwards(batch, seen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # outside the handler: the traceback, and with it the part's maps, is freed before smaller parts are tried
        raise advice(self.network, self._forwards_and_backwards, self.recipe, self.ranks.count)

    def _forwards_and_backwards(self, batch: Batch, seen: int = 0) -> Tensor:
        images = batch.images(self.device)
        kind = _TYPES.get(self.recipe.precision)
        with torch.autocast(self.device.type, kind) if kind is not None else nullcontext():
            output = self.network(images, self.objective.taps)
            wanted = self.objective.teach(images)
        loss = self.objective.compute(output, batch, seen, wanted)
        value = loss.value / self.recipe.batch
        (value if self.scaler is None else self.scaler.scale(value)).backward()  # type: ignore[no-untyped-call]
        return loss.parts

    def _gradients_finite(self) -> bool:
        """Returns whether all gradients are finite; with fp16 the scaler skips steps that overflow."""
        if self.scaler is not None:
            return True
        norms = torch._foreach_norm(list(gradients(self.network)))
        return bool(torch.stack(list(norms)).isfinite().all()) if norms else True

    def _not_a_number(self, step: int, parts: Sequence[tuple[Batch, Tensor]]) -> TrainingError:
        """Returns an error that names the images."""
        bad = next((number for number, (_, found) in enumerate(parts) if not found.isfinite().all()), None)
        if bad is None:
            chosen = [batch for batch, _ in parts]
            where = f"the gradients of step {step}"
        else:
            chosen = [parts[bad][0]]
            where = (
                f"the loss of step {step}, part {self.ranks.rank + bad * self.ranks.count + 1} of {self.recipe.parts}"
            )
        paths = [str(self.paths[source]) for batch in chosen for source in batch.sources]
        more = f" and {len(paths) - NAMED_IMAGES} more" if len(paths) > NAMED_IMAGES else ""
        return TrainingError(
            f"{where} is not a number any more; its images: {', '.join(paths[:NAMED_IMAGES])}{more}. "
            f"Lower the learning rate (--lr) or lengthen --burn-in; an earlier state, if there is one, stays"
        )


def _torch_seed(seed: int, step: int, part: int) -> int:
    return int(np.random.SeedSequence([seed, _TORCH_STREAM, step, part]).generate_state(1, np.uint32)[0])
