"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkprune.data.dataset import DataProblem
from darkprune.errors import TrainingError
from darkprune.network import Network
from darkprune.training.batches import Batch, BatchLoader
from darkprune.training.checkpoint import RunFolder, differences
from darkprune.training.curves import Board, draw_curves
from darkprune.training.distributed import Ranks
from darkprune.training.ema import Ema
from darkprune.training.freezing import Freezing
from darkprune.training.hooks import Hook, join_status
from darkprune.training.interruption import Interruption
from darkprune.training.log import Log
from darkprune.training.memory import advice, is_out_of_memory
from darkprune.training.objective import Objective
from darkprune.training.optimizer import Optimizer, gradients
from darkprune.training.progress import Progress
from darkprune.training.recipe import Recipe
from darkprune.training.validation import Validation

_TORCH_STREAM = 4  #: stream of torch's own random numbers (dropout), see `batches`
NAMED_IMAGES = 6  #: images named in an error
SECONDS_BETWEEN_PICTURES = 60.0
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes its result.

    Attributes:
        folder: where its files go.
        save_every: steps between states and `last` weights.
        keep_every: steps between weights that stay.
        eval_every: steps between measurements on the validation set.
        resume: go on with the run in the folder.
        board: write TensorBoard events where it is installed.
        quiet: show nothing.
    """

    folder: RunFolder
    save_every: int = 100
    keep_every: int = 1000
    eval_every: int = 100
    resume: bool = False
    board: bool = True
    quiet: bool = False


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        steps: steps done.
        stopped: whether it was interrupted before its end.
        best: highest mAP@0.5 and its step; −1 where nothing was measured.
        best_step: see `best`.
        figures: of the last step.
        map50: of the last measurement.
        seconds: time taken, and of that for waiting for data.
        waited: see `seconds`.
        images: examples trained on.
        unreadable: images that could not be read.
    """

    steps: int = 0
    stopped: bool = False
    best: float = -1.0
    best_step: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    map50: float | None = None
    seconds: float = 0.0
    waited: float = 0.0
    images: int = 0
    unreadable: dict[str, DataProblem] = field(default_factory=dict)


class Trainer:
    """Trains a network."""

    def __init__(
        self,
        network: Network,
        objective: Objective,
        loader: BatchLoader,
        recipe: Recipe,
        options: RunOptions,
        *,
        ranks: Ranks | None = None,
        validation: Validation | None = None,
        hooks: Sequence[Hook] = (),
        identity: dict[str, Any] | None = None,
        sparse: bool = False,
    ) -> None:
        """Puts the parts together.

        Args:
            network: with its starting weights, on the device to train on.
            objective: what to minimise.
            loader: gives the batches.
            recipe: what decides the result.
            options: how it is carried out.
            ranks: the processes that share the run.
            validation: the set to measure on.
            hooks: what else happens.
            identity: what the run was started with (hashes of cfg, data, …), so that no other one goes on with it.
            sparse: γ and β take no decay, whatever the optimiser.
        """
        self.network = network
        self.objective = objective
        self.loader = loader
        self.recipe = recipe
        self.options = options
        self.ranks = ranks or Ranks()
        self.validation = validation
        self.hooks = tuple(hooks)
        self.identity = {**(identity or {}), "recipe": recipe.to_plain()}
        self.device = next(network.parameters()).device
        self.optimizer = Optimizer(network, recipe.optimizer, recipe.batch, spare_batch_norm=sparse)
        self.ema = Ema(network, recipe.ema)
        self.freezing = Freezing(network.graph, recipe.freeze, recipe.schedule.burn_in)
        self.scaler = torch.amp.GradScaler(self.device.type) if recipe.precision == "fp16" else None
        self.outcome = Outcome()
        self._drawn_at = time.monotonic()

    def run(self) -> Outcome:
        """Trains to the end, or until interrupted.

        Raises:
            TrainingError: the loss is no number any more, memory ran out, the folder's run is another one.
            DataError: images cannot be read.
            OutputError: files cannot be written.
        """
        recipe, outcome = self.recipe, self.outcome
        outcome.steps = self._restore() if self.options.resume else 0
        progress = Progress(recipe.steps, recipe.epoch_steps, self.options.quiet or not self.ranks.first)
        columns = ("rate", *self.objective.columns, *(c for hook in self.hooks for c in hook.columns))
        log = board = None
        if self.ranks.first:
            folder = self.options.folder.folder
            log = Log(folder / "log.csv", (*columns, "images_per_s", "wait", "map50"), outcome.steps)
            board = Board(folder / "tensorboard" if self.options.board else None, outcome.steps)
        self.network.train()
        batches = self.loader.start(outcome.steps)
        try:
            with Interruption() as interruption:
                while outcome.steps < recipe.steps and not outcome.stopped:
                    self._one_step(batches, progress, log, board, interruption)
        finally:
            batches.close()  # ends the workers
            progress.finish()
            if log is not None and board is not None:
                log.close()
                board.close()
        self._finish()
        return outcome

    def _one_step(
        self,
        batches: Generator[Batch],
        progress: Progress,
        log: Log | None,
        board: Board | None,
        interruption: Interruption,
    ) -> None:
        """Does a step and all that falls due behind it."""
        recipe, outcome = self.recipe, self.outcome
        step = outcome.steps + 1
        started = time.monotonic()
        rate = recipe.schedule.at(step, recipe.seed)
        self.optimizer.set_rate(rate)
        self.freezing.apply(self.network, step)
        figures, waited, stop = self._learn(batches, step, interruption)
        outcome.steps, outcome.figures = step, figures
        outcome.stopped = stop and step < recipe.steps
        seconds = time.monotonic() - started
        outcome.seconds += seconds
        outcome.waited += waited
        outcome.images += recipe.batch
        if step % recipe.epoch_steps == 0 or step == recipe.steps:
            for hook in self.hooks:
                hook.after_epoch(-(-step // recipe.epoch_steps))
        row: dict[str, float | None] = {"rate": rate, **figures}
        for hook in self.hooks:
            row.update(hook.figures())
        row.update({"images_per_s": recipe.batch / seconds, "wait": waited / seconds})
        progress.update(step, figures, rate, seconds, recipe.batch, waited / seconds, join_status(self.hooks))
        if self.validation is not None and (step % self.options.eval_every == 0 or step == recipe.steps):
            row["map50"] = self._measure(progress)
        if log is not None and board is not None:
            log.add(step, row)
            board.add(step, row)
        if step % self.options.save_every == 0 or step == recipe.steps or outcome.stopped:
            self._save(log)
        if self.ranks.first and step % self.options.keep_every == 0:
            self._write_weights(str(step))

    def _learn(
        self, batches: Generator[Batch], step: int, interruption: Interruption
    ) -> tuple[dict[str, float], float, bool]:
        """Computes gradients and changes the weights.

        Returns:
            The objective's figures, seconds waited for data, whether to stop.
        """
        recipe = self.recipe
        self.optimizer.zero_grad()
        waited = 0.0
        parts: list[tuple[Batch, Tensor]] = []
        for number in range(self.ranks.rank, recipe.parts, self.ranks.count):
            began = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - began
            for problem in batch.problems:
                self.outcome.unreadable.setdefault(str(problem.file), problem)
            torch.manual_seed(_torch_seed(recipe.seed, step, number))
            seen = (step - 1) * recipe.batch + (number + 1) * (recipe.batch // recipe.parts)
            parts.append((batch, self._part(batch, seen)))
        self.ranks.add_gradients(self.network)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer.inner)
        sums = torch.stack([found for _, found in parts]).sum(dim=0)
        flag = sums.new_tensor([float(interruption.asked)])
        totals = self.ranks.add(torch.cat([sums, flag])).tolist()
        if not np.isfinite(totals).all() or not self._gradients_finite():
            raise self._not_a_number(step, parts)
        for hook in self.hooks:
            hook.before_step(step)
        self.optimizer.step(self.scaler)
        if self.scaler is not None:
            self.scaler.update()
        self.ema.update(step)
        return self.objective.report(totals[:-1], recipe.batch), waited, totals[-1] > 0

    def _part(self, batch: Batch, seen: int) -> Tensor:
        """Runs one part forwards and backwards; returns its figures."""
        try:
            images = batch.images(self.device)
            kind = _TYPES.get(self.recipe.precision)
            with torch.autocast(self.device.type, kind) if kind is not None else nullcontext():
                output = self.network(images, self.objective.taps)
            loss = self.objective.compute(images, output, batch, seen)
            value = loss.value / self.recipe.batch
            (value if self.scaler is None else self.scaler.scale(value)).backward()  # type: ignore[no-untyped-call]
            return loss.parts
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        raise advice(self.network, self.objective, self.recipe, self.device, self.ranks.count)

    def _gradients_finite(self) -> bool:
        """Looks at the gradients; with fp16 some steps overflow, which the scaler deals with."""
        if self.scaler is not None:
            return True
        norms = torch._foreach_norm(list(gradients(self.network)))
        return bool(torch.stack(list(norms)).isfinite().all()) if norms else True

    def _not_a_number(self, step: int, parts: Sequence[tuple[Batch, Tensor]]) -> TrainingError:
        """Says which images made the loss lose its value."""
        bad = next((number for number, (_, found) in enumerate(parts) if not found.isfinite().all()), None)
        if bad is None:
            chosen = [batch for batch, _ in parts]
            where = f"the gradients of step {step}"
        else:
            chosen = [parts[bad][0]]
            where = (
                f"the loss of step {step}, part {self.ranks.rank + bad * self.ranks.count + 1} of {self.recipe.parts}"
            )
        paths = [str(self.loader.maker.images.paths[source]) for batch in chosen for source in batch.sources]
        more = f" and {len(paths) - NAMED_IMAGES} more" if len(paths) > NAMED_IMAGES else ""
        state = self.options.folder.state
        last = f"; the last good state is {state}" if state.is_file() else ""
        return TrainingError(
            f"{where} is not a number any more; its images: {', '.join(paths[:NAMED_IMAGES])}{more}. "
            f"Lower the learning rate (--lr), or lengthen --burn-in{last}"
        )

    def _measure(self, progress: Progress) -> float:
        """Measures on the validation set, in the first process, and keeps the best weights."""
        self.ranks.average_statistics(self.network)
        value = 0.0
        if self.ranks.first and self.validation is not None:
            with self.ema.in_place():
                value = self.validation.measure(self.network).map50
                if value >= self.outcome.best:
                    self._write("best")
            self._draw()
        value = self.ranks.share(value)
        if value >= self.outcome.best:
            self.outcome.best, self.outcome.best_step = value, self.outcome.steps
        self.outcome.map50 = value
        progress.say(
            f"step {self.outcome.steps}: mAP@0.5 {100 * value:.2f} %, "
            f"best {100 * self.outcome.best:.2f} % at step {self.outcome.best_step}"
        )
        self.network.train()
        self.freezing.apply(self.network, self.outcome.steps)
        return value

    def _save(self, log: Log | None) -> None:
        """Writes `last` weights and the state."""
        self.ranks.average_statistics(self.network)
        if log is not None:
            log.sync()
            self._write("last")
            self.options.folder.write_state(self._state())
        self.ranks.wait()

    def _write(self, kind: str) -> None:
        self.options.folder.write_weights(self.network, kind, self.outcome.steps * self.recipe.batch)

    def _write_weights(self, kind: str) -> None:
        """Writes weights that are meant to be used: the average where there is one."""
        with self.ema.in_place():
            self._write(kind)

    def _finish(self) -> None:
        if self.ranks.first:
            if self.outcome.steps >= self.recipe.steps:
                self._write_weights("final")
            self._draw(always=True)

    def _draw(self, always: bool = False) -> None:
        """Draws the pictures, not too often."""
        if not always and time.monotonic() - self._drawn_at < SECONDS_BETWEEN_PICTURES:
            return
        self._drawn_at = time.monotonic()
        folder = self.options.folder.folder
        draw_curves(folder / "log.csv", folder / "curves.png", (*self.objective.columns, "map50", "rate"))
        for hook in self.hooks:
            hook.draw()

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.outcome.steps,
            "best": self.outcome.best,
            "best_step": self.outcome.best_step,
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "hooks": {hook.name: hook.state_dict() for hook in self.hooks},
        }

    def _restore(self) -> int:
        """Takes up the run in the folder; returns the steps that it has done."""
        state = self.options.folder.read_state()
        changed = differences(state["identity"], self.identity)
        if changed:
            raise TrainingError(
                f"{self.options.folder.state}: belongs to a run with other settings; {'; '.join(changed[:4])}. "
                "Give the same settings to go on, or start anew with --overwrite"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        for hook in self.hooks:
            hook.load_state_dict(state["hooks"][hook.name])
        self.outcome.best, self.outcome.best_step = state["best"], state["best_step"]
        return int(state["step"])


def _torch_seed(seed: int, step: int, part: int) -> int:
    return int(np.random.SeedSequence([seed, _TORCH_STREAM, step, part]).generate_state(1, np.uint32)[0])
