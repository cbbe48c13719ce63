"""`compress`: from a checkpoint to a slim one that is ready to use, stage by stage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkprune.api.pair import Pair, load
from darkprune.api.prune import refuse_early
from darkprune.compression.available import find_available
from darkprune.compression.network import RunNetwork
from darkprune.compression.plan import plan_run
from darkprune.compression.run import Compression, open_manifest
from darkprune.compression.settings import STAGES, CompressSettings
from darkprune.compression.summary import NetworkFigures, advice_for, figures_of, verdict_on
from darkprune.darknet.output import check_folder
from darkprune.errors import UsageError
from darkprune.json_types import JsonMapping, JsonObject
from darkprune.progress import Progress, reporting, say
from darkprune.runs.digests import digest_of_file
from darkprune.runs.lock import locked
from darkprune.runs.stages import Stage, Status, look_ahead, run_stages
from darkprune.settings import PathLike


@dataclass(frozen=True, kw_only=True)
class CompressResult:
    """A run that is done.

    Attributes:
        run: its folder.
        cfg, weights: the slim pair.
        networks: figures of the original, of what each stage made of it, and of the control last.
        outputs: the files of the result: the pair, the names of its classes, the ONNX file or that of the kit.
        advice: what was to be expected of a run with what there was to work with.
        warnings: what the figures say against the result.
        stages: what each stage reported, as JSON values.
    """

    run: Path
    cfg: Path
    weights: Path
    networks: tuple[NetworkFigures, ...]
    outputs: tuple[Path, ...]
    advice: tuple[str, ...]
    warnings: tuple[str, ...]
    stages: Mapping[str, JsonMapping]

    @property
    def pair(self) -> Pair:
        """The slim pair."""
        return load(self.cfg, self.weights)

    @property
    def figures(self) -> NetworkFigures:
        """Those of the result."""
        return next(network for network in self.networks if network.result)

    @property
    def verdict(self) -> str:
        """What `verify` says of the result, in words; empty where it was left out."""
        return str(self.stages.get("verify", {}).get("said", ""))

    @property
    def map50(self) -> float | None:
        """mAP@0.5 of the result; None where it was not measured."""
        return self.figures.map50

    def to_json(self) -> JsonObject:
        """Returns the result as JSON values."""
        return {
            "run": str(self.run),
            "networks": [network.to_json() for network in self.networks],
            "outputs": [os.path.relpath(path) for path in self.outputs],
            "advice": list(self.advice),
            "stages": {name: dict(figures) for name, figures in self.stages.items()},
        }


@dataclass(frozen=True)
class CompressPreview:
    """What a run would do.

    Attributes:
        stages: each with whether there is anything to do, and why.
        advice: what to expect.
    """

    stages: tuple[tuple[Stage, Status], ...]
    advice: tuple[str, ...]


def compress(
    cfg: PathLike, weights: PathLike, settings: CompressSettings, output: PathLike, *, progress: Progress | None = None
) -> CompressResult:
    """Prunes, repairs, trains, measures and exports a pair, with whatever there is to work with.

    What is done stays done: the same call goes on where it was interrupted, and does again only what depends on
    something that has changed.

    Args:
        cfg: the cfg, or `builtin:NAME`.
        weights: its weights, likewise.
        settings: how much is to go, what there is to work with, and settings of the stages.
        output: folder of the run: made, or gone on with.
        progress: gets a line before each stage, and the events of its work.

    Raises:
        UsageError: settings that make no sense.
        DataError: images or labels that cannot be used.
        PlanError: the amount cannot be reached.
        OutputError: the folder holds something else, or cannot be written.
        KeyboardInterrupt: it was interrupted; the same call goes on from there.
    """
    pair = load(cfg, weights)
    run = _plan(pair, settings, Path(output))
    advice = (*pair.warnings(), *advice_for(run))
    with reporting(progress), locked(run.folder):
        for line in advice:
            say(f"warning: {line}")
        run.records.write()  # first, so that the folder is known for a run's wherever it is killed
        for source in run.to_write():
            run.write(source)
        run_stages(run.stages, run.records, run.seconds_per_pass)
    networks = figures_of(run)
    return CompressResult(
        run=run.folder,
        cfg=run.result.cfg,
        weights=run.result.weights,
        networks=networks,
        outputs=tuple(path for stage in run.stages if stage.kind in ("result", "export") for path in stage.files),
        advice=advice,
        warnings=tuple(verdict_on(networks)),
        stages={stage.name: run.records.records[stage.name].result for stage in run.stages},
    )


def preview(cfg: PathLike, weights: PathLike, settings: CompressSettings, output: PathLike) -> CompressPreview:
    """Returns what `compress` would do with the same arguments; nothing is written."""
    pair = load(cfg, weights)
    run = _plan(pair, settings, Path(output))
    return CompressPreview(tuple(look_ahead(run.stages, run.records)), (*pair.warnings(), *advice_for(run)))


def _plan(pair: Pair, settings: CompressSettings, folder: Path) -> Compression:
    """Plans a run, and refuses what cannot work before anything is drawn, trained or scored."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("compress is one process; for several, run darkprune train and distill with torchrun")
    original = RunNetwork("original", pair.cfg, pair.weights_file)
    check_folder(folder, original.files, overwrite=True, in_use=True)  # what may lie in it is for the manifest to say
    available = find_available(settings, pair.graph, folder)
    network = {"cfg": digest_of_file(original.cfg), "weights": digest_of_file(original.weights)}
    run = plan_run(original, open_manifest(folder, network, settings.overwrite), available, settings)
    with pair.open() as weights:
        refuse_early(weights, run.prune_settings)
    if settings.begin is not None:
        later = STAGES[STAGES.index(settings.begin) :]
        first = next((number for number, stage in enumerate(run.stages) if stage.kind in later), len(run.stages))
        run.records.drop(stage.name for stage in run.stages[first:])
    return run
