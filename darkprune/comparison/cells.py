"""Cells of a comparison: their grid, their names, and which cell each one starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from darkprune.comparison.methods import method_of
from darkprune.errors import UsageError
from darkprune.selection.settings import RECOVERIES as BY_IMAGES
from darkprune.settings import nearest
from darkprune.training.settings import DistillPreset

#: how the network is trained before it is pruned; `none`: not at all
Sparsity = Literal["none", "constant", "dynamic"]
SPARSITIES: tuple[str, ...] = get_args(Sparsity)
#: recoveries that train -> preset of the distillation (that of Chu et al. 2023 for `distill`); None without a teacher
TRAINED: Mapping[str, DistillPreset | None] = {
    "finetune": None,
    "distill": "paper",
    **{f"distill-{preset}": preset for preset in get_args(DistillPreset)},
    "distill-unlabelled": "objectness",
}
#: recoveries by name; `A+B` is one from images or a fine-tuning, then another that trains
RECOVERIES = (*BY_IMAGES, *TRAINED)
#: those that go by the plan of the cut
PLANNED = frozenset((*BY_IMAGES[1:], "distill-features"))


@dataclass(frozen=True)
class Cell:
    """One method at one budget with one recovery and one seed.

    Attributes:
        method: a name that `method_of` knows.
        budget: what to keep, as the user wrote it.
        recovery: of `RECOVERIES`, or several of them joined by `+`.
        seed: of the images that are fitted on, the candidates, the training.
        sparsity: how the network was trained before it is pruned.
    """

    method: str
    budget: str
    recovery: str
    seed: int
    sparsity: str = "none"

    @property
    def start_name(self) -> str:
        """Name of the network that is pruned; empty for the given one."""
        return "" if self.sparsity == "none" else f"{self.sparsity}_s{self.seed}"

    @property
    def cut_name(self) -> str:
        """Name of its cut."""
        return f"{self._prefix}{self.method}_{self.budget}_s{self.cut_seed}"

    @property
    def name(self) -> str:
        """Its own name."""
        return f"{self._prefix}{self.method}_{self.budget}_{self.recovery}_s{self.seed}"

    @property
    def _prefix(self) -> str:
        return "" if self.sparsity == "none" else f"{self.sparsity}_"

    @property
    def cut_seed(self) -> int:
        """The seed of its cut: 0 where nothing in the cut is random."""
        method = method_of(self.method)
        return self.seed if method.images or method.labels or self.sparsity != "none" else 0

    @property
    def training(self) -> str | None:
        """The last part of the recovery, if that trains."""
        last = self.recovery.rpartition("+")[2]
        return last if last in TRAINED else None

    @property
    def previous(self) -> Cell | None:
        """The cell whose network its training starts from; None where it does not train."""
        if self.training is None:
            return None
        return _with_seed_of(replace(self, recovery=self.recovery.rpartition("+")[0] or "none"))

    @property
    def chain(self) -> tuple[Cell, ...]:
        """The cell, and those whose networks it comes from, back to the one without training."""
        return (self,) if self.previous is None else (self, *self.previous.chain)

    @property
    def repair(self) -> str:
        """What is done on images before any training: the recovery, or what belongs to the method."""
        first = self.chain[-1].recovery
        return method_of(self.method).finish if first == "none" else first

    @property
    def needs_images(self) -> bool:
        """Whether it cannot do without unlabelled images."""
        unlabelled = "distill-unlabelled" in self.recovery.split("+")
        return method_of(self.method).images or self.repair != "none" or unlabelled

    @property
    def needs_labels(self) -> bool:
        """Whether it cannot do without labelled training images."""
        trains = any(part in TRAINED and part != "distill-unlabelled" for part in self.recovery.split("+"))
        return trains or method_of(self.method).labels or self.sparsity != "none"


def grid(
    methods: Sequence[str],
    budgets: Sequence[str],
    recoveries: Sequence[str],
    seeds: Sequence[int],
    sparsities: Sequence[str] = ("none",),
) -> list[Cell]:
    """Returns all cells, budget by budget; where nothing is random, one stands for all seeds.

    Raises:
        UsageError: an unknown method, recovery or sparsity (names the nearest), or two that do not go together.
    """
    for sparsity in sparsities:
        if sparsity not in SPARSITIES:
            raise UsageError(f"--sparsities {sparsity[:40]}: no such sparsity; {nearest(sparsity, SPARSITIES)}")
    for recovery in recoveries:
        _check_recovery(recovery)
    needs_plan = {part for each in recoveries for part in each.split("+")} & PLANNED
    for method in methods:
        if method_of(method).trains and needs_plan:
            raise UsageError(
                f"--methods {method} prunes while it trains and leaves no plan, which recovery "
                f"{', '.join(sorted(needs_plan))} needs; compare it apart"
            )
    axes = product(sparsities, budgets, methods, recoveries, seeds)
    cells = [_with_seed_of(Cell(method, budget, recovery, seed, sparsity))
             for sparsity, budget, method, recovery, seed in axes]  # fmt: skip
    return list(dict.fromkeys(cells))


def share(cells: Sequence[Cell], text: str) -> list[Cell]:
    """Returns the i-th of n shares, given as `i/n` with i from 1 on.

    Cells of one cut, and those of one sparse training, stay together, so that no two jobs do the same work.

    Raises:
        UsageError: it cannot be read.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--cell {text[:30]}: write i/n, such as 3/8 for the third of eight shares")
    parts = list(dict.fromkeys(cell.start_name or cell.cut_name for cell in cells))
    mine = set(parts[int(number) - 1 :: int(count)])
    return [cell for cell in cells if (cell.start_name or cell.cut_name) in mine]


def _with_seed_of(cell: Cell) -> Cell:
    """Gives a cell in which nothing is random the seed 0."""
    return cell if cell.needs_images or cell.needs_labels else replace(cell, seed=0)


def _check_recovery(recovery: str) -> None:
    parts = recovery.split("+")
    for part in parts:
        if part not in RECOVERIES:
            raise UsageError(f"--recoveries {part[:40]}: no such recovery; {nearest(part, RECOVERIES)}")
    joined = parts[0] in (*BY_IMAGES[1:], "finetune") and all(part in TRAINED for part in parts[1:])
    if len(parts) > 1 and not (joined and len(set(parts)) == len(parts)):
        raise UsageError(
            f"--recoveries {recovery[:40]}: joins one of {', '.join(BY_IMAGES[1:])}, finetune with others that train"
        )
