"""What is compared, and how: the settings of `compare`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from darkprune.comparison.cells import RECOVERIES, SPARSITIES
from darkprune.comparison.methods import DEFAULT, METHODS
from darkprune.errors import UsageError
from darkprune.processes import usable_cores
from darkprune.runners.base import RUNNERS
from darkprune.selection.allocation import PRESETS
from darkprune.selection.settings import Selection
from darkprune.settings import PathLike, declared, setting
from darkprune.surgery.plan import Compensation
from darkprune.targets import targets
from darkprune.training.settings import TrainingKeys, given

_WHAT, _SPARSE = "what is compared", "training before the cut"
_IMAGES = "images"
_HOW = "how to prune, as in darkprune prune"
_RUN = "the run"

#: tables of Chu et al. 2023 that can be repeated, see `darkprune.comparison.paper`
PaperTable = Literal["table3", "table4", "table5", "table9", "table10", "table11", "fig10"]


@dataclass(frozen=True, kw_only=True)
class CompareSettings(TrainingKeys):
    """What is compared, and how; the training keys are those of recoveries that train.

    Attributes:
        teacher: cfg and weights of the network that others learn from; by default the given one, before any training.
    """

    teacher: tuple[PathLike, PathLike] | None = None
    data: PathLike | None = setting(
        None, "labelled images to measure on, and to train on if a recovery does (required)", metavar="F"
    )
    methods: tuple[str, ...] = setting(
        DEFAULT, f"of {', '.join(METHODS)}, and layer+NAME: units first, then channels", group=_WHAT, metavar="M1,M2,…"
    )
    budgets: tuple[str, ...] = setting(
        ("0.8", "0.6", "0.4"),
        "what to keep: fractions, or values with units; or a ratio per group (0.1:0.25:0.96), or a published "
        f"setting ({', '.join(PRESETS)}), which other methods meet at equal size",
        group=_WHAT, metavar="B1,B2,…",
    )  # fmt: skip
    budget_of: Literal["params", "macs", "size", "channels"] = setting("macs", "what budgets are about", group=_WHAT)
    recoveries: tuple[str, ...] = setting(
        ("none",), f"of {', '.join(RECOVERIES)}, or several joined: lsq+distill, finetune+distill", group=_WHAT,
        metavar="R1,R2,…", default_text="none: only what belongs to a method",
    )  # fmt: skip
    sparsities: tuple[str, ...] = setting(
        ("none",), f"training before the cut that draws γ to zero: of {', '.join(SPARSITIES)}", group=_WHAT,
        metavar="S1,S2,…",
    )  # fmt: skip
    paper: PaperTable | None = setting(
        None,
        "the rows of a table of Chu et al. 2023, with what it published beside them; what is given otherwise stays",
        group=_WHAT,
    )
    seeds: tuple[int, ...] = setting((0,), "of everything random", group=_WHAT, metavar="S1,S2,…", at_least=0)
    candidates: int = setting(30, "candidates that EagleEye tries", group=_WHAT, at_least=1)
    sparse_epochs: float | None = setting(
        None, "length of the training that draws γ to zero", group=_SPARSE, metavar="N",
        default_text="as of other training", above=0,
    )  # fmt: skip
    s: float | str | None = setting(
        None, "weight of Σ|γ| in it, or auto", group=_SPARSE, metavar="X", default_text="auto"
    )
    images: PathLike | None = setting(
        None, "unlabelled images for the methods and recoveries that look at some", group=_IMAGES, metavar="DIR",
        default_text="the training images of --data",
    )  # fmt: skip
    split: str = setting("valid", "which part of the data is measured on", group=_IMAGES, metavar="PART")
    names: PathLike | None = setting(
        None, "names of the classes, in order", group=_IMAGES, metavar="F", default_text="the data's"
    )
    compensate: Compensation | None = setting(None, "what takes the place of a channel", group=_HOW)
    target: str | None = setting(
        None, "what it will run on; TensorRT wants widths in multiples of 8", group=_HOW, choices=tuple(targets())
    )
    round_to: int | None = setting(
        None, "widths in multiples of N where possible", group=_HOW, default_text="what the target wants, else 1",
        at_least=1,
    )  # fmt: skip
    min_channels: int | None = setting(None, "fewest channels of a convolution", group=_HOW, at_least=1)
    jobs: int = setting(1, "cells at a time, each in a process", group=_RUN, at_least=1)
    cell: str | None = setting(
        None, "do only the i-th of n shares; who finds all shares done draws the table", group=_RUN, metavar="i/n"
    )
    runner: str | None = setting(
        None, "program to measure and time in", group=_RUN, choices=tuple(RUNNERS), default_text="the first that can"
    )
    device: str = setting(
        "auto", "to train on: cpu, cuda, cuda:1", group=_RUN, metavar="D", default_text="a GPU if there is one"
    )
    no_times: bool = setting(False, "leave out milliseconds", group=_RUN)
    overwrite: bool = setting(False, "take a folder that holds another network's comparison", group=_RUN)

    def __post_init__(self) -> None:
        """Checks that there is something to compare, and data to compare on; see `Settings`."""
        super().__post_init__()
        if self.data is None:
            raise UsageError("methods are compared by mAP: give labelled images with --data F")
        for name in ("methods", "budgets", "recoveries", "sparsities", "seeds"):
            if not getattr(self, name) or "" in getattr(self, name):
                raise UsageError(f"--{name}: give at least one, and a name between all commas")

    @property
    def training(self) -> dict[str, Any]:
        """The training keys."""
        return {name: getattr(self, name) for name in declared(TrainingKeys)}

    @property
    def highest_ratio(self) -> float | None:
        """The largest share of the channels that is asked to go; None where budgets are about something else."""
        if self.budget_of != "channels":
            return None
        left = [float(text) for text in self.budgets if text.replace(".", "", 1).isdecimal()]
        return 1 - min(left) if left else None

    @property
    def workers(self) -> int | None:
        """Threads or processes that read images for one cell; None for one per core."""
        return max(1, usable_cores() // self.jobs) if self.jobs > 1 else None

    def limited(self, selection: Selection) -> Selection:
        """Adds the limits that hold for every method, as far as they are given."""
        return replace(selection, **given(self, "compensate", "target", "round_to", "min_channels"))

    @property
    def sparse_training(self) -> dict[str, Any]:
        """The training keys of the training before the cut."""
        if self.sparse_epochs is None:
            return {**self.training, "s": self.s}
        return {**self.training, "iterations": None, "epochs": self.sparse_epochs, "s": self.s}
