"""What the stages of a run do: each calls a function of the library and returns its figures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

import numpy as np

from darkprune.api.conversion.export import ExportSettings, export
from darkprune.api.conversion.kit import KitSettings, write_kit
from darkprune.api.evaluate import EvaluateSettings, evaluate
from darkprune.api.factorize import FactorizeSettings, factorize
from darkprune.api.prune import PruneSettings, prune
from darkprune.api.train import distill, train
from darkprune.api.verify import VerifySettings, verify
from darkprune.compression.network import RunNetwork
from darkprune.compression.summary import best_of
from darkprune.darknet.output import atomic_file
from darkprune.errors import DarkpruneError
from darkprune.evaluation.control import control_at, control_networks
from darkprune.json_types import JsonMapping
from darkprune.progress import Progress, say
from darkprune.runners.base import load_with_any
from darkprune.runners.measure import AGREEMENT
from darkprune.runners.timing import time_alternately
from darkprune.runs.stages import FileSource
from darkprune.training.result import TrainResult
from darkprune.training.settings import DistillSettings, TrainSettings

if TYPE_CHECKING:
    from darkprune.compression.run import Compression


INFERENCE = ("onnxruntime", "opencv", "torch")  #: programs to time in, as users will run the result
FEWEST_RUNS, MOST_RUNS, TIMING_SECONDS = 5, 50, 5.0  #: of each network


class _Result(Protocol):
    """What the library's functions return."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def to_json(self) -> Mapping[str, object]: ...


def train_on_labels(
    network: RunNetwork, data: Path, output: Path, settings: TrainSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Trains a network, see `darkprune.api.train`."""
    settings = replace(settings, resume=resume, overwrite=not resume)
    return _trained(train(network.pair(), data, output, settings, progress=progress), progress)


def distil(
    teacher: RunNetwork,
    student: RunNetwork,
    output: Path,
    settings: DistillSettings,
    resume: bool,
    progress: Progress,
) -> Mapping[str, object]:
    """Lets a slim network learn from the original, see `darkprune.api.train`."""
    plan = settings.plan if settings.plan is not None and Path(settings.plan).is_file() else None
    settings = replace(settings, resume=resume, overwrite=not resume, plan=plan)
    return _trained(distill(teacher.pair(), student.pair(), output, settings, progress=progress), progress)


def cut(
    network: RunNetwork,
    output: Path,
    settings: PruneSettings | FactorizeSettings,
    resume: bool,
    progress: Progress,
) -> Mapping[str, object]:
    """Prunes a network or writes its convolutions as products, see `darkprune.api.prune` and `.factorize`."""
    if isinstance(settings, PruneSettings):
        surgery = prune(network.pair(), replace(settings, overwrite=True), output=output, progress=progress)
    else:
        surgery = factorize(network.pair(), replace(settings, overwrite=True), output=output, progress=progress)
    surgery.close()
    assert surgery.result is not None
    return _figures(surgery.result, progress)


def check(run: Compression, settings: VerifySettings, resume: bool, progress: Progress) -> Mapping[str, object]:
    """Checks that the result is what its plan says, see `darkprune.api.verify`.

    Raises:
        DarkpruneError: it is not.
    """
    name = run.records.records["result"].result["network"]
    best = next(network for network in run.networks if network.name == name)
    cut = run.cut_of(best)
    if cut is None:
        return {"verdict": "not pruned", "said": "it is the original at a smaller input: nothing was cut"}
    original, plan = run.made_of[cut.name], cut.cfg.with_name("plan.json")
    # not the copy: the report beside the network itself says whether it was refitted
    result = verify(best.pair(), original.pair(), replace(settings, plan=plan), progress=progress)
    if result.verdict == "wrong":
        problem = "; ".join(result.problems[:3]) or "its numbers differ from the original's"
        raise DarkpruneError(f"{run.result.cfg}: {result.describe()}: {problem}")
    if not result.ok:
        say(progress, f"warning: {result.describe()}")
    return {"verdict": result.verdict, "said": result.describe(), "runner": result.runner or None}


def measure(
    network: RunNetwork, data: Path, settings: EvaluateSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Measures mAP, see `darkprune.api.evaluate`."""
    return _figures(evaluate(network.pair(), data, settings, progress=progress), progress)


def measure_without_labels(
    run: Compression, network: RunNetwork, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Compares a network with the original on held-out images, see `Judge`."""
    return run.judge.measure(network.pair().graph, network.weights, progress)


def measure_control(
    run: Compression, settings: EvaluateSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Measures the original at the input sizes around the slim network's operations, and interpolates."""
    macs = run.candidates[-1].pair().graph.macs
    graphs = control_networks(run.original.pair().graph, [macs])
    points: list[tuple[int, float]] = []
    measure = AGREEMENT
    for graph in graphs:
        size = f"{graph.net.input.w}x{graph.net.input.h}"
        known = run.records.records.get("evaluate: original") if not points else None
        if known is not None and known.done:
            found: JsonMapping = known.result
        elif run.available.valid is not None:
            data = run.available.valid.path
            found = evaluate(run.original.pair(), data, replace(settings, size=size), progress=progress).to_json()
        else:
            found = run.judge.measure(graph, run.original.weights, progress)
        measure = "map50" if run.available.valid is not None else AGREEMENT
        if measure not in found:  # distances do not compare networks of different input sizes
            return {}
        points.append((graph.macs, float(found[measure])))
    value = control_at(points, macs)
    if value is None or len(graphs) == 1:
        return {}
    sizes = [f"{graph.net.input.w}x{graph.net.input.h}" for graph in graphs]
    between = f"{sizes[-2]} to {sizes[-1]}" if graphs[-1].macs < macs else sizes[-1]
    return {"network": f"original at {between}", measure: value, "macs": macs, "points": [list(p) for p in points]}


def measure_time(original: RunNetwork, result: RunNetwork, resume: bool, progress: Progress) -> Mapping[str, object]:
    """Times two networks in turn with one image, in the same program."""
    graphs = [network.pair().graph for network in (original, result)]
    runner, before = load_with_any(graphs[0], original.weights, None, taps=False, order=INFERENCE)
    _, after = load_with_any(graphs[1], result.weights, runner, taps=False)
    random = np.random.default_rng(0)
    shapes = [graph.net.input for graph in graphs]
    images = [random.random((1, shape.c, shape.h, shape.w), np.float32) for shape in shapes]
    (first,), _ = time_alternately([before, after], images, 1, 1)
    runs = min(MOST_RUNS, max(FEWEST_RUNS, int(TIMING_SECONDS / first)))
    medians = [median(seconds) * 1e3 for seconds in time_alternately([before, after], images, runs, 0, progress)]
    return {"runner": runner, "runs": runs, "before_ms": medians[0], "after_ms": medians[1]}


def put_best(
    run: Compression,
    candidates: Sequence[RunNetwork],
    made: RunNetwork,
    names: FileSource | None,
    resume: bool,
    progress: Progress,
) -> Mapping[str, object]:
    """Copies the best of several networks, with its plan where it has one, and the names of the classes."""
    best = best_of(run, candidates)
    copies = dict(zip(made.files, best.files, strict=True))
    plan, copied = best.cfg.with_name("plan.json"), made.cfg.with_name("plan.json")
    if plan.is_file():
        copies[copied] = plan
    else:
        copied.unlink(missing_ok=True)  # that of an earlier choice
    if names is not None:
        copies[made.cfg.with_suffix(".names")] = names.path
    for path, source in copies.items():
        with atomic_file(path, overwrite=True) as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)
    return {"network": best.name}


def export_network(
    network: RunNetwork, output: Path, settings: ExportSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Writes an ONNX file, see `darkprune.api.conversion.export`."""
    return _figures(export(network.pair(), output, replace(settings, overwrite=True), progress=progress), progress)


def write_kit_of(
    network: RunNetwork, output: Path, settings: KitSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Writes a kit, see `darkprune.api.conversion.kit`."""
    return _figures(write_kit(network.pair(), output, replace(settings, overwrite=True), progress=progress), progress)


def _trained(result: TrainResult, progress: Progress) -> Mapping[str, object]:
    if result.stopped:
        raise KeyboardInterrupt
    return _figures(result, progress)


def _figures(result: _Result, progress: Progress) -> Mapping[str, object]:
    for line in result.warnings:
        say(progress, f"warning: {line}")
    return result.to_json()
