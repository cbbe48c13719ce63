"""The stages of a run, with their settings, for what the user has.

| given | stages |
|---|---|
| labels | sparse training → pruning → least-squares recovery → distillation → mAP → ONNX or kit |
| images | pruning by sensitivity → least-squares recovery → label-free distillation → output distance → ONNX or kit |
| the pair alone | the same on drawn scenes, without distillation and measurement |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from darkprune.api.evaluate import EvaluateSettings
from darkprune.api.export import ExportSettings
from darkprune.api.kit import KitSettings
from darkprune.api.prune import PruneSettings
from darkprune.compression import work
from darkprune.compression.available import Available
from darkprune.compression.defaults import (
    RECIPE,
    SPARSE_EPOCHS,
    TUNE_EPOCHS,
    UNLABELLED_EPOCHS,
    UNLABELLED_RATE,
    WITHOUT_EFFECT,
    steps_for,
)
from darkprune.compression.network import RunNetwork
from darkprune.compression.settings import CompressSettings
from darkprune.errors import UsageError
from darkprune.graph.stats import totals
from darkprune.kit.schema import ONNX_NAME
from darkprune.runs.record_file import RecordFile
from darkprune.runs.stages import FileSource, Source, Stage
from darkprune.settings import flags_of, words_of
from darkprune.training.loop.checkpoint import STATE
from darkprune.training.settings import DistillSettings, TrainSettings

#: settings that name what a stage reads: its sources say the same, by content
READ = ("data", "valid", "names", "unlabelled", "plan", "images")


class Compression:
    """The stages of a run, and the networks that they make.

    Attributes:
        original: the user's pair.
        records: of the stages, in the run's folder.
        folder: of the run.
        available: what there is to work with.
        settings: of the run.
        stages: in order.
        networks: the original, and what each stage makes of it.
        result: the pair at the end: a copy of the best of `candidates`.
    """

    def __init__(
        self, original: RunNetwork, records: RecordFile, available: Available, settings: CompressSettings
    ) -> None:
        """Plans a run.

        Raises:
            UsageError: a stage is asked for that lacks what it needs; settings that make no sense.
        """
        self.original, self.available, self.settings = original, available, settings
        self.records, self.folder = records, records.path.parent
        self.stages: list[Stage] = []
        self.networks = [original]
        labels, detector = available.train is not None, available.detector
        needing = [name for name in ("sparse", "finetune") if name in settings.stages and not labels]
        if needing:
            raise UsageError(f"[{needing[0]}] trains on labels: give some with --data F, or leave the section out")
        if self._on("sparse", labels):
            length = steps_for(SPARSE_EPOCHS, available.train_count)
            self._train("sparse", "sparse", {**RECIPE, "iterations": length, "sparsity": "dynamic", **self._target()})
        self._prune()
        if self._on("recover", available.images is not None and detector):
            self._recover()
        if self._on("distill", detector and (labels or available.learns_enough)):
            self._distill()
        if self._on("finetune", False):
            length = steps_for(TUNE_EPOCHS, available.train_count)
            self._train("finetune", "finetuned", {**RECIPE, "iterations": length})
        if self._on("evaluate", detector and (available.valid or available.held_out) is not None):
            self._evaluate()
        self.result = self._result()
        if self._on("export", True):
            self._export()

    @property
    def current(self) -> RunNetwork:
        """The network as it is after the stages so far."""
        return self.networks[-1]

    @property
    def prune_settings(self) -> PruneSettings:
        """Settings of the stage that prunes."""
        own = self.settings.stages.get("prune", {})
        amount = self.settings.amount()
        by_images = self.available.images is not None and self.available.detector
        defaults: dict[str, object] = {}
        if by_images and not {"criterion", "candidates", "preset"} & {*own, *amount}:
            refitted = self._on("recover", True) and "rounds" not in own
            defaults["criterion"] = "surgeon" if refitted else "sensitivity"
        images = str(self.available.images.path) if by_images and self.available.images is not None else None
        return self.settings.of_stage("prune", PruneSettings, defaults, images=images, **amount)

    def _target(self) -> dict[str, object]:
        """Returns what sparse training prepares for: the share of channels that will go, and the layers that stay."""
        cut, graph = self.prune_settings, self.original.pair().graph
        budget = cut.budget(graph)
        found: dict[str, object] = {"exclude": list(cut.exclude)} if cut.exclude else {}
        if cut.ratio is not None:
            found["target_ratio"] = cut.ratio
        elif budget is not None:  # operations and parameters go with the square of the width
            found["target_ratio"] = round(1 - math.sqrt(budget.target / budget.of(totals(graph))), 3)
        return found

    def candidates(self) -> list[RunNetwork]:
        """Returns the networks that are as slim as is wanted, in order: from the cut on."""
        return [network for network in self.networks if network.made_by not in ("", "sparse")]

    def _on(self, stage: str, default: bool) -> bool:
        return stage not in self.settings.skip and (default or stage in self.settings.stages)

    def _made(self, name: str, stage: str, kind: str = "") -> RunNetwork:
        """Adds the network that a stage makes, in a folder of its own."""
        stem, folder = self.original.cfg.stem, self.folder / name
        self.networks.append(RunNetwork(name, folder / f"{stem}.cfg", folder / f"{stem}{kind}.weights", stage))
        return self.current

    def _labels(self) -> tuple[list[Source], dict[str, str]]:
        """Returns the labelled images to measure on and the names as sources, and as settings of training."""
        available = self.available
        valid = None if available.valid is available.train else available.valid
        found = [source for source in (available.names, valid) if source is not None]
        return list(found), {source.role: str(source.path) for source in found}

    def _train(self, stage: str, folder: str, defaults: dict[str, object]) -> None:
        """Adds training on labels."""
        data = self.available.train
        assert data is not None
        labels, paths = self._labels()
        settings = self.settings.of_stage(stage, TrainSettings, defaults, **paths)
        before, made = self.current, self._made(folder, stage, "_final")
        output = made.cfg.parent
        self.stages.append(
            Stage(
                name=stage,
                step="train",
                settings=decisive(settings),
                sources=(*before.sources(), data, *labels),
                command=command("train", (*before.files, "--data", data.path), settings, output),
                work=partial(work.train_on_labels, before, data.path, output, settings),
                output=output,
                files=made.files,
                state=output / STATE,
            )
        )

    def _distill(self) -> None:
        available, teacher, student = self.available, self.original, self.current
        plan = FileSource("plan", self.folder / "pruned" / "plan.json")
        defaults: dict[str, object] = dict(RECIPE)
        labels, paths = self._labels()
        images: FileSource | None
        if available.train is not None:
            images, role = available.train, "data"
            defaults["iterations"] = steps_for(TUNE_EPOCHS, available.train_count)
        elif available.learn is not None:
            images, role = available.learn, "unlabelled"
            defaults |= {"iterations": steps_for(UNLABELLED_EPOCHS, available.learn_count), "lr": UNLABELLED_RATE}
            labels, paths = (labels, paths) if available.valid is not None else ([], {})
        else:
            raise UsageError("[distill] learns from images: give some with --images DIR or --data F")
        paths = {**paths, "plan": str(plan.path), role: str(images.path)}
        settings = self.settings.of_stage("distill", DistillSettings, defaults, **paths)
        made = self._made("distilled", "distill", "_final")
        output = made.cfg.parent
        self.stages.append(
            Stage(
                name="distill",
                step="distill",
                settings=decisive(settings),
                sources=(*teacher.sources("teacher"), *student.sources("student"), plan, images, *labels),
                command=command("distill", (*teacher.files, *student.files), settings, output),
                work=partial(work.distil, teacher, student, output, settings),
                output=output,
                files=made.files,
                state=output / STATE,
            )
        )

    def _prune(self) -> None:
        images = self.available.images if self.prune_settings.images is not None else None
        self._cut("prune", self.current, self.prune_settings, "pruned", [images] if images is not None else [])

    def _recover(self) -> None:
        """Adds the replay of the plan with a refit, on the network that was pruned."""
        images = self.available.images
        assert images is not None
        plan = FileSource("plan", self.folder / "pruned" / "plan.json")
        before = next(network for network in reversed(self.networks) if network.made_by != "prune")
        paths = {"plan": str(plan.path), "images": str(images.path)}
        settings = self.settings.of_stage("recover", PruneSettings, {"recover": "lsq"}, **paths)
        self._cut("recover", before, settings, "recovered", [plan, images])

    def _cut(
        self, stage: str, before: RunNetwork, settings: PruneSettings, folder: str, read: Sequence[Source]
    ) -> None:
        made = self._made(folder, stage)
        output = made.cfg.parent
        self.stages.append(
            Stage(
                name=stage,
                step="prune",
                settings=decisive(settings),
                sources=(*before.sources(), *read),
                command=command("prune", before.files, settings, output),
                work=partial(work.cut, before, output, settings),
                output=output,
                files=(*made.files, output / "plan.json", output / "report.json"),
            )
        )

    def _evaluate(self) -> None:
        """Adds one measurement per network, and that of the control."""
        available = self.available
        if available.valid is None:
            self._measure_distances()
            return
        names = {} if available.names is None else {"names": str(available.names.path)}
        settings = self.settings.of_stage("evaluate", EvaluateSettings, {}, **names)
        data = available.valid
        read: list[Source] = [data, *([available.names] if available.names is not None else [])]
        for network in self.networks:
            self.stages.append(
                Stage(
                    name=f"evaluate: {network.name}",
                    step="evaluate",
                    settings=decisive(settings),
                    sources=(*network.sources(), *read),
                    command=command("eval", (*network.files, "--data", data.path), settings),
                    work=partial(work.measure, network, data.path, settings),
                )
            )
        self.stages.append(
            Stage(
                name="evaluate: control",
                step="control",
                settings=decisive(settings),
                sources=(*self.original.sources(), FileSource("slim cfg", self.current.cfg), *read),
                work=partial(work.measure_control, self, data.path, settings),
            )
        )

    def _measure_distances(self) -> None:
        held_out = self.available.held_out
        if held_out is None:
            raise UsageError("[evaluate] needs images: give some with --images DIR, --data F or --valid F")
        for network in self.networks[1:]:
            self.stages.append(
                Stage(
                    name=f"evaluate: {network.name}",
                    step="distance",
                    sources=(*self.original.sources("original"), *network.sources(), held_out),
                    work=partial(work.measure_distance, self.original, network, held_out.path),
                )
            )

    def _result(self) -> RunNetwork:
        """Adds the stage that puts the best of the slim networks where it is looked for."""
        stem = self.original.cfg.stem
        made = RunNetwork("result", self.folder / f"{stem}.cfg", self.folder / f"{stem}.weights", "result")
        judged = next((stage for stage in self.stages if stage.kind == "evaluate"), None)
        read: list[Source] = []
        for network in self.candidates() if judged is not None else [self.current]:
            read += network.sources(network.name)
        files: tuple[Path, ...] = made.files
        names = self.available.class_names
        if names is not None:
            read.append(names)
            files = (*files, made.cfg.with_suffix(".names"))
        images = self.available.valid or self.available.held_out
        if judged is not None and images is not None:
            read.append(images)
        self.stages.append(
            Stage(
                name="result",
                step="result",
                settings=judged.settings if judged is not None else {},
                sources=tuple(read),
                work=partial(work.put_result, self, files, None if names is None else names.path),
                files=files,
            )
        )
        return made

    def _export(self) -> None:
        network, names = self.result, self.available.class_names
        read: list[Source] = [*network.sources()]
        given: dict[str, str] = {} if self.settings.target is None else {"target": self.settings.target}
        if names is not None:
            names = FileSource("names", network.cfg.with_suffix(".names"))
            read.append(names)
            given["names"] = str(names.path)
        if self.settings.board:
            kit = self.settings.of_stage("export", KitSettings, {}, **given)
            output = self.folder / "kit"
            self.stages.append(
                Stage(
                    name="export",
                    step="kit",
                    settings=decisive(kit),
                    sources=tuple(read),
                    command=command("kit", network.files, kit, output),
                    work=partial(work.write_kit_of, network, output, kit),
                    output=output,
                    files=(output / ONNX_NAME,),
                )
            )
            return
        settings = self.settings.of_stage("export", ExportSettings, {}, **given)
        output = network.cfg.with_suffix(".onnx")
        self.stages.append(
            Stage(
                name="export",
                step="export",
                settings=decisive(settings),
                sources=tuple(read),
                command=command("export", network.files, settings, output),
                work=partial(work.export_network, network, output, settings),
                output=output,
                files=(output,),
            )
        )


def decisive(settings: object) -> dict[str, object]:
    """Returns the settings that decide a result, besides what is read, as flags have them."""
    return dict(flags_of(settings, (*READ, *WITHOUT_EFFECT)))


def command(name: str, words: Sequence[object], settings: object, output: Path | None = None) -> tuple[str, ...]:
    """Returns the command line that does what a stage does.

    Args:
        name: of the command.
        words: what comes before its settings.
        settings: of the stage.
        output: what `-o` names, if anything.
    """
    line = ["darkprune", name, *map(str, words), *words_of(settings, ("resume", "overwrite"))]
    return (*line, "-o", str(output)) if output is not None else tuple(line)
