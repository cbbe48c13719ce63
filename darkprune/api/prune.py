"""`prune`: takes channels, and whole residual units, out of a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.api.pair import Pair, for_surgery
from darkprune.darknet.output import atomic_file, check_folder
from darkprune.graph.classes import names_to_copy
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.processes import in_background
from darkprune.progress import Progress, reporting
from darkprune.refit.solved_layers import SolvedLayers, solved_layers
from darkprune.search.choice import choose
from darkprune.search.expectation import expect, with_criterion
from darkprune.search.goal import Goal
from darkprune.search.settings import PruneSettings as PruneSettings
from darkprune.selection.budget import parse_latency
from darkprune.selection.decide import Ranking
from darkprune.selection.reach import refuse_unreachable
from darkprune.selection.settings import Selection
from darkprune.settings import PathLike
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.surgery.result import FileRecord, PruneResult
from darkprune.surgery.surgery import Surgery
from darkprune.surgery.units import Unit, UnitScorer, score_units

if TYPE_CHECKING:  # torch, the evaluation and the runners are imported only where the settings need them
    from darkprune.data.dataset import Dataset
    from darkprune.data.samples import Samples
    from darkprune.runners.layer_times import LayerTimes


def prune(
    pair: Pair, settings: PruneSettings, *, output: PathLike | None = None, progress: Progress | None = None
) -> Surgery:
    """Decides which channels of a pair go.

    Args:
        pair: the network; it is not changed.
        settings: how much is to go, which channels, and what is done about it.
        output: folder for the slim pair, plan.json and report.json (with `plan_only` the plan file); without it
            nothing is written before `Surgery.save`. An interrupted refit leaves its layers in `OUTPUT.refit`, from
            which the same call goes on.
        progress: gets the events; by default bars are shown.

    Returns:
        The surgery; with `output` its `result` says what was written.

    Raises:
        UsageError, PlanError: settings that make no sense for this network; a budget that cannot be met; a cut that
            would leave nothing of what the network finds, without `force`.
        DataError: images that cannot be used.
        OutputError: the output exists, holds an input, or cannot be written.
    """
    inputs = [pair.cfg, pair.weights_file, *([Path(settings.plan)] if settings.plan else [])]
    if output is not None and not settings.plan_only:
        check_folder(Path(output), inputs, settings.overwrite)
    with reporting(progress), solved_layers(None if output is None else Path(output)) as solved:
        work = _Work(pair, settings, solved)
        with for_surgery(pair) as (weights, hashes):
            odd = in_background(pair.warnings)
            surgery = work.surgery(weights, hashes)
            surgery = replace(surgery, warnings=(*odd(), *surgery.warnings))
            if output is None:
                return surgery.with_hashes(*hashes())
            if settings.plan_only:
                return _write_plan(surgery.with_hashes(*hashes()), Path(output), inputs, settings.overwrite)
            return surgery.saved(
                Path(output),
                overwrite=settings.overwrite,
                inputs=inputs,
                hashes=hashes,
                class_names=names_to_copy(pair.graph, settings.names, work.class_names),
            )


def refuse_early(weights: NetworkWeights, settings: PruneSettings) -> None:
    """Refuses a budget that cannot be met, before hours go into scores or training.

    Raises:
        UsageError: the budget cannot be read, or is not below the network.
        PlanError: it is below what floors leave.
    """
    budget = settings.budget(weights.graph)
    if budget is not None and settings.unit_score == "gamma":  # units that are chosen on images are not known yet
        refuse_unreachable(weights, settings.selection(), budget)


def _write_plan(surgery: Surgery, output: Path, inputs: Sequence[Path], overwrite: bool) -> Surgery:
    path = output if output.suffix == ".json" else output / "plan.json"
    with atomic_file(path, inputs, overwrite) as file:
        file.write(surgery.plan.dumps().encode())
    return replace(surgery, result=PruneResult.of(surgery, {"plan": FileRecord(path)}))


class _Work:
    """One call of `prune`: what is read and measured on the way to a surgery.

    Attributes:
        class_names: of the labelled images; empty without.
    """

    def __init__(self, pair: Pair, settings: PruneSettings, solved: SolvedLayers | None) -> None:
        self._settings, self._graph, self._solved = settings, pair.graph, solved
        self._samples = self._read_samples()
        self._times = self._layer_times()
        self._findings: dict[str, object] = {}
        self._measuring: list[str] = []
        self.class_names: tuple[str, ...] = ()
        self._warnings = list(self._samples.warnings()) if self._samples else []

    def surgery(self, weights: NetworkWeights, hashes: Callable[[], tuple[str, str]]) -> Surgery:
        """Decides, recovers and compares."""
        settings, samples, expected = self._settings, self._samples, ""
        if settings.plan is not None:
            surgery = replay(weights, read_plan(Path(settings.plan)), hashes())
        else:
            if samples is not None:
                refuse_early(weights, settings)
            goal = Goal(
                budget=settings.budget(weights.graph),
                recover=settings.recover,
                candidates=settings.candidates or 0,
                rounds=settings.rounds,
                minutes=settings.search_minutes,
                jobs=settings.jobs,
                layer_times=self._times,
            )
            scored = samples is not None and find_spec("torch") is not None
            surgery = choose(
                weights,
                with_criterion(weights, settings.selection(), goal, scored),
                goal,
                samples,
                by_unit=self._unit_scorer(),
                adjust=self._adjust,
            )
            if settings.recover == "none":
                expected = expect(surgery, settings.force or settings.plan_only)
        labelled = None if settings.plan_only else self._labelled()
        warnings = (*([expected] if expected else []), *self._warnings, *surgery.warnings, *self._measuring)
        surgery = replace(surgery, warnings=warnings, findings={**surgery.findings, **self._findings})
        if settings.plan_only or (samples is None and settings.data is None):
            return surgery
        from darkprune.search.figures import repair_and_compare

        return repair_and_compare(surgery, samples, settings.recover, labelled, self._solved)

    def _read_samples(self) -> Samples | None:
        settings = self._settings
        if settings.images is None:
            return None
        if settings.allocation == "sensitivity" and not settings.looks_at_images() and find_spec("torch") is None:
            return None  # the groups' curves are measured in any program
        from darkprune.data.samples import read_samples
        from darkprune.refit.recover import images_needed

        return read_samples(Path(settings.images), self._graph, most=images_needed(settings.recover, self._graph))

    def _unit_scorer(self) -> UnitScorer:
        settings, samples = self._settings, self._samples
        if settings.unit_score == "distance" and samples is not None:
            from darkprune.scores.unit_scores import score_by_distance

            return partial(score_by_distance, sample=samples.fit)
        if settings.unit_score == "gamma" or settings.data is None:
            return score_units
        from darkprune.scores.unit_scores import score_by_separation

        dataset = self._open(settings.data, "train")

        def score(weights: TensorSource, units: Sequence[Unit]) -> tuple[Unit, ...]:
            return score_by_separation(weights, units, dataset)

        return score

    def _labelled(self) -> Dataset | None:
        if self._settings.data is None:
            return None
        return self._open(self._settings.data, self._settings.split)

    def _open(self, data: PathLike, split: str) -> Dataset:
        """Reads labelled images; warnings about them are kept."""
        from darkprune.evaluation.of_graph import labelled_for

        labelled = labelled_for(self._graph, data, split, self._settings.names)
        self._measuring += [text for text in labelled.warnings if text not in self._measuring]
        self.class_names = labelled.dataset.class_names
        return labelled.dataset

    def _layer_times(self) -> LayerTimes | None:
        """Returns what measures layers, where a latency is asked for in a program that takes single ones."""
        settings = self._settings
        if settings.target_latency is None or settings.runner is None:
            return None
        from darkprune.runners.layer_times import TIMED, LayerTimes

        return LayerTimes(settings.runner, settings.batch) if settings.runner in TIMED else None

    def _adjust(self, ranking: Ranking, selection: Selection) -> tuple[Ranking, Selection]:
        """Puts measured curves into the ranking, and the ratio that meets a latency into the selection."""
        settings = self._settings
        if selection.allocation == "sensitivity":
            from darkprune.search.group_curves import CurveImages, measure_curves

            images = CurveImages.of(self._labelled(), settings.images, settings.runner)
            found = measure_curves(ranking, selection, images)
            ranking = replace(ranking, curves=found.curves)
            self._findings["curves"] = {**found.curves.to_json(), "kept_in": str(found.kept_in)}
            self._measuring += found.warnings
        if settings.target_latency is not None and settings.runner is not None:
            from darkprune.search.latency import Where, within_latency

            target = parse_latency(str(settings.target_latency))
            where = Where(settings.runner, settings.batch, self._times)
            ranking, selection, reached = within_latency(ranking, selection, target, where)
            self._findings["latency"] = reached.to_json()
            self._measuring += reached.warnings()
        return ranking, selection
