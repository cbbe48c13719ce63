"""A network in a run: the original, or what a stage makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprune.api.pair import Pair
from darkprune.runs.stages import FileSource


@dataclass(frozen=True)
class RunNetwork:
    """A network in a run; its files need not be there yet.

    Attributes:
        name: `original`, `sparse`, `pruned`, …
        cfg, weights: its files.
        made_by: name of the stage that makes it; empty for the original.
    """

    name: str
    cfg: Path
    weights: Path
    made_by: str = ""

    @property
    def files(self) -> tuple[Path, Path]:
        """The cfg and the weights."""
        return self.cfg, self.weights

    def pair(self) -> Pair:
        """Returns it as a pair, once its files are there."""
        return Pair(self.cfg, self.weights)

    def sources(self, whose: str = "") -> tuple[FileSource, FileSource]:
        """Returns the files as something that a stage reads.

        Args:
            whose: first word of their roles, where a stage reads several networks ("teacher").
        """
        prefix = f"{whose} " if whose else ""
        return FileSource(f"{prefix}cfg", self.cfg), FileSource(f"{prefix}weights", self.weights)
