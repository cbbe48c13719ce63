"""What is compared, and how: the settings of `compare`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from darkprune.comparison.cells import RECOVERIES
from darkprune.comparison.methods import DEFAULT, METHODS
from darkprune.errors import UsageError
from darkprune.runners.base import RUNNERS
from darkprune.settings import PathLike, declared, setting
from darkprune.surgery.plan import Compensation
from darkprune.targets import targets
from darkprune.training.settings import TrainingKeys

_WHAT = "what is compared"
_IMAGES = "images"
_HOW = "how to prune, as in darkprune prune"
_RUN = "the run"


@dataclass(frozen=True, kw_only=True)
class CompareSettings(TrainingKeys):
    """What is compared, and how; the training keys are those of recoveries that train."""

    data: PathLike | None = setting(
        None, "labelled images to measure on, and to train on if a recovery does (required)", metavar="F"
    )
    methods: tuple[str, ...] = setting(
        DEFAULT, f"of {', '.join(METHODS)}, and layer+NAME: units first, then channels", group=_WHAT, metavar="M1,M2,…"
    )
    budgets: tuple[str, ...] = setting(
        ("0.8", "0.6", "0.4"), "what shall remain: fractions, or values with units", group=_WHAT, metavar="B1,B2,…"
    )
    budget_of: Literal["params", "macs", "size"] = setting("macs", "what budgets are about", group=_WHAT)
    recoveries: tuple[str, ...] = setting(
        ("none",), f"of {', '.join(RECOVERIES)}, or two joined: lsq+distill", group=_WHAT, metavar="R1,R2,…",
        default_text="none: only what belongs to a method",
    )  # fmt: skip
    seeds: tuple[int, ...] = setting((0,), "of everything random", group=_WHAT, metavar="S1,S2,…")
    candidates: int = setting(30, "candidates that EagleEye tries", group=_WHAT)
    images: PathLike | None = setting(
        None, "unlabelled images for the methods and recoveries that look at some", group=_IMAGES, metavar="DIR",
        default_text="the training images of --data",
    )  # fmt: skip
    split: str = setting("valid", "which part of the data is measured on", group=_IMAGES)
    names: PathLike | None = setting(None, "names of the classes, in order", group=_IMAGES, metavar="F")
    compensate: Compensation | None = setting(None, "what takes the place of a channel", group=_HOW)
    target: str | None = setting(
        None, "what it will run on; TensorRT wants widths in multiples of 8", group=_HOW, choices=tuple(targets())
    )
    round_to: int | None = setting(
        None, "widths in multiples of N where possible", group=_HOW, default_text="what the target wants, else 1"
    )
    min_channels: int | None = setting(None, "fewest channels of a convolution", group=_HOW)
    jobs: int = setting(1, "cells at a time, each in a process", group=_RUN)
    cell: str | None = setting(
        None, "do only the i-th of n shares; who finds all shares done draws the table", group=_RUN, metavar="i/n"
    )
    runner: str | None = setting(None, "program to measure and time in", group=_RUN, choices=tuple(RUNNERS))
    device: str = setting(
        "auto", "to train on: cpu, cuda, cuda:1", group=_RUN, metavar="D", default_text="a GPU if there is one"
    )
    no_times: bool = setting(False, "leave out milliseconds", group=_RUN)
    overwrite: bool = setting(False, "take a folder that holds another network's comparison", group=_RUN)

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: nothing to compare, no data to compare on, or a number out of range.
        """
        TrainingKeys.__post_init__(self)
        if self.data is None:
            raise UsageError("methods are compared by mAP: give labelled images with --data F")
        for name in ("methods", "budgets", "recoveries", "seeds"):
            if not getattr(self, name) or "" in getattr(self, name):
                raise UsageError(f"--{name}: give at least one, and a name between all commas")
        if min(self.seeds) < 0:
            raise UsageError(f"--seeds {','.join(map(str, self.seeds))[:60]}: give whole numbers from 0 on")
        if self.jobs < 1 or self.candidates < 1:
            raise UsageError("--jobs and --candidates must be at least 1")

    @property
    def training(self) -> dict[str, Any]:
        """The training keys."""
        return {name: getattr(self, name) for name in declared(TrainingKeys)}

    @property
    def workers(self) -> int | None:
        """Threads or processes that read images for one cell; None for one per core."""
        return max(1, (os.cpu_count() or 1) // self.jobs) if self.jobs > 1 else None

    @property
    def common(self) -> dict[str, object]:
        """The settings of pruning that hold for every method, as far as they are given."""
        given = {name: getattr(self, name) for name in ("compensate", "target", "round_to", "min_channels")}
        return {name: value for name, value in given.items() if value is not None}
