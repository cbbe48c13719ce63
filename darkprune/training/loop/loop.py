"""The training loop: steps, measurements, files; an interrupted run can be resumed."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field

from darkprune.darknet.cfg import parse_cfg
from darkprune.data.dataset import DataProblem
from darkprune.errors import OutputError, TrainingError
from darkprune.graph.graph import build_graph
from darkprune.network import Network
from darkprune.progress import say
from darkprune.training.data.batches import Batch, BatchLoader, died
from darkprune.training.loop.checkpoint import RunFolder, State, differences, restoring
from darkprune.training.loop.interruption import Interruption
from darkprune.training.loop.step import Step, Stepper
from darkprune.training.loop.validation import Validator
from darkprune.training.records.curves import draw_curves
from darkprune.training.records.log import Log
from darkprune.training.records.progress import StatusLine
from darkprune.training.settings import RunSettings

SECONDS_BETWEEN_PICTURES = 60.0
FEWEST_STEPS_BETWEEN_MEASUREMENTS = 100


@dataclass
class Outcome:
    """What has happened in a run so far.

    Attributes:
        steps: steps done.
        stopped: whether it was interrupted before its end.
        best: highest measurement (mAP@0.5, accuracy); −1 where nothing was measured.
        best_step: the step of `best`.
        figures: of the last step.
        measured: the last measurement.
        seconds: time taken.
        waited: part of `seconds` in which the network waited for data.
        images: examples trained on.
        unreadable: images that could not be read, by file.
    """

    steps: int = 0
    stopped: bool = False
    best: float = -1.0
    best_step: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    measured: float | None = None
    seconds: float = 0.0
    waited: float = 0.0
    images: int = 0
    unreadable: dict[str, DataProblem] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains a network.

    Attributes:
        stepper: does the steps; holds network, objective and recipe.
        loader: gives the batches.
        folder: where files go.
        settings: when files are written and what is measured; nothing here that changes the result.
        validation: the set to measure on.
        identity: what the run was started with (hashes of cfg, data, …), so that no other run is resumed from it.
        outcome: what has happened so far.
    """

    stepper: Stepper
    loader: BatchLoader
    folder: RunFolder
    settings: RunSettings
    validation: Validator | None = None
    identity: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recipe, self.ranks, self.hooks = self.stepper.recipe, self.stepper.ranks, self.stepper.hooks
        self.columns = self.stepper.objective.columns
        self.measure = self.validation.column if self.validation is not None else "map50"
        self.identity = {**self.identity, "recipe": asdict(self.recipe)}
        self.outcome = Outcome()
        self._log: Log | None = None
        self._drawn_at = time.monotonic()
        epoch = self.recipe.epoch_steps
        self._eval_every = self.settings.eval_every or -(-FEWEST_STEPS_BETWEEN_MEASUREMENTS // epoch) * epoch
        self._keep_every = self.settings.keep_every or (1000 if self.recipe.steps < 10_000 else 10_000)

    @property
    def network(self) -> Network:
        """The network in training: another one after every cut."""
        return self.stepper.network

    def run(self) -> Outcome:
        """Trains to the end, or until interrupted.

        Raises:
            TrainingError: the loss is not a number any more, memory ran out, the folder's run is another one.
            DataError: images cannot be read.
            OutputError: files cannot be written.
        """
        outcome = self.outcome
        outcome.steps = self._restore() if self.settings.resume else 0
        self._line = StatusLine(self.recipe.steps, self.recipe.epoch_steps, outcome.steps)
        if self.ranks.first:
            self._write_pair()
            self._log = self._open_log()
        self.stepper.train_from(outcome.steps + 1)
        batches = self.loader.start(outcome.steps)
        try:
            with Interruption() as interruption:
                while outcome.steps < self.recipe.steps and not outcome.stopped:
                    self._one_step(batches, interruption)
        except RuntimeError as error:
            if not died(error):
                raise
            raise TrainingError(
                "a process that prepares images has died: killed, or out of memory (fewer --workers need less); "
                "--resume continues from the last state"
            ) from None
        finally:
            batches.close()  # ends the workers
            if self._log is not None:
                self._log.close()
        if self.ranks.first:
            if outcome.steps >= self.recipe.steps:
                self._write_average("final")
            self._draw(always=True)
        return outcome

    def _open_log(self) -> Log:
        folder, steps = self.folder.folder, self.outcome.steps
        events = None if self.settings.no_tensorboard else folder / "tensorboard"
        columns = ("rate", *self.columns, *(column for hook in self.hooks for column in hook.columns))
        return Log(folder / "log.csv", (*columns, "images_per_s", "wait", self.measure), steps, events)

    def _one_step(self, batches: Generator[Batch], interruption: Interruption) -> None:
        """Does a step and all that is due after it."""
        recipe, outcome = self.recipe, self.outcome
        number = outcome.steps + 1
        started = time.monotonic()
        done = self.stepper.step(batches, number, lambda: interruption.asked)
        seconds = time.monotonic() - started
        outcome.steps, outcome.figures = number, done.figures
        outcome.images += recipe.batch
        outcome.seconds += seconds
        outcome.waited += done.waited
        outcome.stopped = done.asked and number < recipe.steps
        for problem in done.unreadable:
            outcome.unreadable.setdefault(str(problem.file), problem)
        cut = self._cut(number)
        if number % recipe.epoch_steps == 0 or number == recipe.steps:
            for hook in self.hooks:
                hook.after_epoch(-(-number // recipe.epoch_steps))
        self._record(number, done, seconds)
        if number % self.settings.save_every == 0 or number == recipe.steps or outcome.stopped or cut:
            self._save()
        if self.ranks.first and number % self._keep_every == 0:
            self._write_average(str(number))
            if any(hook.slims for hook in self.hooks):
                self.folder.write_cfg(self.network.graph.cfg, str(number))

    def _record(self, number: int, done: Step, seconds: float) -> None:
        """Shows a step, measures where that is due, and writes the log."""
        speed = {"rate": done.rate, "images_per_s": self.recipe.batch / seconds, "wait": done.waited / seconds}
        row: dict[str, float | None] = {**speed, **done.figures}
        for hook in self.hooks:
            row.update(hook.figures())
        self._line.update(number, done.figures, speed, [hook.status() for hook in self.hooks])
        if self.validation is not None and (number % self._eval_every == 0 or number == self.recipe.steps):
            row[self.measure] = self._measure(self.validation)
        if self._log is not None:
            self._log.add(number, row)

    def _cut(self, step: int) -> bool:
        """Carries out what hooks want cut after a step, and forgets the best weights: they fit another cfg."""
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
            say(hook.after_cut(step))
            self.stepper.train_from(step + 1)
        return done

    def _measure(self, validation: Validator) -> float:
        """Measures on the validation set, in the first process, and keeps the best weights."""
        self.ranks.average_statistics(self.network)
        outcome, value = self.outcome, 0.0
        if self.ranks.first:
            with self.stepper.ema.in_place():
                value = validation.measure(self.network)
                if value >= outcome.best:
                    self._write("best")
            self._draw()
        value = self.ranks.share(value)
        if value >= outcome.best:
            outcome.best, outcome.best_step = value, outcome.steps
        outcome.measured = value
        self._line.quality = f"{validation.title} {100 * value:.2f} %"
        say(f"step {outcome.steps}: {self._line.quality}, best {100 * outcome.best:.2f} % at step {outcome.best_step}")
        self.stepper.train_from(outcome.steps + 1)
        return value

    def _save(self) -> None:
        """Writes `last` weights and the state."""
        self.ranks.average_statistics(self.network)
        if self._log is not None:
            self._log.sync()
            self._write("last")
            self.folder.write_state(self._state())
        self.ranks.wait()

    def _write_pair(self) -> None:
        """Writes the cfg; weights of other widths do not stay beside it."""
        self.folder.write_cfg(self.network.graph.cfg)
        if self.outcome.steps:
            for kind in ("best", "final"):
                self.folder.forget_unfit(kind, self.network.graph)
            self._write("last")

    def _write(self, kind: str) -> None:
        self.folder.write_weights(self.network, kind, self.outcome.steps * self.recipe.batch)

    def _write_average(self, kind: str) -> None:
        """Writes weights that are meant to be used: the average where there is one."""
        with self.stepper.ema.in_place():
            self._write(kind)

    def _draw(self, always: bool = False) -> None:
        """Draws the pictures, not too often; where they cannot be written the run continues without."""
        if not always and time.monotonic() - self._drawn_at < SECONDS_BETWEEN_PICTURES:
            return
        self._drawn_at = time.monotonic()
        folder = self.folder.folder
        try:
            draw_curves(folder / "log.csv", folder / "curves.png", (*self.columns, self.measure, "rate"))
            for hook in self.hooks:
                hook.draw()
        except OutputError as error:
            say(f"warning: {error}")

    def _state(self) -> State:
        return {
            "step": self.outcome.steps,
            "best": self.outcome.best,
            "best_step": self.outcome.best_step,
            "identity": dict(self.identity),
            "cfg": str(self.network.graph.cfg),
            **self.stepper.state_dict(),
        }

    def _restore(self) -> int:
        """Restores the run in the folder; returns the steps that it has done."""
        state = self.folder.read_state()
        with restoring(self.folder.state):
            changed = differences(state["identity"], dict(self.identity))
        if changed:
            raise TrainingError(
                f"{self.folder.state}: belongs to a run with other settings; {'; '.join(changed[:4])}. "
                "Give the same settings to continue, or start anew with --overwrite"
            )
        own = self.network.graph.cfg
        with restoring(self.folder.state):
            text = state.get("cfg", str(own))
            if text != str(own):
                self.stepper.use(build_graph(parse_cfg(text, own.source)))
            self.stepper.load_state_dict(state)
            self.outcome.best, self.outcome.best_step = float(state["best"]), int(state["best_step"])
            steps = int(state["step"])
            if not 0 <= steps <= self.recipe.steps:
                raise ValueError(f"step {steps} of {self.recipe.steps}")
            return steps
