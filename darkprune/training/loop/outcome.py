"""What has happened in a run so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from darkprune.data.dataset import DataProblem


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

    def add(self, step: int, figures: dict[str, float], images: int, seconds: float, waited: float) -> None:
        """Adds a step."""
        self.steps, self.figures = step, figures
        self.images += images
        self.seconds += seconds
        self.waited += waited
