"""`prune`: takes channels, and whole residual units, out of a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from darkprune.api.pair import Pair
from darkprune.darknet.output import atomic_file, check_folder, result_folder
from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.processes import in_background
from darkprune.progress import Progress, reporting
from darkprune.refit.solved_layers import SolvedLayers, solved_layers
from darkprune.runners.base import RUNNERS
from darkprune.runs.digests import digest_of_file
from darkprune.search.choice import choose
from darkprune.search.goal import Goal
from darkprune.selection.allocation import PRESETS, WIDTH_PRESETS
from darkprune.selection.budget import UNITS, Budget, parse_budget
from darkprune.selection.decide import Ranking
from darkprune.selection.importance import GLOBAL_CRITERIA, IMAGE_CRITERIA
from darkprune.selection.reach import refuse_unreachable
from darkprune.selection.settings import ChannelSettings, Recovery, Selection
from darkprune.settings import PathLike, setting
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.surgery.result import FileRecord, PruneResult, write_result
from darkprune.surgery.surgery import Surgery
from darkprune.surgery.units import Unit, UnitScorer, score_units

if TYPE_CHECKING:  # torch, and the evaluation, are imported only where images or labels are given
    from darkprune.data.dataset import Dataset
    from darkprune.data.samples import Samples

_AMOUNT = "how much to remove"
_IMAGES = "images"
_MEASURING = "measuring"
_TARGET = "what to keep: a fraction (0.65) or a value"


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is to go: exactly one of these, or nothing beside units and similarity."""

    ratio: float | None = setting(None, "fraction of the prunable channels, 0 to below 1", group=_AMOUNT, metavar="P")
    ratios: tuple[float, ...] = setting((), "one fraction per group", group=_AMOUNT, metavar="R1,R2,…")
    preset: str | None = setting(None, "a published setting, groups included", group=_AMOUNT, choices=PRESETS)
    plan: str | None = setting(None, "replay a plan instead of making one", group=_AMOUNT, metavar="FILE")
    target_params: str | float | None = setting(None, f"{_TARGET} (stored floats, 24M)", group=_AMOUNT, metavar="V")
    target_macs: str | float | None = setting(None, f"{_TARGET} (multiply-adds, 12G)", group=_AMOUNT, metavar="V")
    target_size: str | float | None = setting(None, f"{_TARGET} (weights file, 90MB)", group=_AMOUNT, metavar="V")
    target_latency: str | float | None = setting(
        None, "what to keep of the time, measured on --runner: milliseconds (12ms) or a fraction (0.6)",
        group=_AMOUNT, metavar="MS|F",
    )  # fmt: skip

    def has_budget(self) -> bool:
        """Returns whether parameters, operations or bytes are asked for."""
        return any(getattr(self, f"target_{kind}") is not None for kind in UNITS)

    def budget(self, graph: Graph) -> Budget | None:
        """Returns what to keep; None where that is not given in parameters, operations or bytes.

        Raises:
            UsageError: it cannot be read, or is not below the network.
        """
        for kind in UNITS:
            value = getattr(self, f"target_{kind}")
            if value is not None:
                return parse_budget(kind, str(value), totals(graph))
        return None


@dataclass(frozen=True, kw_only=True)
class PruneSettings(ChannelSettings, Amount):
    """How to prune."""

    runner: str | None = setting(
        None, "program for latency and the groups' curves", group=_MEASURING, choices=tuple(RUNNERS)
    )
    batch: int = setting(1, "images per run of --target-latency", group=_MEASURING)
    images: str | None = setting(
        None, "unlabelled images (folder or list): to score, recover, measure", group=_IMAGES, metavar="DIR"
    )
    recover: Recovery = setting(
        "none",
        "lsq: refit every convolution by least squares; scale: ThiNet's, one factor per channel; bn: new batch "
        "statistics; none",
        group=_IMAGES,
    )
    candidates: int | None = setting(
        None, "EagleEye: the best of N random allocations within --target-…, by output distance", group=_IMAGES
    )
    jobs: int = setting(1, "--candidates: processes that they are tried in", group=_IMAGES)
    rounds: int = setting(1, "--criterion sensitivity within --target-…: score anew N times on the way", group=_IMAGES)
    search_minutes: float = setting(
        0.0, "--criterion sensitivity within --target-…: improve the plan against the output distance for M minutes "
        "(Ctrl-C takes the best so far)",
        group=_IMAGES, metavar="M", default_text="none",
    )  # fmt: skip
    data: str | None = setting(
        None, "labelled images: mAP of the result beside its control's", group=_IMAGES, metavar="F"
    )
    unit_score: Literal["gamma", "separation"] = setting(
        "gamma",
        "--units: gamma, or how well a unit tells the classes apart on the training part of --data",
        group=_IMAGES,
    )
    split: str = setting("valid", "which part of the data", group=_IMAGES)
    names: str | None = setting(None, "names of the classes, in order", group=_IMAGES, metavar="F")
    plan_only: bool = setting(False, "write the plan, cut nothing")
    overwrite: bool = setting(False, "replace an earlier result")

    def __post_init__(self) -> None:
        """Checks that the settings go together."""
        self._check_amount()
        self._check_images()
        self._check_measuring()

    def selection(self) -> Selection:
        """Returns what the choice of channels follows from; with a budget the ratio is found later."""
        return Selection.of(self, ratio=self.ratio or 0.0, ratios=self.ratios, preset=self.preset)

    def looks_at_images(self) -> bool:
        """Returns whether scores, candidates or a recovery need images."""
        return self.criterion in IMAGE_CRITERIA or self.recover != "none" or self.candidates is not None

    def _check_amount(self) -> None:
        given = [field.name for field in fields(Amount) if getattr(self, field.name) not in (None, ())]
        shared = {field.name for field in fields(ChannelSettings) if getattr(self, field.name) != field.default}
        if self.plan is not None:
            if len(given) > 1 or shared:
                raise UsageError(
                    "--plan holds the whole decision; leave out --ratio, --merge and the like, or edit the plan"
                )
            return
        if len(given) > 1 or not (given or shared & {"units", "unit_ratio", "similarity"}):
            raise UsageError(
                "say how much to remove with one of --ratio 0.4, --ratios 0.1,0.2,…, --preset NAME, --target-macs 0.6, "
                "--target-params, --target-size, --target-latency or --plan FILE; --units N and --similarity T go with "
                "any of them, or alone"
            )
        if self.preset is not None:
            decided = {"allocation", *(("exclude", "round_to", "min_channels") if self.preset in WIDTH_PRESETS else ())}
            for name in sorted(decided & shared):
                raise UsageError(f"--preset {self.preset} decides that itself; leave out --{name.replace('_', '-')}")
        if self.ratios and self.allocation not in (None, "explicit"):
            raise UsageError(
                f"--ratios gives every group its ratio; --allocation {self.allocation} does not go with it"
            )
        if self.allocation == "explicit" and not self.ratios:
            raise UsageError("--allocation explicit needs --ratios, one per group")

    def _check_images(self) -> None:
        if self.images is None and self.looks_at_images():
            needing = [f"--criterion {self.criterion}"] if self.criterion in IMAGE_CRITERIA else []
            needing += [f"--recover {self.recover}"] if self.recover != "none" else ["--candidates"]
            raise UsageError(f"{needing[0]} looks at images: give some with --images DIR (labels are not needed)")
        if self.plan_only and self.recover != "none":
            raise UsageError("--plan-only writes no weights: give --recover when the plan is replayed")
        budget = self.has_budget()
        by_effect = self.criterion in ("sensitivity", "first-order")
        if self.rounds < 1 or (self.rounds > 1 and not (by_effect and budget)):
            raise UsageError(
                "--rounds N: give at least 1; more go with --criterion sensitivity and --target-macs, -params or -size"
            )
        comparable = self.criterion in GLOBAL_CRITERIA
        if self.search_minutes < 0 or (self.search_minutes and not (comparable and budget)):
            raise UsageError(
                "--search-minutes M: give a time, a criterion whose scores compare the whole network (--criterion "
                "sensitivity), and a budget with --target-macs, -params or -size"
            )
        if self.jobs < 1 or (self.jobs > 1 and (self.candidates is None or self.similarity)):
            raise UsageError("--jobs N: give at least 1; more go with --candidates, and not with --similarity")
        if self.unit_score != "gamma":
            if self.data is None or not (self.units or self.unit_ratio):
                raise UsageError(f"--unit-score {self.unit_score} needs labelled images (--data F) and --units N")
            if self.candidates is not None or self.rounds > 1:
                raise UsageError(f"--unit-score {self.unit_score} does not go with --candidates or --rounds")
        if self.candidates is None:
            return
        if self.candidates < 1 or not budget:
            raise UsageError("--candidates N: give at least 1, and a budget with --target-macs, -params or -size")
        if self.criterion in IMAGE_CRITERIA or self.allocation is not None:
            raise UsageError(
                "--candidates draws allocations itself, and ranks by weights: leave out --allocation, --criterion "
                + " and ".join(IMAGE_CRITERIA)
            )

    def _check_measuring(self) -> None:
        if self.allocation == "sensitivity" and self.images is None and self.data is None:
            raise UsageError(
                "--allocation sensitivity measures each group: give --images DIR (unlabelled) or --data F (labelled)"
            )
        if self.target_latency is not None and self.runner is None:
            raise UsageError(f"--target-latency is measured: say where with --runner {', '.join(RUNNERS)}")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: must be at least 1")
        if self.target_latency is not None:
            from darkprune.search.latency import parse_latency

            parse_latency(str(self.target_latency))


def prune(
    pair: Pair,
    settings: PruneSettings,
    *,
    output: PathLike | None = None,
    progress: Progress | None = None,
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
        UsageError, PlanError: settings that make no sense for this network; a budget that cannot be met.
        DataError: images that cannot be used.
        OutputError: the output exists, holds an input, or cannot be written.
    """
    inputs = [pair.cfg, pair.weights_file, *([Path(settings.plan)] if settings.plan else [])]
    if output is not None and not settings.plan_only:
        check_folder(Path(output), inputs, settings.overwrite)
    with reporting(progress) as report, ExitStack() as stack:
        solved = stack.enter_context(solved_layers(Path(output))) if output is not None else None
        work = _Work(pair, settings, report, solved)
        weights = pair.open()
        try:
            hashes = in_background(lambda: (digest_of_file(pair.cfg), digest_of_file(pair.weights_file)))
            surgery = work.surgery(weights, hashes)
            if output is None:
                return surgery.with_hashes(*hashes())
            if settings.plan_only:
                return _write_plan(surgery.with_hashes(*hashes()), Path(output), inputs, settings.overwrite)
            with result_folder(Path(output), inputs, settings.overwrite) as folder:
                surgery, result = write_result(surgery, folder, hashes=hashes, progress=report)
            return replace(surgery, result=result.moved(Path(output)))
        except BaseException:
            weights.close()
            raise


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
    """One call of `prune`: what is read and measured on the way to a surgery."""

    def __init__(self, pair: Pair, settings: PruneSettings, progress: Progress, solved: SolvedLayers | None) -> None:
        self._settings, self._graph, self._progress, self._solved = settings, pair.graph, progress, solved
        self._samples = self._read_samples()
        self._findings: dict[str, object] = {}
        self._measuring: list[str] = []
        self._warnings = [*pair.graph.warnings, *(self._samples.warnings() if self._samples else ())]

    def surgery(self, weights: NetworkWeights, hashes: Callable[[], tuple[str, str]]) -> Surgery:
        """Decides, recovers and compares."""
        settings, samples = self._settings, self._samples
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
            )
            surgery = choose(
                weights,
                settings.selection(),
                goal,
                samples,
                by_unit=self._unit_scorer(),
                adjust=self._adjust,
                progress=self._progress,
            )
        labelled = None if settings.plan_only else self._labelled()
        warnings = (*self._warnings, *surgery.warnings, *self._measuring)
        surgery = replace(surgery, warnings=warnings, findings={**surgery.findings, **self._findings})
        if settings.plan_only or (samples is None and settings.data is None):
            return surgery
        from darkprune.search.figures import compare

        recovery = None
        if samples is not None:
            from darkprune.refit.recover import recover

            surgery, recovery = recover(surgery, samples, settings.recover, self._progress, self._solved)
        held_out = samples.held_out.paths if samples is not None else ()
        return compare(surgery, recovery, labelled, held_out, self._progress)

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
        settings = self._settings
        if settings.unit_score == "gamma" or settings.data is None:
            return score_units
        from darkprune.scores.separation import score_by_separation

        dataset = self._open(settings.data, "train")

        def score(weights: TensorSource, units: Sequence[Unit]) -> tuple[Unit, ...]:
            return score_by_separation(weights, units, dataset, progress=self._progress)

        return score

    def _labelled(self) -> Dataset | None:
        if self._settings.data is None:
            return None
        return self._open(self._settings.data, self._settings.split)

    def _open(self, data: PathLike, split: str) -> Dataset:
        """Reads labelled images; warnings about them are kept."""
        from darkprune.data.labelled import open_labelled
        from darkprune.evaluation.of_graph import heads_of

        labelled = open_labelled(data, split, self._settings.names, heads_of(self._graph)[-1].classes)
        self._measuring += [text for text in labelled.warnings if text not in self._measuring]
        return labelled.dataset

    def _adjust(self, ranking: Ranking, selection: Selection) -> tuple[Ranking, Selection]:
        """Puts measured curves into the ranking, and the ratio that meets a latency into the selection."""
        settings = self._settings
        if selection.allocation == "sensitivity":
            from darkprune.search.group_curves import CurveImages, measure_curves

            images = CurveImages.of(self._labelled(), settings.images, settings.runner)
            found = measure_curves(ranking, selection, images, self._progress)
            ranking = replace(ranking, curves=found.curves)
            self._findings["curves"] = {**found.curves.to_json(), "kept_in": str(found.kept_in)}
            self._measuring += found.warnings
        if settings.target_latency is not None and settings.runner is not None:
            from darkprune.search.latency import parse_latency, within_latency

            target = parse_latency(str(settings.target_latency))
            selection, reached = within_latency(
                ranking, selection, target, settings.runner, settings.batch, self._progress
            )
            self._findings["latency"] = reached.to_json()
            self._measuring += reached.warnings()
        return ranking, selection
