"""How a pair in a folder of results came about: the cut that it goes back to, and what was done with it since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkprune.runs import provenance
from darkprune.runs.digests import digest_of_file
from darkprune.runs.json_file import JsonValue, find_json

MOST_STEPS = 20  #: trainings of each other's results that are followed


@dataclass(frozen=True)
class History:
    """What records say of a pair.

    Attributes:
        cut: folder of the cut that it goes back to.
        report: report.json of that folder.
        changed: what was done with the weights since: `refitted (lsq)`, `trained`; empty if nothing.
    """

    cut: Path
    report: JsonValue
    changed: str


def history_of(cfg: Path, weights: Path) -> History | None:
    """Follows records back to a cut: that of a training names the pair before, that of `compress` the one it took.

    Returns:
        What was found; None where no record leads to a cut.
    """
    trained = False
    for _ in range(MOST_STEPS):
        report = find_json(cfg.parent / "report.json")
        if report is not None:
            how = report["recovery"]["how"].text
            is_own = report["outputs"]["weights"]["name"].text == weights.name
            refitted = f"refitted ({how})" if is_own and how not in ("", "none") else ""
            return History(cfg.parent, report, "trained" if trained else refitted)
        run = find_json(cfg.parent / provenance.NAME)
        source = _chosen(cfg, weights) if run is None else _pair(cfg.parent, run["inputs"].fields, "")
        if source is None:
            return None
        trained |= run is not None
        cfg, weights = source
    return None


def _chosen(cfg: Path, weights: Path) -> tuple[Path, Path] | None:
    """Returns the pair that `compress` took for the result beside its manifest: the one of the same content."""
    manifest = find_json(cfg.parent / "manifest.json")
    inputs = {} if manifest is None else manifest["stages"]["result"]["inputs"].fields
    names = [role.removesuffix("cfg") for role in inputs if role.endswith(" cfg")]
    wanted = [digest_of_file(cfg), digest_of_file(weights)] if names else []
    for name in names:
        if [inputs.get(name + kind, JsonValue(None))["sha256"].text for kind in ("cfg", "weights")] == wanted:
            return _pair(cfg.parent, inputs, name)
    return None


def _pair(folder: Path, inputs: Mapping[str, JsonValue], name: str) -> tuple[Path, Path] | None:
    """Finds recorded files, at their path or, where folders were moved together, beside this one."""
    found = []
    for kind in ("cfg", "weights"):
        entry = inputs.get(name + kind, JsonValue(None))
        path, digest = Path(entry["path"].text.replace("\0", "")), entry["sha256"].text
        places = (folder / path, folder.parent / path.parent.name / path.name)
        found += [place for place in places if place.is_file() and digest_of_file(place) == digest][:1]
    return (found[0], found[1]) if len(found) == 2 else None
