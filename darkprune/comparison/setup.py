"""What all cells of a comparison have in common, and the hashes of their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkprune.comparison.cells import Cell
from darkprune.comparison.methods import method_of
from darkprune.runs.digests import plain
from darkprune.runs.record import Input, Origin
from darkprune.surgery.result import ResultNames
from darkprune.training.settings import TrainingKeys


@dataclass(frozen=True)
class Setup:
    """One checkpoint, one data set, one folder.

    Attributes:
        cfg, weights: the unpruned pair.
        folder: of the comparison.
        kind: what the budgets are about: `macs`, `params` or `size`.
        data, split, names: labelled images, the part that is measured on, names of the classes.
        images: unlabelled images, if there are some.
        runner: program that measures.
        candidates: how many EagleEye tries.
        common: settings of `darkprune prune` that hold for every method.
        keys: training keys.
        device: to train on.
        workers: processes or threads that prepare images for one cell.
        jobs: processes that the candidates of a search are tried in.
        digests: hashes of what is read: `cfg`, `weights`, `valid`, and where used `train` and `images`.
    """

    cfg: Path
    weights: Path
    folder: Path
    kind: str
    data: str
    split: str
    names: str | None
    images: Path | None
    runner: str
    candidates: int
    common: Mapping[str, Any] = field(default_factory=dict)
    keys: TrainingKeys = field(default_factory=TrainingKeys)
    device: str = "auto"
    workers: int | None = None
    jobs: int = 1
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> ResultNames:
        """Names of a slim pair's files."""
        return ResultNames.of(self.cfg.stem)

    def cut_folder(self, cell: Cell) -> Path:
        """Where a cell's cut lies."""
        return self.folder / "cuts" / cell.cut_name

    def pair_folder(self, cell: Cell) -> Path:
        """Where a cell's slim pair lies."""
        return self.folder / "pairs" / cell.name

    def record_file(self, name: str) -> Path:
        """Where what was measured lies."""
        return self.folder / "cells" / f"{name}.json"

    def cut_origin(self, cell: Cell) -> Origin:
        """Returns what decides a cut."""
        method = method_of(cell.method)
        settings = {
            "settings": {**plain(method.settings), **self.common},
            "layers": [method.units, method.channels],
            "budget": [self.kind, cell.budget],
            "rounds": method.rounds,
            "candidates": self.candidates if method.searches else 0,
            "seed": cell.cut_seed,
        }
        return Origin("cut", settings, self._inputs("cfg", "weights", *(["images"] if self.looks(cell) else [])))

    def pair_origin(self, cell: Cell) -> Origin:
        """Returns what decides a slim pair."""
        if cell.training is None:
            cut = Input(str(self.cut_folder(cell)), self.cut_origin(cell).key)
            inputs = {"cut": cut, **self._inputs(*(["images"] if cell.how != "none" else []))}
            return Origin("recover", {"how": cell.how, "seed": cell.seed}, inputs)
        read = "images" if cell.training == "distill-unlabelled" else "train"
        settings = {"training": cell.training, "keys": plain(self.keys), "seed": cell.seed}
        start = Input(str(self.pair_folder(cell.untrained)), self.pair_origin(cell.untrained).key)
        return Origin("train", settings, {"start": start, **self._inputs(read)})

    def measure_origin(self, pair: str, width: int = 0, height: int = 0) -> Origin:
        """Returns what decides a measurement of a pair, given by its key, at another input size if given."""
        settings = {"runner": self.runner, "size": [width, height]}
        return Origin("measure", settings, {"pair": Input("", pair), **self._inputs("valid")})

    def looks(self, cell: Cell) -> bool:
        """Whether a cut looks at images: it has to, or it can and there are some."""
        method = method_of(cell.method)
        return method.images or (self.images is not None and method.settings.similarity > 0)

    def _inputs(self, *names: str) -> dict[str, Input]:
        paths = {"cfg": self.cfg, "weights": self.weights, "images": self.images}
        return {name: Input(str(paths.get(name, self.data)), self.digests.get(name, "")) for name in names}
