"""What lies in a folder that a report is asked about: cuts, training runs, sweeps, comparisons."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from darkprune.errors import CfgError, DarkpruneError, DataError
from darkprune.pruning.plan import PrunePlan, hash_file, read_plan
from darkprune.report.records import Record, read_record
from darkprune.training.gamma_figure import GammaRecord, read_gammas
from darkprune.zoo import resolve

MOST_FOLDERS = 40  #: of results in a run that are told of
MOST_WORDS = 200  #: of a command
MOST_LOOKED_AT = 400  #: entries of a folder in which an original is looked for


@dataclass(frozen=True)
class Pair:
    """A network on disk."""

    cfg: Path
    weights: Path


@dataclass(frozen=True)
class Cut:
    """A result of `darkprune prune`.

    Attributes:
        name: how the report calls it.
        pair: the slim network.
        plan: what was kept.
        record: report.json.
    """

    name: str
    pair: Pair
    plan: PrunePlan
    record: Record


@dataclass(frozen=True)
class Training:
    """A folder of `darkprune train` or `distill`.

    Attributes:
        name: how the report calls it.
        log: its table.
        pair: the trained network, as far as it is.
        gammas: what was recorded of γ.
        record: run.json.
    """

    name: str
    log: Path
    pair: Pair | None
    gammas: GammaRecord | None
    record: Record


@dataclass(frozen=True)
class Contents:
    """A run.

    Attributes:
        folder: of the run.
        cuts, trainings: in the order in which they were made.
        cliffs, comparisons: name -> what `darkprune cliff` and `compare` wrote.
        manifest: what `darkprune compress` wrote, else nothing.
        problems: what could not be read.
    """

    folder: Path
    cuts: tuple[Cut, ...]
    trainings: tuple[Training, ...]
    cliffs: dict[str, Record]
    comparisons: dict[str, Record]
    manifest: Record
    problems: tuple[str, ...]

    @property
    def results(self) -> tuple[Cut | Training, ...]:
        """Cuts, then training runs."""
        return (*self.cuts, *self.trainings)

    @property
    def slim(self) -> Pair | None:
        """The network that the run ends with."""
        if self.manifest:
            own = _pair_in(self.folder)
            if own is not None:
                return own
        made = [part.pair for part in self.results if part.pair is not None]
        return max(made, key=lambda pair: pair.weights.stat().st_mtime, default=None)

    @property
    def cut(self) -> Cut | None:
        """The last cut."""
        return self.cuts[-1] if self.cuts else None


def read_contents(folder: Path) -> Contents:
    """Looks through a run's folder: itself, and the folders in it.

    Raises:
        DataError: there is no such folder, or nothing in it is a result.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder that prune, train, distill, cliff or compress wrote")
    cuts: list[Cut] = []
    trainings: list[Training] = []
    cliffs: dict[str, Record] = {}
    comparisons: dict[str, Record] = {}
    problems: list[str] = []
    for place in _places(folder):
        name = place.name if place != folder else Path(os.path.abspath(folder)).name
        for read in (_cut, _training, _cliff, _comparison):
            try:
                found = read(name, place)
            except (DarkpruneError, OSError) as error:
                problems.append(str(error))
                continue
            if isinstance(found, Cut):
                cuts.append(found)
            elif isinstance(found, Training):
                trainings.append(found)
            elif found is not None:
                (cliffs if read is _cliff else comparisons)[name] = found
    manifest = folder / "manifest.json"
    contents = Contents(
        folder,
        tuple(cuts),
        tuple(trainings),
        cliffs,
        comparisons,
        read_record(manifest) if manifest.is_file() else Record(None),
        tuple(problems),
    )
    if not (cuts or trainings or cliffs or comparisons):
        reason = f" ({problems[0]})" if problems else ""
        raise DataError(
            f"{folder}: holds no report.json, log.csv, cliff.json or compare.json{reason}; give a folder that "
            "darkprune prune, train, distill, cliff, compare or compress wrote, or a folder of such folders"
        )
    return contents


def _places(folder: Path) -> list[Path]:
    """Returns the folder and the folders in it, the oldest results first."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    marks = ("report.json", "log.csv", "cliff.json", "compare.json")
    dated = [
        (max(files), path)
        for path in (folder, *inside[:MOST_LOOKED_AT])
        if (files := [(path / mark).stat().st_mtime for mark in marks if (path / mark).is_file()])
    ]
    return [path for _, path in sorted(dated)][:MOST_FOLDERS]


def _cut(name: str, folder: Path) -> Cut | None:
    path = folder / "report.json"
    if not path.is_file():
        return None
    record = read_record(path)
    outputs = record["outputs"]
    names = [outputs[kind]["name"].text for kind in ("cfg", "weights", "plan")]
    if not all(names) or any(Path(part).name != part for part in names):
        raise DataError(f"{path}: is not a report of darkprune prune")
    cfg, weights, plan = (folder / part for part in names)
    for file in (cfg, weights):
        if not file.is_file():
            raise DataError(f"{file}: no such file, though {path} speaks of it; prune again")
    return Cut(name, Pair(cfg, weights), read_plan(plan), record)


def _training(name: str, folder: Path) -> Training | None:
    log, gammas, run = folder / "log.csv", folder / "gamma.npz", folder / "run.json"
    if not log.is_file():
        return None
    return Training(
        name,
        log,
        _pair_in(folder),
        read_gammas(gammas) if gammas.is_file() else None,
        read_record(run) if run.is_file() else Record(None),
    )


def _pair_in(folder: Path) -> Pair | None:
    """Returns a folder's cfg with its weights: of a run the final, else the best, else the last ones."""
    for cfg in sorted(folder.glob("*.cfg")):
        for kind in ("", "_final", "_best", "_last"):
            weights = folder / f"{cfg.stem}{kind}.weights"
            if weights.is_file():
                return Pair(cfg, weights)
    return None


def _cliff(name: str, folder: Path) -> Record | None:
    path = folder / "cliff.json"
    return read_record(path) if path.is_file() else None


def _comparison(name: str, folder: Path) -> Record | None:
    path = folder / "compare.json"
    return read_record(path) if path.is_file() else None


def find_original(contents: Contents) -> Pair | None:
    """Looks for the pair that the run began with, by its hashes: in the commands that it tells, near it, and here."""
    wanted = {kind: text for kind, part in contents.manifest["network"].fields.items() if (text := part.text)}
    names: dict[str, str] = {}
    if contents.cuts and not wanted:
        inputs = contents.cuts[0].record["inputs"]
        wanted = {kind: inputs[kind]["sha256"].text for kind in ("cfg", "weights")}
        names = {kind: Path(inputs[kind]["name"].text).name for kind in wanted}
    found = {}
    for kind in ("cfg", "weights"):
        candidates = [path for path in _told_of(contents) if path.suffix == f".{kind}"]
        if names.get(kind):
            candidates += [place / names[kind] for place in _near(contents.folder)]
        hashed = (path for path in candidates if path.is_file() and hash_file(path) == wanted.get(kind))
        found[kind] = next(hashed, None)
    if found["cfg"] is None or found["weights"] is None:
        return None
    return Pair(found["cfg"], found["weights"])


def _told_of(contents: Contents) -> list[Path]:
    """Returns the files that the run's commands name."""
    lines = [stage["command"].texts for stage in contents.manifest["stages"].fields.values()]
    for part in contents.results:
        for line in part.record["commands"].texts:
            with suppress(ValueError):  # an unclosed quote
                lines.append(shlex.split(line))
    paths: dict[Path, None] = {}
    for word in (word for line in lines for word in line[:MOST_WORDS]):
        for kind in ("cfg", "weights"):
            with suppress(CfgError):  # darkprune brings no such file
                paths[resolve(word, kind)] = None
    return list(paths)


def _near(folder: Path) -> Iterator[Path]:
    above = Path(os.path.abspath(folder)).parent
    yield from (folder, above, Path())
    for place in (folder, above):
        yield from [path for path in sorted(place.iterdir())[:MOST_LOOKED_AT] if path.is_dir()]
