"""What lies in a folder that a report is asked about: cuts, training runs, sweeps, comparisons."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from darkprune.errors import CfgError, DarkpruneError, DataError
from darkprune.report.records import Record, read_record
from darkprune.runs.digests import digest_of_file
from darkprune.surgery.plan import PrunePlan
from darkprune.surgery.plan_file import read_plan
from darkprune.training.sparsity.gamma_figure import GammaRecord, read_gammas
from darkprune.zoo import resolve

MOST_FOLDERS = 40  #: of results in a run that are told of
MOST_WORDS = 200  #: of a command
MOST_LOOKED_AT = 400  #: entries of a folder in which an original is looked for
MARKS = ("report.json", "log.csv", "cliff.json", "compare.json")  #: what tells a folder with results

_Found = TypeVar("_Found")


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
    """

    name: str
    log: Path
    pair: Pair | None
    gammas: GammaRecord | None


@dataclass(frozen=True)
class Contents:
    """A run.

    Attributes:
        folder: of the run.
        cuts, trainings: in the order in which they were made.
        cliffs, comparisons: name -> what `darkprune cliff` and `compare` wrote.
        made: how each of these was made: its name, and what it says of commands and versions.
        manifest: what `darkprune compress` wrote, else nothing.
        problems: what could not be read.
    """

    folder: Path
    cuts: tuple[Cut, ...]
    trainings: tuple[Training, ...]
    cliffs: dict[str, Record]
    comparisons: dict[str, Record]
    made: tuple[tuple[str, Record], ...]
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
        raise DataError(
            f"{folder}: no such folder; give a folder that prune, train, distill, cliff, compare or compress wrote"
        )
    places, left_out = _places(folder)
    left = f"{left_out} older results in {folder} are left out: a report tells of the newest {MOST_FOLDERS}"
    problems: dict[str, None] = dict.fromkeys([left] if left_out else [])

    def all_of(read: Callable[[Path], _Found | None]) -> list[tuple[str, _Found]]:
        found = []
        for name, place in places:
            try:
                part = read(place)
            except (DarkpruneError, OSError) as error:
                problems[str(error)] = None
                continue
            if part is not None:
                found.append((name, part))
        return found

    cuts = tuple(replace(cut, name=name) for name, cut in all_of(_cut))
    trainings = tuple(replace(training, name=name) for name, training in all_of(_training))
    cliffs, comparisons = dict(all_of(_record_in("cliff.json"))), dict(all_of(_record_in("compare.json")))
    made = tuple((name, record) for kind in ("report.json", "run.json") for name, record in all_of(_record_in(kind)))
    if not (cuts or trainings or cliffs or comparisons):
        if problems:
            raise DataError(f"{next(iter(problems))}; nothing else in {folder} is a result of darkprune")
        raise DataError(
            f"{folder}: holds no report.json, log.csv, cliff.json or compare.json; give a folder that "
            "darkprune prune, train, distill, cliff, compare or compress wrote, or a folder of such folders"
        )
    manifest = _record_in("manifest.json")(folder) or Record(None)
    return Contents(folder, cuts, trainings, cliffs, comparisons, made, manifest, tuple(problems))


def _places(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """Returns the folder and the folders in it by name, the oldest results first, and how many are left out."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    dated = [
        (max(files), path)
        for path in (folder, *inside)
        if (files := [(path / mark).stat().st_mtime for mark in MARKS if (path / mark).is_file()])
    ]
    named = [(Path(os.path.abspath(path)).name, path) for _, path in sorted(dated)]
    return named[-MOST_FOLDERS:], max(0, len(named) - MOST_FOLDERS)


def _record_in(name: str) -> Callable[[Path], Record | None]:
    """Returns what reads a JSON file of that name in a folder, where there is one."""

    def read(folder: Path) -> Record | None:
        path = folder / name
        return read_record(path) if path.is_file() else None

    return read


def _cut(folder: Path) -> Cut | None:
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
    return Cut("", Pair(cfg, weights), read_plan(plan), record)


def _training(folder: Path) -> Training | None:
    log, gammas = folder / "log.csv", folder / "gamma.npz"
    if not log.is_file():
        return None
    return Training("", log, _pair_in(folder), read_gammas(gammas) if gammas.is_file() else None)


def _pair_in(folder: Path) -> Pair | None:
    """Returns a folder's cfg with its weights: of a run the final, else the best, else the last ones."""
    for cfg in sorted(folder.glob("*.cfg")):
        for kind in ("", "_final", "_best", "_last"):
            weights = folder / f"{cfg.stem}{kind}.weights"
            if weights.is_file():
                return Pair(cfg, weights)
    return None


def find_original(contents: Contents) -> Pair | None:
    """Looks for the pair that the run began with, by its hashes: in the commands that it tells, near it, and here."""
    wanted = {kind: text for kind, part in contents.manifest["network"].fields.items() if (text := part.text)}
    names: dict[str, str] = {}
    if contents.cuts and not wanted:
        inputs = _first_of(contents.cuts).record["inputs"]
        wanted = {kind: inputs[kind]["sha256"].text for kind in ("cfg", "weights")}
        names = {kind: Path(inputs[kind]["name"].text).name for kind in wanted}
    if not wanted:
        return None
    found = {}
    for kind in ("cfg", "weights"):
        candidates = [path for path in _told_of(contents) if path.suffix == f".{kind}"]
        if names.get(kind):
            candidates += [place / names[kind] for place in _near(contents.folder)]
        hashed = (path for path in candidates if path.is_file() and digest_of_file(path) == wanted.get(kind))
        found[kind] = next(hashed, None)
    if found["cfg"] is None or found["weights"] is None:
        return None
    return Pair(found["cfg"], found["weights"])


def _first_of(cuts: tuple[Cut, ...]) -> Cut:
    """Returns the first of the cuts that led to the last one; others in the folder may be of other networks."""
    last = cuts[-1]
    for cut in reversed(cuts[:-1]):
        if cut.record["outputs"]["cfg"]["sha256"].text == last.record["inputs"]["cfg"]["sha256"].text:
            last = cut
    return last


def _told_of(contents: Contents) -> list[Path]:
    """Returns the files that the run's commands name."""
    lines = [stage["command"].texts for stage in contents.manifest["stages"].fields.values()]
    for _, record in contents.made:
        for line in record["commands"].texts:
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
