"""What is shown of a run while it trains: loss, quality, speed and the status of the hooks, beside the bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from darkprune.progress import track

MEMORY = 0.9  #: share of the old average in what is shown, as in darknet
_SHORT = {"objectness": "obj", "class": "cls"}
_HIDDEN = ("matched",)


class StatusLine:
    """Reports every step of a run, with smoothed figures.

    Attributes:
        quality: the last measurement on the validation set ("mAP@0.5 41.20 %"); empty before the first.
    """

    def __init__(self, steps: int, epoch_steps: int, done: int) -> None:
        self._epoch_steps = epoch_steps
        self._at = track("training", steps, "step").at
        self._at(done)
        self._averages: dict[str, float] = {}
        self.quality = ""

    def update(self, step: int, figures: Mapping[str, float], speed: Mapping[str, float], more: Sequence[str]) -> None:
        """Reports a step.

        Args:
            figures: of the objective, `loss` first.
            speed: `rate` of learning, `images_per_s`, and `wait`, the share of the time spent waiting for data.
        """
        smooth = {name: self._smoothed(name, value) for name, value in {**figures, **speed}.items() if name != "rate"}
        losses = [f"{_SHORT.get(name, name)} {smooth[name]:.3g}" for name in figures if name not in _HIDDEN]
        parts = [  # the most important first: a terminal shows as much as fits
            losses[0],
            self.quality,
            *more,
            f"{smooth['images_per_s']:.1f} img/s wait {100 * smooth['wait']:.0f} %",
            f"epoch {step / self._epoch_steps:.1f}",
            *losses[1:],
            f"rate {speed['rate']:.2g}",
        ]
        self._at(step, details="  ".join(part for part in parts if part))

    def _smoothed(self, name: str, value: float) -> float:
        old = self._averages.get(name, value)
        self._averages[name] = MEMORY * old + (1 - MEMORY) * value
        return self._averages[name]
