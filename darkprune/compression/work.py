"""What the stages of a run do: each calls a function of the library and returns its figures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from darkprune.api.evaluate import EvaluateSettings, evaluate
from darkprune.api.export import ExportSettings, export
from darkprune.api.kit import KitSettings, write_kit
from darkprune.api.prune import PruneSettings, prune
from darkprune.api.train import distill, train
from darkprune.compression.network import RunNetwork
from darkprune.compression.summary import best_of
from darkprune.darknet.output import atomic_file
from darkprune.data.image_files import images_of
from darkprune.evaluation.control import control_at, control_networks
from darkprune.progress import Progress, say
from darkprune.runners.base import FAST_FIRST, load_with_any
from darkprune.runners.measure import distance_to
from darkprune.training.result import TrainResult
from darkprune.training.settings import DistillSettings, TrainSettings

if TYPE_CHECKING:
    from darkprune.compression.plan import Compression


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
    settings = replace(settings, resume=resume, overwrite=not resume)
    return _trained(distill(teacher.pair(), student.pair(), output, settings, progress=progress), progress)


def cut(
    network: RunNetwork, output: Path, settings: PruneSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Prunes a network, see `darkprune.api.prune`."""
    surgery = prune(network.pair(), replace(settings, overwrite=True), output=output, progress=progress)
    surgery.close()
    assert surgery.result is not None
    return _figures(surgery.result, progress)


def measure(
    network: RunNetwork, data: Path, settings: EvaluateSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Measures mAP, see `darkprune.api.evaluate`."""
    return _figures(evaluate(network.pair(), data, settings, progress=progress), progress)


def measure_control(
    run: Compression, data: Path, settings: EvaluateSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Measures the unpruned network at the input sizes around the slim one's operations, and interpolates."""
    macs = run.current.pair().graph.macs
    networks = control_networks(run.original.pair().graph, [macs])
    sizes = [f"{network.net.input.w}x{network.net.input.h}" for network in networks]
    known = run.records.records.get("evaluate: original")
    values = [float(known.result["map50"])] if known is not None and known.done else []
    for size in sizes[len(values) :]:
        values.append(evaluate(run.original.pair(), data, replace(settings, size=size), progress=progress).map50)
    points = [(network.macs, value) for network, value in zip(networks, values, strict=True)]
    map50 = control_at(points, macs)
    if map50 is None or len(networks) == 1:
        return {}
    between = f"{sizes[-2]} to {sizes[-1]}" if networks[-1].macs < macs else sizes[-1]
    return {"network": f"original at {between}", "map50": map50, "macs": macs}


def measure_distance(
    original: RunNetwork, network: RunNetwork, images: Path, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Measures how far a network's scores are from the original's, see `OutputDistance`."""
    (_, before), (_, after) = (
        load_with_any(each.pair().graph, each.weights, None, taps=False, order=FAST_FIRST)
        for each in (original, network)
    )
    return {"distance": distance_to(before, images_of(images))(after, progress)}


def put_result(
    run: Compression, files: Sequence[Path], names: Path | None, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Copies the best network, and the names of its classes, to the top of the run's folder."""
    best = best_of(run)
    for path, source in zip(files, (*best.files, *([names] if names is not None else [])), strict=True):
        with atomic_file(path, overwrite=True) as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)
    return {"network": best.name}


def export_network(
    network: RunNetwork, output: Path, settings: ExportSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Writes an ONNX file, see `darkprune.api.export`."""
    return _figures(export(network.pair(), output, replace(settings, overwrite=True), progress=progress), progress)


def write_kit_of(
    network: RunNetwork, output: Path, settings: KitSettings, resume: bool, progress: Progress
) -> Mapping[str, object]:
    """Writes a kit, see `darkprune.api.kit`."""
    return _figures(write_kit(network.pair(), output, replace(settings, overwrite=True), progress=progress), progress)


def _trained(result: TrainResult, progress: Progress) -> Mapping[str, object]:
    if result.stopped:
        raise KeyboardInterrupt
    return _figures(result, progress)


def _figures(result: _Result, progress: Progress) -> Mapping[str, object]:
    for line in result.warnings:
        say(progress, f"warning: {line}")
    return result.to_json()
