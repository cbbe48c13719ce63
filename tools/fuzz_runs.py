"""Readers for `fuzz.py` of what darkprune itself wrote and continues from: records, caches, folders of runs."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from fuzz_inputs import changed_within, odd_value
from fuzz_readers import CFG, Reader, weights_of_cfg

from darkprune.graph.graph import read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.runs.record import FORMAT, Input, Origin, Record

if TYPE_CHECKING:
    from darkprune import TrainSettings

DRAWN = 16  #: diagrams take most of the time: those of one report in so many are drawn
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
    from darkprune.pages import context

    _in_run(path)
    render = context.render_figure
    if crc32(path.read_bytes()) % DRAWN:
        context.render_figure = lambda figure, kind: b"<svg/>"
    try:
        made = report(path.parent, ReportSettings(runs=0, samples=0), output=path.with_name("page.html"))
    finally:
        context.render_figure = render
    return [*made.warnings, *(part.what for part in made.missing)]


@cache
def _training() -> Path:
    """Makes the folder of a training run, beside its data."""
    import torch

    from darkprune import Pair, train
    from darkprune.data.scenes import write_scenes

    torch.set_num_threads(1)  # others would be missing, and waited for, in the processes that inputs are given to
    folder = Path(tempfile.mkdtemp(prefix="fuzz-training-"))
    write_scenes(folder, 4, 2)
    (folder / "x.cfg").write_text(CFG.replace("classes=1", "classes=6").replace("filters=18", "filters=33"))
    train(Pair(folder / "x.cfg", None), folder / "scenes.data", folder / "run", _settings(False))
    return folder


def _settings(resume: bool) -> TrainSettings:
    from darkprune import TrainSettings

    return TrainSettings(iterations=2, batch=2, subdivisions=1, workers=0, no_tensorboard=True, save_every=1,
                         sparsity="dynamic", resume=resume)  # fmt: skip


def _resume(path: Path) -> Iterable[str]:
    from darkprune import Pair, train

    place, name = _training(), path.name
    for other in (place / "run").iterdir():
        if other.name != name:
            shutil.copyfile(other, path.with_name(other.name))
    done = train(Pair(place / "x.cfg", None), place / "scenes.data", path.parent, _settings(True))
    return done.warnings


def _changed_state(draw: random.Random) -> bytes:
    """Draws a state with other values in it: what damages its bytes is found by their checksum."""
    import torch

    def value(draw: random.Random, depth: int) -> object:
        if draw.random() < 0.5:
            return odd_value(draw, depth)
        sizes = [draw.choice((0, 1, 3, 16)) for _ in range(draw.randint(0, 4))]
        kind = draw.choice((torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool))
        return torch.full(sizes, draw.choice((0.0, 1.0, float("nan"), float("inf"))), dtype=torch.float32).to(kind)

    state = torch.load(io.BytesIO(_file("state.pt")), weights_only=True)
    for _ in range(draw.choice((1, 1, 2, 4))):
        state = changed_within(draw, state, value)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _file(name: str) -> bytes:
    return (_training() / "run" / name).read_bytes()


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
    "run-log": lambda: Reader("run-log", "log.csv", [_file("log.csv")], _read_run),
    "run-gamma": lambda: Reader("run-gamma", "gamma.npz", [_file("gamma.npz")], _read_run),
    "resume": lambda: Reader("resume", "state.pt", [_file("state.pt")], _resume, _changed_state),
    "resume-log": lambda: Reader("resume-log", "log.csv", [_file("log.csv")], _resume),
    "resume-gamma": lambda: Reader("resume-gamma", "gamma.npz", [_file("gamma.npz")], _resume),
    "resume-provenance": lambda: Reader("resume-provenance", "run.json", [_file("run.json")], _resume),
    "run-provenance": lambda: Reader("run-provenance", "run.json", [_json(MADE)], _read_run),
}
