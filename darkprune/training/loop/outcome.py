"""How a run of training is carried out, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from darkprune.data.dataset import DataProblem
from darkprune.training.loop.checkpoint import RunFolder


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
        best: highest measurement (mAP@0.5, accuracy) and its step; −1 where nothing was measured.
        best_step: see `best`.
        figures: of the last step.
        measured: the last measurement.
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
    measured: float | None = None
    seconds: float = 0.0
    waited: float = 0.0
    images: int = 0
    unreadable: dict[str, DataProblem] = field(default_factory=dict)

    def add(self, step: int, figures: dict[str, float], images: int, seconds: float, waited: float) -> None:
        """Takes in a step."""
        self.steps, self.figures = step, figures
        self.images += images
        self.seconds += seconds
        self.waited += waited
