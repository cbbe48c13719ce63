"""Readers for `fuzz.py` of what darkprune itself wrote and continues from: records, caches, folders of runs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import cache
from pathlib import Path

from fuzz_readers import CFG, Reader, weights_of_cfg

from darkprune.graph.graph import read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.runs.record import FORMAT, Input, Origin, Record

SIZES = {"ratio": 0.5, "width": 32, "height": 32, "params": 1000, "macs": 2000, "value": 0.5, "kind": "pruned"}
ORIGIN = Origin("step", {"point": "x", "rate": 0.1}, {"cfg": Input("x.cfg", "a" * 64)})
RECORD = Record(origin=ORIGIN, result=SIZES, outputs={"x": "b" * 64}, command=("darkprune", "prune")).to_json()
CURVES = {"curves": [{"group": "g1", "channels": 8, "ratios": [0.5], "retained": [0.9], "left": {"macs": [0.5]}}]}
ROW = {**SIZES, "method": "group", "budget": "0.9", "recovery": "none", "seeds": 2, "map50": 0.5, "map50_std": 0.1,
       "ms": 2.5, "control": 0.4, "failed": "", "beats_control": True, "macs_removed": 0.2, "bytes": 7}  # fmt: skip


def _read_record(path: Path) -> Iterable[str]:
    from darkprune.runs.record import read_record

    read_record(path)
    return ()


def _read_manifest(path: Path) -> Iterable[str]:
    from darkprune.compression.run import open_manifest

    open_manifest(path.parent, {})
    return ()


def _read_cliff(path: Path) -> Iterable[str]:
    from darkprune.sweep.points import open_records, read_point

    sweep = Origin(ORIGIN.step, {"rate": 0.1}, ORIGIN.inputs)
    for record in open_records(path.parent, sweep, False).records.values():
        read_point(record)
    return ()


def _read_curves(path: Path) -> Iterable[str]:
    from darkprune.search.curve_cache import CurveCache

    found = CurveCache(path.with_name("x.weights"), "0" * 64)
    found.find(ORIGIN, [("g1", 8)], ["macs"])
    return [found.problem] if found.problem else []


@cache
def _run() -> Path:
    """Makes the folder of a pruned network."""
    from darkprune import Pair, PruneSettings, prune

    folder = Path(tempfile.mkdtemp(prefix="fuzz-run-"))
    (folder / "x.cfg").write_text(CFG, encoding="utf-8")
    (folder / "x.weights").write_bytes(weights_of_cfg())
    pair = Pair(folder / "x.cfg", folder / "x.weights")
    prune(pair, PruneSettings(ratio=0.5, min_channels=1), output=folder / "run").close()
    return folder / "run"


def _in_run(path: Path) -> None:
    """Puts the other files of a run beside one."""
    for other in _run().iterdir():
        if other.name != path.name:
            os.link(other, path.with_name(other.name))


def _read_run(path: Path) -> Iterable[str]:
    from darkprune import ReportSettings, report

    _in_run(path)
    made = report(path.parent, ReportSettings(runs=0, samples=0), output=path.with_name("page.html"))
    return [*made.warnings, *(part.what for part in made.missing)]


def _read_verify_report(path: Path) -> Iterable[str]:
    from darkprune.surgery.static_check import static_problems

    _in_run(path)
    graph = read_graph(path.with_name("x.cfg"))
    with closing(NetworkWeights(graph, path.with_name("x.weights"))) as slim:
        return static_problems(slim, slim, None, path, trained=False)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _of_records(form: str, name: str, records: object) -> bytes:
    return _json({"format": form, "network": {"cfg": "a" * 64}, name: records})


def _key_file(key: str) -> bytes:
    return _of_records("darkprune-curves/2", "records", {key: {**RECORD, "result": CURVES}})


SWEEP = {"metric": "mAP@0.5", "unpruned": 0.6, "pruned": [ROW], "recovered": [ROW], "control": [ROW]}
COMPARED = {"about": {"cfg": "y.cfg", "data": "d", "runner": "torch"}, "rows": [ROW, {**ROW, "failed": "x: no"}]}
MADE = {"darkprune": "0.1.0", "versions": {"numpy": "2.0"}, "commands": ["darkprune prune x"], "inputs": {"cfg": {}}}
STAGES = _of_records("darkprune-run/2", "stages", {"prune": RECORD, "distill": {**RECORD, "result": {"map50": 0.5}}})

#: name -> what makes the reader
READERS: dict[str, Callable[[], Reader]] = {
    "record": lambda: Reader("record", "x.json", [_json({"format": FORMAT, **RECORD})], _read_record),
    "manifest": lambda: Reader("manifest", "manifest.json", [STAGES], _read_manifest),
    "cliffstore": lambda: Reader(
        "cliffstore", "cliff.json", [_of_records("darkprune-cliff/2", "points", {"a": RECORD})], _read_cliff
    ),
    "curves": lambda: Reader("curves", "x.weights.sensitivity.json", [_key_file(ORIGIN.key)], _read_curves),
    "verifyreport": lambda: Reader(
        "verifyreport", "report.json", [(_run() / "report.json").read_bytes()], _read_verify_report
    ),
    "run": lambda: Reader("run", "report.json", [(_run() / "report.json").read_bytes()], _read_run),
    "run-plan": lambda: Reader("run-plan", "plan.json", [(_run() / "plan.json").read_bytes()], _read_run),
    "run-manifest": lambda: Reader("run-manifest", "manifest.json", [STAGES], _read_run),
    "run-cliff": lambda: Reader("run-cliff", "cliff.json", [_json(SWEEP)], _read_run),
    "run-compare": lambda: Reader("run-compare", "compare.json", [_json(COMPARED)], _read_run),
    "run-provenance": lambda: Reader("run-provenance", "run.json", [_json(MADE)], _read_run),
}
