"""A network in a run: the original, or what a stage makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprune.api.pair import Pair
from darkprune.compression.sources import Content
from darkprune.graph.graph import Graph
from darkprune.runs.stages import FileSource


@dataclass(frozen=True)
class RunNetwork:
    """A network in a run; its files need not be there yet.

    Attributes:
        name: `original`, `sparse`, `pruned`, …
        cfg, weights: its files.
        made_by: name of the stage that makes it; empty for the original.
        resized: the graph of the original at another input size, whose cfg the run writes at its start.
    """

    name: str
    cfg: Path
    weights: Path
    made_by: str = ""
    resized: Graph | None = None

    @classmethod
    def at_size(cls, original: RunNetwork, graph: Graph, folder: Path) -> RunNetwork:
        """Returns the original at another input size; `folder` is where the run keeps what it writes at its start."""
        size = input_size(graph)
        return cls(f"original at {size}", folder / size / original.cfg.name, original.weights, resized=graph)

    @property
    def size(self) -> str:
        """The input size of a resized network."""
        assert self.resized is not None
        return input_size(self.resized)

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
        cfg = FileSource(f"{prefix}cfg", self.cfg)
        if self.resized is not None:
            cfg = Content(f"{prefix}cfg", self.cfg, self.resized.cfg.encode())
        return cfg, FileSource(f"{prefix}weights", self.weights)


def input_size(graph: Graph) -> str:
    """Returns width and height of a network's input, as `416x416`."""
    return f"{graph.net.input.w}x{graph.net.input.h}"
