"""Cells of a comparison: their grid, their names, and what each one's result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from darkprune.comparison.methods import method_of
from darkprune.errors import UsageError
from darkprune.selection.settings import RECOVERIES as BY_IMAGES
from darkprune.settings import nearest
from darkprune.training.settings import DistillPreset

#: recoveries that train -> preset of the distillation (that of Chu et al. 2023 for `distill`); None without a teacher
TRAINED: Mapping[str, DistillPreset | None] = {
    "finetune": None,
    "distill": "paper",
    "distill-objectness": "objectness",
    "distill-unlabelled": "objectness",
}
#: recoveries by name; `A+B` is a recovery from images, then training
RECOVERIES = (*BY_IMAGES, *TRAINED)


@dataclass(frozen=True)
class Cell:
    """One method at one budget with one recovery and one seed.

    Attributes:
        method: a name that `method_of` knows.
        budget: what shall remain, as the user wrote it.
        recovery: of `RECOVERIES`, or two of them joined by `+`.
        seed: of the images that are fitted on, the candidates, the training.
    """

    method: str
    budget: str
    recovery: str
    seed: int

    @property
    def cut_name(self) -> str:
        """Name of the cut that it starts from."""
        return f"{self.method}_{self.budget}_s{self.cut_seed}"

    @property
    def name(self) -> str:
        """Its own name."""
        return f"{self.method}_{self.budget}_{self.recovery}_s{self.seed}"

    @property
    def cut_seed(self) -> int:
        """The seed of its cut: 0 where nothing in that is drawn."""
        return self.seed if method_of(self.method).images else 0

    @property
    def training(self) -> str | None:
        """The part of the recovery that trains."""
        last = self.recovery.rpartition("+")[2]
        return last if last in TRAINED else None

    @property
    def untrained(self) -> Cell:
        """The cell that its training starts from; the same where it does not train."""
        if self.training is None:
            return self
        return _settled(replace(self, recovery=self.recovery.rpartition("+")[0] or "none"))

    @property
    def how(self) -> str:
        """What is done from images before any training: the recovery, or what belongs to the method."""
        first = self.untrained.recovery
        return method_of(self.method).finish if first == "none" else first

    @property
    def images(self) -> bool:
        """Whether it cannot do without unlabelled images."""
        return method_of(self.method).images or self.how != "none" or self.training == "distill-unlabelled"


def grid(methods: Sequence[str], budgets: Sequence[str], recoveries: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Returns all cells, budget by budget; where nothing is drawn, one stands for all seeds.

    Raises:
        UsageError: a method or recovery that does not exist (says the nearest).
    """
    for method in methods:
        method_of(method)
    for recovery in recoveries:
        _check_recovery(recovery)
    cells = [
        _settled(Cell(method, budget, recovery, seed))
        for budget in budgets
        for method in methods
        for recovery in recoveries
        for seed in seeds
    ]
    return list(dict.fromkeys(cells))


def share(cells: Sequence[Cell], text: str) -> list[Cell]:
    """Returns the i-th of n shares, given as `i/n` with i from 1 on.

    Cells of one cut stay together, so that no two jobs make the same cut.

    Raises:
        UsageError: it cannot be read.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--cell {text[:30]}: write i/n, such as 3/8 for the third of eight shares")
    cuts = list(dict.fromkeys(cell.cut_name for cell in cells))
    mine = set(cuts[int(number) - 1 :: int(count)])
    return [cell for cell in cells if cell.cut_name in mine]


def _settled(cell: Cell) -> Cell:
    """Gives a cell in which nothing is drawn the seed 0."""
    drawn = cell.images or cell.training is not None
    return cell if drawn else replace(cell, seed=0)


def _check_recovery(recovery: str) -> None:
    first, plus, last = recovery.partition("+")
    for part in (first, last) if plus else (first,):
        if part not in RECOVERIES:
            raise UsageError(f"--recoveries {part[:40]}: no such recovery; {nearest(part, RECOVERIES)}")
    if plus and (first in TRAINED or last not in TRAINED):
        raise UsageError(f"--recoveries {recovery[:40]}: joins one of {', '.join(BY_IMAGES)} with one that trains")
