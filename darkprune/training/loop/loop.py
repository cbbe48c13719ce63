"""The training loop: step after step, with measurements, files and an end that can be taken up again."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import OutputError, TrainingError
from darkprune.graph.graph import build_graph
from darkprune.network import Network
from darkprune.training.data.batches import Batch, BatchLoader, died
from darkprune.training.loop.checkpoint import differences
from darkprune.training.loop.distributed import Ranks
from darkprune.training.loop.hooks import Hook, join_status
from darkprune.training.loop.interruption import Interruption
from darkprune.training.loop.objective import Objective
from darkprune.training.loop.outcome import Outcome, RunOptions
from darkprune.training.loop.step import Stepper
from darkprune.training.loop.validation import Measure
from darkprune.training.recipe.recipe import Recipe
from darkprune.training.records.curves import Board, draw_curves
from darkprune.training.records.log import Log
from darkprune.training.records.progress import Progress

SECONDS_BETWEEN_PICTURES = 60.0


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
        validation: Measure | None = None,
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
        self.objective = objective
        self.loader = loader
        self.recipe = recipe
        self.options = options
        self.ranks = ranks or Ranks()
        self.validation = validation
        self.measured = validation.column if validation is not None else "map50"
        self.hooks = tuple(hooks)
        self.identity = {**(identity or {}), "recipe": recipe.to_plain()}
        paths = loader.maker.images.paths
        self.stepper = Stepper(network, objective, recipe, self.ranks, self.hooks, paths, sparse)
        self.outcome = Outcome()
        self._drawn_at = time.monotonic()

    @property
    def network(self) -> Network:
        """The network in training: another one behind every cut."""
        return self.stepper.network

    def run(self) -> Outcome:
        """Trains to the end, or until interrupted.

        Raises:
            TrainingError: the loss is no number any more, memory ran out, the folder's run is another one.
            DataError: images cannot be read.
            OutputError: files cannot be written.
        """
        recipe, outcome = self.recipe, self.outcome
        outcome.steps = self._restore() if self.options.resume else 0
        if self.ranks.first:
            self._write_pair()
        progress = Progress(recipe.steps, recipe.epoch_steps, self.options.quiet or not self.ranks.first)
        columns = ("rate", *self.objective.columns, *(c for hook in self.hooks for c in hook.columns))
        log = board = None
        if self.ranks.first:
            folder = self.options.folder.folder
            log = Log(folder / "log.csv", (*columns, "images_per_s", "wait", self.measured), outcome.steps)
            board = Board(folder / "tensorboard" if self.options.board else None, outcome.steps)
        self.stepper.train_from(outcome.steps + 1)
        batches = self.loader.start(outcome.steps)
        try:
            with Interruption() as interruption:
                while outcome.steps < recipe.steps and not outcome.stopped:
                    self._one_step(batches, progress, log, board, interruption)
        except RuntimeError as error:
            if not died(error):
                raise
            raise TrainingError(
                "a process that prepares images has died: killed, or out of memory (fewer --workers need less); "
                "--resume goes on from the last state"
            ) from None
        finally:
            batches.close()  # ends the workers
            progress.finish()
            if log is not None and board is not None:
                log.close()
                board.close()
        self._finish(progress)
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
        number = outcome.steps + 1
        started = time.monotonic()
        done = self.stepper.step(batches, number, lambda: interruption.asked)
        seconds = time.monotonic() - started
        outcome.add(number, done.figures, recipe.batch, seconds, done.waited)
        outcome.stopped = done.asked and number < recipe.steps
        for problem in done.unreadable:
            outcome.unreadable.setdefault(str(problem.file), problem)
        cut = self._cut(number, progress)
        if number % recipe.epoch_steps == 0 or number == recipe.steps:
            for hook in self.hooks:
                hook.after_epoch(-(-number // recipe.epoch_steps))
        row: dict[str, float | None] = {"rate": done.rate, **done.figures}
        for hook in self.hooks:
            row.update(hook.figures())
        wait = done.waited / seconds
        row.update({"images_per_s": recipe.batch / seconds, "wait": wait})
        progress.update(number, done.figures, done.rate, seconds, recipe.batch, wait, join_status(self.hooks))
        if self.validation is not None and (number % self.options.eval_every == 0 or number == recipe.steps):
            row[self.measured] = self._measure(progress)
        if log is not None and board is not None:
            log.add(number, row)
            board.add(number, row)
        if number % self.options.save_every == 0 or number == recipe.steps or outcome.stopped or cut:
            self._save(log)
        if self.ranks.first and number % self.options.keep_every == 0:
            self._write_average(str(number))
            if any(hook.slims for hook in self.hooks):
                self.options.folder.write_cfg(self.network.graph.cfg, str(number))

    def _cut(self, step: int, progress: Progress) -> bool:
        """Carries out what hooks want cut behind a step, and forgets the best weights: they fit another cfg."""
        done = False
        for hook in self.hooks:
            cut = hook.cut_after(step)
            if cut is None:
                continue
            done = True
            self.stepper.cut(cut)
            self.outcome.best, self.outcome.best_step = -1.0, 0
            if self.ranks.first:
                self._write_pair()
            progress.say(hook.after_cut(step))
            self.stepper.train_from(step + 1)
        return done

    def _measure(self, progress: Progress) -> float:
        """Measures on the validation set, in the first process, and keeps the best weights."""
        self.ranks.average_statistics(self.network)
        value = 0.0
        if self.ranks.first and self.validation is not None:
            with self.stepper.ema.in_place():
                value = self.validation.measure(self.network)
                if value >= self.outcome.best:
                    self._write("best")
            self._draw(progress)
        value = self.ranks.share(value)
        if value >= self.outcome.best:
            self.outcome.best, self.outcome.best_step = value, self.outcome.steps
        self.outcome.measured = value
        title = self.validation.title if self.validation is not None else ""
        progress.say(
            f"step {self.outcome.steps}: {title} {100 * value:.2f} %, "
            f"best {100 * self.outcome.best:.2f} % at step {self.outcome.best_step}"
        )
        self.stepper.train_from(self.outcome.steps + 1)
        return value

    def _save(self, log: Log | None) -> None:
        """Writes `last` weights and the state."""
        self.ranks.average_statistics(self.network)
        if log is not None:
            log.sync()
            self._write("last")
            self.options.folder.write_state(self._state())
        self.ranks.wait()

    def _write_pair(self) -> None:
        """Writes the cfg; weights that were there and are of other widths do not stay beside it."""
        folder = self.options.folder
        folder.write_cfg(self.network.graph.cfg)
        if self.outcome.steps:
            for kind in ("best", "final"):
                folder.forget_unfit(kind, self.network.graph)
            self._write("last")

    def _write(self, kind: str) -> None:
        self.options.folder.write_weights(self.network, kind, self.outcome.steps * self.recipe.batch)

    def _write_average(self, kind: str) -> None:
        """Writes weights that are meant to be used: the average where there is one."""
        with self.stepper.ema.in_place():
            self._write(kind)

    def _finish(self, progress: Progress) -> None:
        if self.ranks.first:
            if self.outcome.steps >= self.recipe.steps:
                self._write_average("final")
            self._draw(progress, always=True)

    def _draw(self, progress: Progress, always: bool = False) -> None:
        """Draws the pictures, not too often; a run goes on without them where they cannot be written."""
        if not always and time.monotonic() - self._drawn_at < SECONDS_BETWEEN_PICTURES:
            return
        self._drawn_at = time.monotonic()
        folder = self.options.folder.folder
        try:
            draw_curves(folder / "log.csv", folder / "curves.png", (*self.objective.columns, self.measured, "rate"))
            for hook in self.hooks:
                hook.draw()
        except OutputError as error:
            progress.say(f"warning: {error}")

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.outcome.steps,
            "best": self.outcome.best,
            "best_step": self.outcome.best_step,
            "identity": self.identity,
            "cfg": str(self.network.graph.cfg),
            **self.stepper.state_dict(),
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
        own = self.network.graph.cfg
        text = state.get("cfg", str(own))
        if text != str(own):
            self.stepper.use(build_graph(parse_cfg(text, own.source)))
        self.stepper.load_state_dict(state)
        self.outcome.best, self.outcome.best_step = state["best"], state["best_step"]
        return int(state["step"])
