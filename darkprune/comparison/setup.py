"""What all cells of a comparison have in common, where their results lie, and what decides each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.comparison.settings import CompareSettings
from darkprune.data import Dataset, read_dataset
from darkprune.data.class_names import network_names
from darkprune.graph.graph import read_graph
from darkprune.runs.digests import plain
from darkprune.runs.record import Input, Origin, path_text
from darkprune.surgery.result import ResultNames

FOLDERS = ("sparse", "cuts", "pairs", "cells", "runs")  #: of a comparison


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One checkpoint, one data set, one folder.

    Attributes:
        cfg, weights: the given pair.
        folder: of the comparison.
        settings: what is compared, and how.
        images: unlabelled images, a folder or a list; None where no cell looks at any.
        runner: program that measures.
        inputs: what is read, by role: `cfg`, `weights`, `valid`, and where used `train`, `images` and `teacher`.
    """

    cfg: Path
    weights: Path
    folder: Path
    settings: CompareSettings
    images: Path | None = None
    runner: str = ""
    inputs: Mapping[str, Input] = field(default_factory=dict)

    @property
    def files(self) -> ResultNames:
        """Names of a slim pair's files."""
        return ResultNames.of(self.cfg.stem)

    @property
    def hashes(self) -> tuple[str, str]:
        """Digests of the given cfg and weights."""
        return self.inputs["cfg"].sha256, self.inputs["weights"].sha256

    @property
    def teacher(self) -> tuple[Path, Path]:
        """Cfg and weights of the network that others learn from."""
        if self.settings.teacher is None:
            return self.cfg, self.weights
        cfg, weights = self.settings.teacher
        return Path(cfg), Path(weights)

    def dataset(self, split: str) -> Dataset:
        """Reads labelled images.

        Raises:
            DataError: they cannot be read.
        """
        order = network_names(read_graph(self.cfg))
        return read_dataset(self.settings.data or "", split, self.settings.names, order)

    def sparse_folder(self, name: str) -> Path:
        """Returns the folder of a network that was trained sparsely."""
        return self.folder / "sparse" / name

    def start(self, cell: Cell) -> tuple[Path, Path]:
        """Returns cfg and weights of the network that a cell prunes."""
        if not cell.start_name:
            return self.cfg, self.weights
        folder = self.sparse_folder(cell.start_name)
        return folder / self.files.cfg, folder / self.files.weights

    def cut_folder(self, cell: Cell) -> Path:
        """Returns the folder of a cell's cut."""
        return self.folder / "cuts" / cell.cut_name

    def pair_folder(self, cell: Cell) -> Path:
        """Returns the folder of a cell's slim pair."""
        return self.folder / "pairs" / cell.name

    def record_file(self, name: str) -> Path:
        """Returns the file of a measurement."""
        return self.folder / "cells" / f"{name}.json"

    def looks(self, cell: Cell) -> bool:
        """Returns whether a cut looks at images: it has to, or it can and there are some."""
        method = method_of(cell.method)
        return method.images or (self.images is not None and method.settings.similarity > 0)

    def reads_labels(self, cell: Cell) -> bool:
        """Returns whether a cut reads labelled training images: it has to, or it can and there are some."""
        method = method_of(cell.method)
        return method.labels or (method.searches and "train" in self.inputs)

    def sparse_origin(self, cell: Cell) -> Origin:
        """Returns everything that decides the network that a cell prunes, where that is trained first."""
        keys = self.settings.sparse_training
        settings = {"sparsity": cell.sparsity, "keys": keys, "seed": cell.seed, "ratio": self.settings.highest_ratio}
        return Origin("sparse", settings, self._inputs("cfg", "weights", "train"))

    def cut_origin(self, cell: Cell) -> Origin:
        """Returns everything that decides a cut."""
        method = method_of(cell.method)
        settings: dict[str, object] = {
            "selection": plain(self.settings.limited(method.settings)),
            "layers": [method.units, method.channels, method.per_group],
            "budget": [self.settings.budget_of, cell.budget],
            "rounds": method.rounds,
            "candidates": self.settings.candidates if method.searches else 0,
            "finish": method.finish if self.looks(cell) else "",
            "seed": cell.cut_seed,
        }
        if method.trains:
            settings["keys"] = self.settings.training
        inputs = self._inputs("cfg", "weights")
        if cell.start_name:
            inputs = {"start": self._made(self.sparse_folder(cell.start_name), self.sparse_origin(cell))}
        inputs |= self._inputs("images") if self.looks(cell) else {}
        inputs |= self._inputs("train") if self.reads_labels(cell) else {}
        return Origin("cut", settings, inputs)

    def pair_origin(self, cell: Cell) -> Origin:
        """Returns everything that decides a slim pair."""
        if cell.previous is None:
            inputs = {"cut": self._made(self.cut_folder(cell), self.cut_origin(cell))}
            inputs |= self._inputs("images") if cell.repair != "none" else {}
            return Origin("recover", {"how": cell.repair, "seed": cell.seed}, inputs)
        start = self._made(self.pair_folder(cell.previous), self.pair_origin(cell.previous))
        read = "images" if cell.training == "distill-unlabelled" else "train"
        settings = {"training": cell.training, "keys": self.settings.training, "seed": cell.seed}
        return Origin("train", settings, {"start": start, **self._inputs("cfg", "weights", "teacher", read)})

    def measure_origin(self, cell: Cell) -> Origin:
        """Returns everything that decides a cell's figures."""
        pair = self._made(self.pair_folder(cell), self.pair_origin(cell))
        return Origin("measure", {"runner": self.runner}, {"pair": pair, **self._inputs("valid")})

    def sparse_measure_origin(self, cell: Cell) -> Origin:
        """Returns everything that decides the figures of the network that a cell prunes, trained sparsely."""
        pair = self._made(self.sparse_folder(cell.start_name), self.sparse_origin(cell))
        return Origin("measure", {"runner": self.runner}, {"pair": pair, **self._inputs("valid")})

    def unpruned_origin(self, width: int, height: int) -> Origin:
        """Returns everything that decides the figures of the given network at an input size."""
        settings = {"runner": self.runner, "size": [width, height]}
        return Origin("measure", settings, self._inputs("cfg", "weights", "valid"))

    def _made(self, folder: Path, origin: Origin) -> Input:
        """Returns a step's result as the input of another."""
        return Input(path_text(folder, self.folder), origin.key)

    def _inputs(self, *names: str) -> dict[str, Input]:
        return {name: self.inputs[name] for name in names if name in self.inputs}
