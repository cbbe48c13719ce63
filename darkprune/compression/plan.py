"""Which stages a run goes through, for what the user has.

| given | stages |
|---|---|
| labels | sparse training → pruning → least-squares recovery → distillation → mAP → ONNX or kit; `--way` has others |
| images | at several input sizes: pruning or factorisation, recovery → the best by agreement → distillation → export |
| the pair alone | a smaller input; pruning and recovery on drawn scenes where the input size is fixed |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from darkprune.api.conversion.export import ExportSettings
from darkprune.api.conversion.kit import KitSettings
from darkprune.api.evaluate import EvaluateSettings
from darkprune.api.factorize import FactorizeSettings
from darkprune.api.prune import PruneSettings
from darkprune.api.verify import VerifySettings
from darkprune.compression import stages
from darkprune.compression.available import FOLDER, Available
from darkprune.compression.defaults import (
    MOST_SIZES,
    RECIPE,
    SPARSE_EPOCHS,
    TUNE_EPOCHS,
    UNLABELLED_EPOCHS,
    UNLABELLED_RATE,
    steps_for,
)
from darkprune.compression.estimate import (
    cost_of_evaluation,
    cost_of_pruning,
    cost_of_refit,
    cost_of_training,
    seconds_per_pass,
)
from darkprune.compression.judge import Judge
from darkprune.compression.network import RunNetwork
from darkprune.compression.settings import CompressSettings
from darkprune.compression.sources import Content, Drawn, Written
from darkprune.errors import UsageError
from darkprune.evaluation.control import smaller_inputs
from darkprune.graph.graph import Graph
from darkprune.graph.stats import totals
from darkprune.layers.convolution import Convolutional
from darkprune.runs.record_file import RecordFile
from darkprune.runs.stages import FileSource, Source, Stage
from darkprune.selection.budget import Budget
from darkprune.selection.settings import Recovery
from darkprune.surgery.factors.network import factorisable
from darkprune.training.settings import DistillSettings, TrainSettings

DIRECTLY = "directly"  #: the second way of `--way best`, without sparse training
_SPARE = 0.1  #: of a network that stays beside what cannot be factorised


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
        candidates: those of them that are as slim as is wanted; where two are as good, the later one is the result.
        factorised: those of them that are products of smaller convolutions.
        made_of: name of a network -> the one that a stage made it of.
        result: the pair at the end: a copy of the best candidate.
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
        self.networks, self.candidates = [original], list[RunNetwork]()
        self.factorised: list[RunNetwork] = []
        self.made_of: dict[str, RunNetwork] = {}
        labels = available.train is not None
        self._refuse(labels)
        before = original
        if self.trains_sparsely:
            before = self._train_sparsely()
        students = [] if self.only_input_size else [self._prune(before)]
        if settings.way == "best" and before is not original:
            students.append(self._prune(original, DIRECTLY))
        self._resize()
        self._factorise()
        if settings.way == "best":
            self._learn_both(students)
        else:
            if self._on("distill", available.detector and (labels or available.learns_enough)):
                self._distill()
            if self._on("finetune", False):
                self._finetune(self.networks[-1])
        self._measure(last=True)
        self.result = self._put("result", self.folder, self.available.class_names)
        if self._on("evaluate", self.graph.net.input.is_map):
            self._add(stages.timing(original, self.result))
        if self._on("verify", True):
            check = self.settings.of_stage("verify", VerifySettings, {})
            self._add(stages.verification(self, check))
        if self._on("export", True):
            self._export()

    def _refuse(self, labels: bool) -> None:
        """Refuses what needs labels, where there are none."""
        needing = [f"[{name}]" for name in ("sparse", "finetune") if name in self.settings.stages]
        needing += [f"--way {self.settings.way}"] if self.settings.way != "sparse" else []
        if needing and not labels:
            raise UsageError(f"{needing[0]} trains on labels: give some with --data F, or leave it out")

    @cached_property
    def trains_sparsely(self) -> bool:
        """Whether the run begins with sparse training."""
        return self._on("sparse", self.available.train is not None and self.settings.way != "refit")

    @cached_property
    def graph(self) -> Graph:
        """The original's graph."""
        return self.original.pair().graph

    @cached_property
    def prune_settings(self) -> PruneSettings:
        """Settings of the stage that prunes."""
        own = self.settings.stages.get("prune", {})
        amount = self.settings.amount()
        by_images = self.available.images is not None and self.available.detector
        defaults: dict[str, object] = {"force": True}  # what comes of it is repaired, or measured
        if by_images and not {"criterion", "candidates", "preset"} & {*own, *amount}:
            searched = {"rounds", "search_minutes"} & {key.replace("-", "_") for key in own}
            refitted = self._on("recover", True) and not searched
            defaults["criterion"] = "surgeon" if refitted else "sensitivity"
            if self.trains_sparsely and not searched:
                defaults["criterion"] = "auto"  # after sparse training |γ| is as good as any; see docs/RESULTS.md
        if "target_latency" in amount and "runner" not in own:
            defaults["runner"] = "opencv"
        if self.settings.board and "preset" not in own:
            defaults["target"] = self.settings.target
        images = str(self.available.images.path) if by_images and self.available.images is not None else None
        return self.settings.of_stage("prune", PruneSettings, defaults, images=images, **amount)

    @cached_property
    def budget(self) -> Budget | None:
        """What to keep; None where that is not given in parameters, operations or bytes."""
        return self.prune_settings.budget(self.graph)

    @cached_property
    def smaller(self) -> list[Graph]:
        """The original at smaller inputs, as far as they are a means to save operations; the last is within the budget.

        There are none where the size is fixed, and where something else than operations is to be saved.
        """
        fixed = self.settings.fixed_input or not self.available.detector
        if fixed or self.budget is None or self.budget.kind != "macs":
            return []
        found = []
        for graph in smaller_inputs(self.graph):
            found.append(graph)
            if graph.macs <= self.budget.target:
                return found
        return []

    @property
    def by_sizes(self) -> bool:
        """Whether pruning is tried at several input sizes; with labels training decides more than the size does."""
        return bool(self.smaller) and self.available.train is None

    @property
    def only_input_size(self) -> bool:
        """Whether a smaller input is all that is done: without images that is the better bet."""
        blind = self.available.images is None or self.available.drawn
        return blind and self.by_sizes and not {"prune", "recover"} & self.settings.stages.keys()

    @cached_property
    def judge(self) -> Judge:
        """Measures networks without labels."""
        assert self.available.held_out is not None
        return Judge(self.original, self.available.held_out.path)

    def cut_of(self, network: RunNetwork) -> RunNetwork | None:
        """Returns the cut, with its plan beside it, that gave a network its widths; None where nothing was cut.

        The run has made the network.
        """
        found: RunNetwork | None = network
        while found is not None:
            if found.name == "chosen":
                name = self.records.records["chosen"].result["network"]
                found = next(network for network in self.networks if network.name == name)
            if found.cfg.with_name("plan.json").is_file() and found.name in self.made_of:
                return found
            found = self.made_of.get(found.name)
        return None

    def to_write(self) -> Iterator[Written | Drawn | Content]:
        """Yields the files that the run writes before its first stage."""
        for source in self.available.to_write():
            if not (self.only_input_size and isinstance(source, Drawn)):
                yield source
        for network in self.networks:
            yield from (source for source in network.sources() if isinstance(source, Content))

    def _on(self, stage: str, default: bool) -> bool:
        return stage not in self.settings.skip and (default or stage in self.settings.stages)

    def _target(self) -> dict[str, object]:
        """Returns what sparse training prepares for: the share of channels that will go, and the layers that stay."""
        cut, budget = self.prune_settings, self.budget
        found: dict[str, object] = {"exclude": list(cut.exclude)} if cut.exclude else {}
        if cut.ratio is not None:
            found["ratio"] = cut.ratio
        elif budget is not None:  # operations and parameters go with the square of the width
            found["ratio"] = round(1 - math.sqrt(budget.target / budget.of(totals(self.graph))), 3)
        return found

    def _add(self, stage: Stage, cost: float = 0.0) -> None:
        self.stages.append(replace(stage, cost=cost))

    def _share(self, network: RunNetwork) -> float:
        """Returns the share of the original's operations that a network has, or roughly will have."""
        if network.resized is not None:
            return network.resized.macs / self.graph.macs
        if network not in self.candidates:
            return 1.0
        return self.budget.target / self.budget.of(totals(self.graph)) if self.budget is not None else 0.5

    def seconds_per_pass(self) -> float:
        """Returns the time of a forward pass of the original, the unit of the stages' costs; 0 where unknown."""
        return seconds_per_pass(self.original.pair()) if self.available.torch and self.available.detector else 0.0

    def _made(self, before: RunNetwork, name: str, stage: str, kind: str = "", way: str = "") -> RunNetwork:
        """Adds the network that a stage makes, in a folder of its own; `way` sets those of a second way apart."""
        name, stage = f"{name} {way}".rstrip(), f"{stage}: {way}" if way else stage
        stem, folder = self.original.cfg.stem, self.folder / name.replace(" ", "-")
        made = RunNetwork(name, folder / f"{stem}.cfg", folder / f"{stem}{kind}.weights", stage)
        self.networks.append(made)
        self.made_of[made.name] = before
        if stage != "sparse":
            self.candidates.append(made)
        return made

    def _labels(self) -> tuple[list[Source], dict[str, str]]:
        """Returns the labelled images to measure on and the names as sources, and as settings of training."""
        available = self.available
        valid = None if available.valid is available.train else available.valid
        found = [source for source in (available.names, valid) if source is not None]
        return list(found), {source.role: str(source.path) for source in found}

    def _train_sparsely(self) -> RunNetwork:
        length = steps_for(SPARSE_EPOCHS, self.available.train_count)
        defaults = {**RECIPE, "iterations": length, "sparsity": "dynamic", **self._target()}
        return self._train("sparse", self.original, "sparse", defaults)

    def _finetune(self, before: RunNetwork, way: str = "") -> RunNetwork:
        length = steps_for(TUNE_EPOCHS, self.available.train_count)
        return self._train("finetune", before, "finetuned", {**RECIPE, "iterations": length}, way)

    def _train(
        self, stage: str, before: RunNetwork, name: str, defaults: dict[str, object], way: str = ""
    ) -> RunNetwork:
        """Adds training on labels."""
        data = self.available.train
        assert data is not None
        read, paths = self._labels()
        settings = self.settings.of_stage(stage, TrainSettings, defaults, **paths)
        cost = cost_of_training(settings, self.available.train_count, self._share(before))
        made = self._made(before, name, stage, "_final", way)
        self._add(stages.training(before, made, data, read, settings), cost)
        return made

    def _learn_both(self, students: Sequence[RunNetwork]) -> None:
        """Adds distillation and fine-tuning of each of some networks, side by side."""
        for student, way in zip(students, ("", DIRECTLY), strict=False):
            if self._on("distill", True):
                self._distill(student, way)
            if self._on("finetune", True):
                self._finetune(student, way)

    def _prune(self, before: RunNetwork, way: str = "") -> RunNetwork:
        """Adds pruning at the network's own size and, where images allow it, the replay of its plan with a refit."""
        images, settings = self.available.images, self.prune_settings
        if way and settings.criterion == "auto":
            settings = replace(settings, criterion="surgeon")
        read = [images] if images is not None and settings.images is not None else []
        pruned = self._made(before, "pruned", "prune", way=way)
        self._add(stages.cutting(before, pruned, read, settings), cost_of_pruning(settings, 1))
        if not self._on("recover", images is not None and self.available.detector):
            return pruned
        if images is None:
            raise UsageError("[recover] looks at images: give some with --images DIR or --data F")
        plan = FileSource("plan", pruned.cfg.with_name("plan.json"))
        paths = {"plan": str(plan.path), "images": str(images.path)}
        settings = self.settings.of_stage("recover", PruneSettings, {"recover": "lsq"}, **paths)
        recovered = self._made(before, "recovered", "recover", way=way)
        self._add(stages.cutting(before, recovered, [plan, images], settings), cost_of_pruning(settings, 1))
        return recovered

    def _resize(self) -> None:
        """Adds the original at smaller inputs; where images allow it, those above the budget are pruned down to it."""
        images, budget = self.available.images, self.budget
        if not self.smaller or budget is None:
            return
        resized = [RunNetwork.at_size(self.original, graph, self.folder / FOLDER) for graph in self.smaller]
        self.candidates.insert(0, resized[-1])
        if not self.by_sizes or self.only_input_size or images is None:
            self.networks.insert(1, resized[-1])
            return
        self.networks[1:1] = resized
        for network in _spread(resized[:-1]):
            assert network.resized is not None
            share = budget.target / network.resized.macs
            settings = replace(self.prune_settings, target_macs=share, recover=self._recovery())
            made = self._made(network, f"pruned at {network.size}", f"prune: {network.size}")
            cost = cost_of_pruning(settings, self._share(network))
            self._add(stages.cutting(network, made, [images], settings), cost)

    def _recovery(self) -> Recovery:
        """Returns how networks are repaired that are pruned or factorised in one stage."""
        if not self._on("recover", True) or self.available.images is None:
            return "none"
        given = {"plan": "plan.json", "images": str(self.available.images.path)}
        return self.settings.of_stage("recover", PruneSettings, {"recover": "lsq"}, **given).recover

    def _factorise(self) -> None:
        """Adds factorisation down to the budget, at the network's own size and at smaller ones, without labels.

        Only where most operations are in convolutions larger than 1x1, which products save a lot of.
        """
        images, budget = self.available.images, self.budget
        if self.available.train is not None or images is None or not self.available.detector or budget is None:
            return
        judged = (self.available.valid or self.available.held_out) is not None and self._on("evaluate", True)
        if self.only_input_size or not judged or not self._on("factorize", self.available.torch):
            return
        resized = [network for network in self.networks if network.resized is not None]
        for network in [self.original, *_spread(resized[:-1])]:
            graph = network.resized or self.graph
            share = budget.target / budget.of(totals(graph))
            if share >= 1 or share < 1 - _product_share(graph, budget) + _SPARE:
                continue
            cut = self.prune_settings
            defaults: dict[str, object] = {} if cut.target is None else {"target": cut.target}
            defaults |= {"exclude": list(cut.exclude)} if cut.exclude else {}
            given: dict[str, object] = {f"target_{budget.kind}": share, "images": str(images.path)}
            given["recover"] = "lsq" if self._recovery() == "lsq" else "none"
            settings = self.settings.of_stage("factorize", FactorizeSettings, defaults, **given)
            size = f" at {network.size}" if network.resized is not None else ""
            stage = f"factorize: {network.size}" if size else "factorize"
            made = self._made(network, f"factorised{size}", stage)
            self.factorised.append(made)
            self.candidates.remove(made)
            self.candidates.insert(0, made)  # where it is no better than a pruned network, that has fewer layers
            self._add(stages.cutting(network, made, [images], settings), cost_of_refit(self._share(network)))

    def _distill(self, student: RunNetwork | None = None, way: str = "") -> None:
        """Adds learning from the original, by a given network or the best so far."""
        available, teacher = self.available, self.original
        read, paths = self._labels()
        defaults: dict[str, object] = dict(RECIPE)
        images: FileSource
        if available.train is not None:
            images, role = available.train, "data"
            defaults["iterations"] = steps_for(TUNE_EPOCHS, available.train_count)
        elif available.learn is not None:
            images, role = available.learn, "unlabelled"
            defaults |= {"iterations": steps_for(UNLABELLED_EPOCHS, available.learn_count), "lr": UNLABELLED_RATE}
            read, paths = (read, paths) if available.valid is not None else ([], {})
        else:
            raise UsageError("[distill] learns from images: give some with --images DIR or --data F")
        several = student is None and (self.by_sizes or bool(self.factorised))
        if several:  # the best of them learns, unless it has other layers than its teacher
            self._measure()
            student = self._put("chosen", self.folder / "chosen", None)
        student = student or self.candidates[-1]
        plan = FileSource("plan", self.folder / f"pruned {way}".rstrip().replace(" ", "-") / "plan.json")
        if several:
            plan = FileSource("plan", student.cfg.with_name("plan.json"))
        else:
            read.append(plan)
        paths = {**paths, "plan": str(plan.path), role: str(images.path)}
        settings = self.settings.of_stage("distill", DistillSettings, defaults, **paths)
        made = self._made(student, "distilled", "distill", "_final", way)
        cost = cost_of_training(settings, available.train_count or available.learn_count, self._share(student), True)
        self._add(stages.distillation(teacher, student, made, [images, *read], settings), cost)

    def _measure(self, last: bool = False) -> None:
        """Adds a measurement of each network that has none yet; in the end that of the control too."""
        available = self.available
        measurable = available.detector and (available.valid or available.held_out) is not None
        if not self._on("evaluate", measurable):
            return
        done = {stage.name for stage in self.stages}
        networks = [network for network in self.networks if f"evaluate: {network.name}" not in done]
        names = [available.names] if available.names is not None else []
        settings = self.settings.of_stage("evaluate", EvaluateSettings, {}, **{n.role: str(n.path) for n in names})
        data: FileSource
        if available.valid is not None:
            data, count = available.valid, available.valid_count
            found = [stages.evaluation(network, data, names, settings) for network in networks]
        elif available.held_out is not None:
            data, count, names = available.held_out, available.held_out_count, []
            found = [stages.comparison(self, network, data) for network in networks]
        else:
            raise UsageError("[evaluate] needs images: give some with --images DIR, --data F or --valid F")
        for network, stage in zip(networks, found, strict=True):
            self._add(stage, cost_of_evaluation(count, self._share(network)))
        if last and not self.by_sizes:
            cost = cost_of_evaluation(count, 2 * self._share(self.candidates[-1]))
            self._add(stages.control(self, [data, *names], settings), cost)

    def _put(self, name: str, folder: Path, names: FileSource | None) -> RunNetwork:
        """Adds the stage that puts the best of the candidates so far, and the names of its classes, into a folder."""
        stem = self.original.cfg.stem
        made = RunNetwork(name, folder / f"{stem}.cfg", folder / f"{stem}.weights", name)
        judged = any(stage.kind == "evaluate" for stage in self.stages)
        learns = name == "chosen"
        usable = [network for network in self.candidates if not (learns and network in self.factorised)]
        candidates = tuple(usable if judged else usable[-1:])
        self._add(stages.choice(self, candidates, made, names))
        return made

    def _export(self) -> None:
        network, read = self.result, list[Source]()
        given: dict[str, str] = {} if self.settings.target is None else {"target": self.settings.target}
        if self.available.class_names is not None:
            names = FileSource("names", network.cfg.with_suffix(".names"))
            read.append(names)
            given["names"] = str(names.path)
        if self.settings.board:
            kit = self.settings.of_stage("export", KitSettings, {}, **given)
            self._add(stages.kit(network, read, kit))
        else:
            settings = self.settings.of_stage("export", ExportSettings, {}, **given)
            self._add(stages.export(network, read, settings))


def _product_share(graph: Graph, budget: Budget) -> float:
    """Returns the share of a network's operations or parameters in convolutions that products save a lot of."""
    large = [
        layer
        for layer in graph
        if isinstance(layer.kind, Convolutional) and layer.kind.geometry.size > 1 and factorisable(graph, layer)
    ]
    if budget.kind == "macs":
        return sum(layer.macs for layer in large) / graph.macs
    return sum(blob.count for layer in large for blob in layer.stored) / totals(graph).params


def _spread(networks: Sequence[RunNetwork]) -> list[RunNetwork]:
    """Returns at most `MOST_SIZES` of the networks, evenly chosen, the first and the last among them."""
    if len(networks) <= MOST_SIZES:
        return list(networks)
    step = (len(networks) - 1) / (MOST_SIZES - 1)
    return [networks[round(number * step)] for number in range(MOST_SIZES)]
