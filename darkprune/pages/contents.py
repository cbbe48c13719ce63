"""Contents of a run's folder: cuts, training runs, sweeps, comparisons."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from darkprune.errors import DarkpruneError, DataError
from darkprune.runs.digests import digest_of_file
from darkprune.runs.json_file import JsonValue, read_json
from darkprune.surgery.plan import Plan
from darkprune.surgery.plan_file import read_plan
from darkprune.training.sparsity.gammas import GammaRecord, read_gammas

MOST_FOLDERS = 40  #: results in a run that a report shows
MOST_LOOKED_AT = 400  #: entries of a folder in which an original is looked for
RESULT_FILES = ("report.json", "log.csv", "cliff.json", "compare.json")  #: a folder with one of them holds a result

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class PairFiles:
    """Files of a network."""

    cfg: Path
    weights: Path


@dataclass(frozen=True)
class CutFolder:
    """A result of `darkprune prune`."""

    name: str
    pair: PairFiles
    plan: Plan
    report: JsonValue


@dataclass(frozen=True)
class TrainingFolder:
    """A result of `darkprune train` or `distill`.

    Attributes:
        name: of the folder.
        log: its table.
        pair: the trained network; None before the first weights are saved.
        gammas: histograms of γ over the epochs, if they were recorded.
    """

    name: str
    log: Path
    pair: PairFiles | None
    gammas: GammaRecord | None


@dataclass(frozen=True)
class Made:
    """How a result was made.

    Attributes:
        name: of its folder.
        folder: its path; recorded paths may be relative to it.
        record: report.json or run.json: commands, versions, inputs.
    """

    name: str
    folder: Path
    record: JsonValue


@dataclass(frozen=True)
class Contents:
    """A run.

    Attributes:
        folder: of the run.
        cuts, trainings: in the order in which they were made.
        cliffs, comparisons: folder name -> results of `darkprune cliff` and `compare`.
        made: how the results were made.
        manifest: of `darkprune compress`, else empty.
        problems: files that could not be read.
    """

    folder: Path
    cuts: tuple[CutFolder, ...]
    trainings: tuple[TrainingFolder, ...]
    cliffs: dict[str, JsonValue]
    comparisons: dict[str, JsonValue]
    made: tuple[Made, ...]
    manifest: JsonValue
    problems: tuple[str, ...]

    @property
    def results(self) -> tuple[CutFolder | TrainingFolder, ...]:
        """Cuts, then training runs."""
        return (*self.cuts, *self.trainings)

    @property
    def slim(self) -> PairFiles | None:
        """The network that the run ends with."""
        if self.manifest:
            own = _pair_in(self.folder)
            if own is not None:
                return own
        made = [part.pair for part in self.results if part.pair is not None]
        return max(made, key=lambda pair: pair.weights.stat().st_mtime, default=None)

    @property
    def cut(self) -> CutFolder | None:
        """The last cut."""
        return self.cuts[-1] if self.cuts else None


def read_contents(folder: Path) -> Contents:
    """Reads the results in a run's folder and in the folders directly below it.

    Raises:
        DataError: there is no such folder, or nothing in it is a result.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; give a folder that prune, train, distill, cliff, compare or compress wrote"
        )
    places, left_out = _places(folder)
    left = f"{left_out} older results in {folder} are left out: a report shows the newest {MOST_FOLDERS}"
    problems: dict[str, None] = dict.fromkeys([left] if left_out else [])

    def read_each(read: Callable[[Path], _Found | None]) -> list[tuple[str, _Found]]:
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

    cuts = tuple(cut for _, cut in read_each(_read_cut))
    before = None if cuts else _cut_before(folder)
    trainings = tuple(training for _, training in read_each(_read_training))
    cliffs, comparisons = dict(read_each(_json_file("cliff.json"))), dict(read_each(_json_file("compare.json")))
    folders = dict(places)
    made = tuple(
        Made(name, folders[name], record)
        for file in ("report.json", "run.json")
        for name, record in read_each(_json_file(file))
    )
    manifest = _json_file("manifest.json")(folder) or JsonValue(None)
    resized = manifest["stages"].fields and _pair_in(folder)  # compress may find the unpruned network best
    if not (cuts or trainings or cliffs or comparisons or resized):
        if problems:
            raise DataError(f"{next(iter(problems))}; nothing else in {folder} is a result of darkprune")
        raise DataError(
            f"{folder}: holds no report.json, log.csv, cliff.json or compare.json; give a folder that "
            "darkprune prune, train, distill, cliff, compare or compress wrote, or a folder of such folders"
        )
    if before is not None:
        cuts = (before[0],)
        made = (before[1], *made)
    return Contents(
        folder=folder,
        cuts=cuts,
        trainings=trainings,
        cliffs=cliffs,
        comparisons=comparisons,
        made=made,
        manifest=manifest,
        problems=tuple(problems),
    )


def _cut_before(folder: Path) -> tuple[CutFolder, Made] | None:
    """Finds the cut in another folder that the training in a folder began with, and how it was made."""
    try:
        run = _json_file("run.json")(folder)
        given = None if run is None else run["inputs"]["cfg"]
        if given is None or not given["path"].text or "\0" in given["path"].text:
            return None
        place = (folder / given["path"].text).parent
        cut = _read_cut(place)
        if cut is None or cut.report["outputs"]["cfg"]["sha256"].text != given["sha256"].text:
            return None
    except (DarkpruneError, OSError):  # what lies elsewhere need not be readable
        return None
    return cut, Made(cut.name, place, cut.report)


def _places(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """Returns the folders with results by name, the oldest results first, and how many are left out."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    dated = [
        (max(times), path)
        for path in (folder, *inside)
        if (times := [(path / name).stat().st_mtime for name in RESULT_FILES if (path / name).is_file()])
    ]
    named = [(_name(path), path) for _, path in sorted(dated)]
    return named[-MOST_FOLDERS:], max(0, len(named) - MOST_FOLDERS)


def _name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name


def _json_file(name: str) -> Callable[[Path], JsonValue | None]:
    """Returns a function that reads a JSON file of that name in a folder, if it is there."""

    def read(folder: Path) -> JsonValue | None:
        path = folder / name
        return read_json(path) if path.is_file() else None

    return read


def _read_cut(folder: Path) -> CutFolder | None:
    path = folder / "report.json"
    if not path.is_file():
        return None
    report = read_json(path)
    outputs = report["outputs"]
    names = [outputs[kind]["name"].text for kind in ("cfg", "weights", "plan")]
    if not all(names) or any(Path(part).name != part for part in names):
        raise DataError(f"{path}: is not a report of darkprune prune")
    cfg, weights, plan = (folder / part for part in names)
    for file in (cfg, weights):
        if not file.is_file():
            raise DataError(f"{file}: no such file, though {path} names it; prune again")
    return CutFolder(_name(folder), PairFiles(cfg, weights), read_plan(plan), report)


def _read_training(folder: Path) -> TrainingFolder | None:
    log, gammas = folder / "log.csv", folder / "gamma.npz"
    if not log.is_file():
        return None
    return TrainingFolder(_name(folder), log, _pair_in(folder), read_gammas(gammas) if gammas.is_file() else None)


def _pair_in(folder: Path) -> PairFiles | None:
    """Returns a folder's cfg with its weights: those of the result, else the final, the best or the last ones."""
    for cfg in sorted(folder.glob("*.cfg")):
        for kind in ("", "_final", "_best", "_last"):
            weights = folder / f"{cfg.stem}{kind}.weights"
            if weights.is_file():
                return PairFiles(cfg, weights)
    return None


def find_original(contents: Contents) -> PairFiles | None:
    """Finds the pair that the run began with: files of the recorded digests, at their recorded paths or near the run.

    Returns:
        The pair; None where it is not recorded, or not found.
    """
    wanted = {kind: text for kind, part in contents.manifest["network"].fields.items() if (text := part.text)}
    names: dict[str, str] = {}
    if contents.cuts and not wanted:
        inputs = _first_cut(contents.cuts).report["inputs"]
        wanted = {kind: inputs[kind]["sha256"].text for kind in ("cfg", "weights")}
        names = {kind: Path(inputs[kind]["name"].text).name for kind in wanted}
    found = {kind: _find_file(contents, digest, names.get(kind, "")) for kind, digest in wanted.items()}
    cfg, weights = found.get("cfg"), found.get("weights")
    return None if cfg is None or weights is None else PairFiles(cfg, weights)


def _find_file(contents: Contents, digest: str, name: str) -> Path | None:
    """Finds a file by its digest: among the recorded inputs, else by its name near the run's folder."""
    candidates = [path for path, recorded in _recorded_inputs(contents) if recorded == digest]
    if name:
        candidates += [place / name for place in _places_near(contents.folder)]
    return next((path for path in candidates if _has_digest(path, digest)), None)


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and digest_of_file(path) == digest
    except OSError:  # no name of a file, or one that cannot be read
        return False


def _recorded_inputs(contents: Contents) -> Iterator[tuple[Path, str]]:
    """Yields path and digest of everything that the run's records name as an input."""
    records = [(made.folder, made.record) for made in contents.made]
    records += [(contents.folder, stage) for stage in contents.manifest["stages"].fields.values()]
    for folder, record in records:
        for entry in record["inputs"].fields.values():
            if entry["path"].text and "\0" not in entry["path"].text:
                yield folder / entry["path"].text, entry["sha256"].text


def _first_cut(cuts: tuple[CutFolder, ...]) -> CutFolder:
    """Returns the first of the cuts that led to the last one; others in the folder may be of other networks."""
    first = cuts[-1]
    for cut in reversed(cuts[:-1]):
        if cut.report["outputs"]["cfg"]["sha256"].text == first.report["inputs"]["cfg"]["sha256"].text:
            first = cut
    return first


def _places_near(folder: Path) -> Iterator[Path]:
    above = Path(os.path.abspath(folder)).parent
    yield from (folder, above, Path())
    for place in (folder, above):
        yield from [path for path in sorted(place.iterdir())[:MOST_LOOKED_AT] if path.is_dir()]
