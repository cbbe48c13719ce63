"""A run of `compress`: what it has, its stages and networks so far, and the records of what is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from darkprune.api.prune import PruneSettings
from darkprune.compression.available import Available
from darkprune.compression.estimate import seconds_per_pass
from darkprune.compression.judge import Judge
from darkprune.compression.network import RunNetwork
from darkprune.compression.settings import CompressSettings
from darkprune.compression.sources import Content, Drawn, Written
from darkprune.darknet.output import LOCK, atomic_file
from darkprune.errors import OutputError
from darkprune.evaluation.control import control_networks, smaller_inputs
from darkprune.graph.graph import Graph
from darkprune.graph.stats import totals
from darkprune.layers.convolution import Convolutional
from darkprune.runs.digests import digest_of_file
from darkprune.runs.record import path_text
from darkprune.runs.record_file import RecordFile
from darkprune.runs.stages import Stage
from darkprune.selection.budget import Budget
from darkprune.targets import ROUND_TO

MANIFEST = "manifest.json"  #: holds the records
FORMAT = "darkprune-run/2"
CHOSEN = "chosen"  #: name of the copied network that distillation trains
#: from so many on steps of `ROUND_TO` channels are below 1 % of a network, which is how closely budgets are met
MANY_CHANNELS = 100 * ROUND_TO


class Compression:
    """The stages of a run, and the networks that they make; `darkprune.compression.plan` adds both.

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
        """Begins a run that has no stages yet."""
        self.original, self.available, self.settings = original, available, settings
        self.records, self.folder = records, records.path.parent
        self.stages: list[Stage] = []
        self.networks, self.candidates = [original], list[RunNetwork]()
        self.factorised: list[RunNetwork] = []
        self.made_of: dict[str, RunNetwork] = {}
        self.result = self.copy_in("result", self.folder)

    @cached_property
    def trains_sparsely(self) -> bool:
        """Whether the run begins with sparse training."""
        return self.includes("sparse", self.available.train is not None and self.settings.way != "refit")

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
            refitted = self.includes("recover", True) and not searched
            defaults["criterion"] = "surgeon" if refitted else "sensitivity"
            if self.trains_sparsely and not searched:
                defaults["criterion"] = "auto"  # after sparse training |γ| is as good as any; see docs/RESULTS.md
        if "target_latency" in amount and "runner" not in own:
            defaults["runner"] = "opencv"
        if self.settings.board and "preset" not in own:
            defaults["target"] = self.settings.target
        if _channels(self.graph) >= MANY_CHANNELS and "preset" not in own:
            defaults["round_to"] = ROUND_TO
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

    @cached_property
    def judged_at(self) -> list[Graph]:
        """The original at the other input sizes that agreement is taken at: those tried, else those of the control."""
        if self.by_sizes or self.budget is None or self.budget.kind != "macs":
            return self.smaller
        _, *controls = control_networks(self.graph, [round(self.budget.target)])
        return controls

    @property
    def only_input_size(self) -> bool:
        """Whether a smaller input is all that is done: without images that is the better bet."""
        blind = self.available.images is None or self.available.drawn
        return blind and self.by_sizes and not {"prune", "recover"} & self.settings.stages.keys()

    @property
    def judges(self) -> bool:
        """Whether candidates are compared, by mAP or by agreement."""
        return bool(self.available.valid or self.available.held_out) and self.includes("evaluate", True)

    @cached_property
    def judge(self) -> Judge:
        """Measures networks without labels."""
        assert self.available.held_out is not None
        return Judge(self.original, self.judged_at, self.available.held_out.path)

    def cut_of(self, network: RunNetwork) -> RunNetwork | None:
        """Returns the cut, with its plan beside it, that gave a network its widths; None where nothing was cut.

        The run has made the network.
        """
        found: RunNetwork | None = network
        while found is not None:
            if found.name == CHOSEN:
                name = self.records.records[CHOSEN].result["network"]
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

    def write(self, source: Written | Drawn | Content) -> None:
        """Writes a file that stages read, unless it is there.

        Raises:
            OutputError: it cannot be written.
        """
        if isinstance(source, Drawn):
            source.write()
            return
        content = source.content
        digest = sha256(content).hexdigest()
        if not (source.path.is_file() and digest_of_file(source.path) == digest):
            self.records.put_aside(source.path)
            with atomic_file(source.path, overwrite=True) as file:
                file.write(content)
        self.records.written[path_text(source.path, self.folder)] = digest

    def includes(self, stage: str, default: bool) -> bool:
        """Returns whether a kind of stage is part of the run: by the user's settings, otherwise by a default."""
        return stage not in self.settings.skip and (default or stage in self.settings.stages)

    def add(self, stage: Stage, cost: float = 0.0) -> None:
        """Adds a stage; `cost` is its work in forward passes of the original."""
        self.stages.append(replace(stage, cost=cost))

    def new_network(self, before: RunNetwork, name: str, stage: str, kind: str = "", way: str = "") -> RunNetwork:
        """Adds the network that a stage makes, in a folder of its own; `way` sets those of a second way apart."""
        name, stage = f"{name} {way}".rstrip(), f"{stage}: {way}" if way else stage
        stem, folder = self.original.cfg.stem, self.folder / name.replace(" ", "-")
        made = RunNetwork(name, folder / f"{stem}.cfg", folder / f"{stem}{kind}.weights", stage)
        self.networks.append(made)
        self.made_of[made.name] = before
        if stage != "sparse":
            self.candidates.append(made)
        return made

    def copy_in(self, name: str, folder: Path) -> RunNetwork:
        """Returns the network of that name that a stage of the same name copies into a folder."""
        stem = self.original.cfg.stem
        return RunNetwork(name, folder / f"{stem}.cfg", folder / f"{stem}.weights", name)

    def share(self, network: RunNetwork) -> float:
        """Returns the share of the original's operations that a network has, or roughly will have."""
        if network.resized is not None:
            return network.resized.macs / self.graph.macs
        if network not in self.candidates:
            return 1.0
        return self.budget.target / self.budget.of(totals(self.graph)) if self.budget is not None else 0.5

    def seconds_per_pass(self) -> float:
        """Returns the time of a forward pass of the original, the unit of the stages' costs; 0 where unknown."""
        return seconds_per_pass(self.original.pair()) if self.available.torch and self.available.detector else 0.0


def open_manifest(folder: Path, network: Mapping[str, str], anew: bool = False) -> RecordFile:
    """Takes up the records of a folder, or begins with none (`anew`: in any case); nothing is written yet.

    Raises:
        OutputError: the folder holds something else, or a run of another network.
    """
    records = RecordFile(folder / MANIFEST, FORMAT, {"network": dict(network)}, "stages")
    if not records.path.is_file():
        if folder.exists() and (not folder.is_dir() or any(each.name != LOCK for each in folder.iterdir())):
            raise OutputError(f"{folder}: holds no {MANIFEST}, so it is no earlier run; choose another -o")
        return records
    if anew:
        with suppress(OutputError):
            records.load()
            records.drop(records.records)  # what the folder holds of the user's is still told apart
        return records
    try:
        known = records.load()["network"]
    except OutputError as error:
        raise OutputError(f"{error}; give --overwrite to start anew") from None
    for kind, digest in network.items():
        if known[kind].text != digest:
            raise OutputError(
                f"{folder}: is a run of another network (its {kind} has sha256 {known[kind].text[:12]}…, this "
                f"one {digest[:12]}…); choose another -o, or give --overwrite to forget it"
            )
    return records


def _channels(graph: Graph) -> int:
    return sum(layer.output.c for layer in graph if isinstance(layer.kind, Convolutional))
