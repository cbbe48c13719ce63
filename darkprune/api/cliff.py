"""`cliff`: how far a network can be pruned before it falls, beside the unpruned one at smaller inputs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path

from darkprune.api.pair import Pair
from darkprune.darknet.output import atomic_file, check_folder
from darkprune.data.dataset import Dataset, digest_of_labels
from darkprune.data.image_files import images_of
from darkprune.data.samples import Samples, read_samples
from darkprune.errors import UsageError
from darkprune.evaluation.control import control_networks, smaller_inputs
from darkprune.evaluation.of_graph import heads_of, labelled_for
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.progress import Progress, announced, reporting
from darkprune.refit.solved_layers import SolvedLayers, solved_layers
from darkprune.runners.base import FAST_FIRST, RUNNERS, load_with_any
from darkprune.runners.measure import MAP, Measure, map_of, without_labels
from darkprune.runs.digests import digest_of_images, plain
from darkprune.runs.lock import locked
from darkprune.runs.provenance import write_provenance
from darkprune.runs.record import Input, Origin, file_input
from darkprune.runs.record_file import RecordFile
from darkprune.search.group_curves import CurveImages, measure_curves
from darkprune.selection.decide import Ranking, rank
from darkprune.selection.importance import IMAGE_CRITERIA, Criterion
from darkprune.selection.settings import ChannelSettings, Recovery, Selection
from darkprune.settings import PathLike, setting
from darkprune.surgery.surgery import Surgery
from darkprune.sweep.bench import Recover, SweepBench
from darkprune.sweep.drawing import draw_sweep
from darkprune.sweep.points import NAME, Sweep, open_records, summarise
from darkprune.training.records.curves import can_draw

MOST_IMAGES = 64  #: without labels: the outputs of the unpruned network are kept in memory
NO_PICTURE = "cliff.png is not drawn: matplotlib is not installed (pip install 'darkprune[report]')"


@dataclass(frozen=True, kw_only=True)
class CliffSettings(ChannelSettings):
    """What is measured on, which ratios are tried, and how channels are chosen."""

    data: PathLike | None = setting(None, "labelled images: measures mAP (as eval takes them)", metavar="F")
    images: PathLike | None = setting(
        None, "unlabelled images: to score and recover, and without --data to measure on", metavar="DIR"
    )
    ratios: tuple[float, ...] = setting(
        (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "ratios to try (0, unpruned, is always measured)", metavar="R1,R2,…",
        above=0, below=1,
    )  # fmt: skip
    limit: int | None = setting(None, "first N images", default_text=f"all; {MOST_IMAGES} without labels", at_least=1)
    split: str = setting("valid", "which part of the data", metavar="PART")
    names: PathLike | None = setting(None, "names of the classes, in order", metavar="F", default_text="the data's")
    batch: int = setting(8, "images at a time")
    runner: str | None = setting(
        None, "program to run the networks in", choices=tuple(RUNNERS), default_text="the first that can"
    )
    criterion: Criterion = setting(  # not auto: images are there to measure on
        "bn_gamma", "score of a channel; on --images: sensitivity, first-order, surgeon, thinet", group="which channels"
    )
    recover: Recovery = setting("none", "draws a second curve")
    overwrite: bool = setting(False, "forget what DIR holds of other settings")

    def __post_init__(self) -> None:
        """Checks that the settings go together, and that there are images; see `Settings`."""
        super().__post_init__()
        if not self.ratios:
            raise UsageError("--ratios: give at least one")
        if self.allocation == "explicit":
            raise UsageError("--allocation explicit has a ratio per group; a sweep goes by one ratio")
        if self.data is None and self.images is None:
            raise UsageError(
                "give --data F (labelled images: mAP) or --images DIR (unlabelled: agreement with the unpruned network)"
            )
        if self.looks_at_images and self.images is None:
            flag = f"--recover {self.recover}" if self.recover != "none" else f"--criterion {self.criterion}"
            raise UsageError(f"{flag} looks at images: give some with --images DIR (labels are not needed)")

    @property
    def looks_at_images(self) -> bool:
        """Whether images are scored or fitted on."""
        return self.criterion in IMAGE_CRITERIA or self.recover != "none"


@dataclass(frozen=True, kw_only=True)
class CliffResult:
    """A sweep.

    Attributes:
        sweep: what was measured: pruned, recovered, and the unpruned network at smaller inputs.
        images: number of images measured on.
        cfg, weights: the unpruned network.
        runner: program that ran the networks.
        outputs: table and picture.
        warnings: what was left out, and what is wrong with the labelled images.
    """

    sweep: Sweep
    images: int
    cfg: Path
    weights: Path
    runner: str
    outputs: tuple[Path, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the result as JSON values."""
        return {
            **self.sweep.to_json(),
            "cfg": str(self.cfg),
            "weights": str(self.weights),
            "runner": self.runner,
            "outputs": list(map(str, self.outputs)),
        }


def cliff(pair: Pair, output: PathLike, settings: CliffSettings, *, progress: Progress | None = None) -> CliffResult:
    """Prunes a network at rising ratios and measures what is left; called again it goes on where it stopped.

    Args:
        pair: the unpruned network.
        output: folder for table and picture.
        settings: images, ratios, and how channels are chosen.
        progress: gets the events.

    Raises:
        UsageError, PlanError: settings that make no sense for this network.
        DataError: images or labels cannot be used.
        OutputError: the folder holds another sweep, or another process works in it.
        RunnerError: no program runs the network.
        KeyboardInterrupt: interrupted; what is measured is kept.
    """
    folder = Path(output)
    if not (folder / NAME).exists():  # else what may lie in it is for the records to say
        check_folder(folder, [pair.cfg, pair.weights_file], settings.overwrite, in_use=True)
    heads_of(pair.graph)  # without one there is nothing to measure
    with reporting(progress):
        work = _Work.begin(pair, settings)
        with locked(folder):
            records = open_records(folder, work.origin, settings.overwrite)
            if not records.path.exists():
                records.write()  # from here on the folder is a sweep's
            write_provenance(folder, work.origin.inputs, goes_on=bool(records.records))
            try:
                sweep = work.sweep(records)
            except KeyboardInterrupt:
                done = f"{len(records.records)} networks are measured, and the same command goes on"
                raise KeyboardInterrupt(done) from None
            records.about = sweep.to_json()
            records.write()
            names = [_write_table(folder, sweep), NAME]
            if can_draw():
                names += draw_sweep(folder, sweep, pair.cfg.stem)
    return CliffResult(
        sweep=sweep,
        images=len(work.paths),
        cfg=pair.cfg,
        weights=pair.weights_file,
        runner=work.runner,
        outputs=tuple(folder / name for name in names),
        warnings=(*pair.warnings(), *work.warnings, *(() if can_draw() else (NO_PICTURE,))),
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a sweep reads.

    Attributes:
        pair, settings: as given.
        dataset: labelled images; None without labels.
        paths: images that are measured on.
        samples: images that are scored and fitted on; None where none are.
        runner: program that runs the networks.
        measure: gives one number for a network.
        origin: what all points have in common.
        warnings: what is wrong with the images.
    """

    pair: Pair
    settings: CliffSettings
    dataset: Dataset | None
    paths: tuple[Path, ...]
    samples: Samples | None
    runner: str
    measure: Measure
    origin: Origin
    warnings: tuple[str, ...] = ()

    @classmethod
    def begin(cls, pair: Pair, settings: CliffSettings) -> _Work:
        """Reads images and labels, and finds a program that runs the network."""
        graph, samples = pair.graph, None
        if settings.looks_at_images:
            from darkprune.refit.recover import images_needed

            most = images_needed(settings.recover, graph)
            samples = read_samples(Path(settings.images or ""), graph, most=most)
        dataset = None
        warnings: tuple[str, ...] = ()
        judged_at = _judged_at(graph) if settings.data is None else []
        if settings.data is None:
            held_out = samples.held_out.paths if samples else images_of(Path(settings.images or ""))
            paths = held_out[: settings.limit or MOST_IMAGES]
        else:
            labelled = labelled_for(graph, settings.data, settings.split, settings.names)
            dataset = replace(labelled.dataset, images=labelled.dataset.images[: settings.limit])
            warnings = labelled.warnings
            paths = tuple(record.path for record in dataset.images)
        runner, original = load_with_any(graph, pair.weights_file, settings.runner, taps=False, order=FAST_FIRST)
        if dataset is not None:
            metric, measure = MAP, map_of(dataset, settings.batch)
        else:
            others = (load_with_any(each, pair.weights_file, runner, taps=False)[1] for each in judged_at)
            metric, measure, problem = without_labels(original, paths, settings.batch, others)
            warnings = (problem,) if problem else ()
        decided = {
            "metric": metric,
            "sizes": [[each.net.input.w, each.net.input.h] for each in judged_at],
            "runner": runner,
            "recover": settings.recover,
            "selection": Selection.of(settings).described(),
        }
        inputs = {"cfg": file_input(pair.cfg), "weights": file_input(pair.weights_file)}
        if settings.images is not None:
            inputs["images"] = Input(str(settings.images), digest_of_images(images_of(Path(settings.images))))
        if dataset is not None:
            inputs["data"] = Input(str(settings.data), digest_of_labels(dataset))
        else:
            inputs["images measured on"] = Input(str(settings.images), digest_of_images(paths))
        return cls(
            pair=pair,
            settings=settings,
            dataset=dataset,
            warnings=warnings,
            paths=paths,
            samples=samples,
            runner=runner,
            measure=measure,
            origin=Origin("cliff", plain(decided), inputs),
        )

    def sweep(self, records: RecordFile) -> Sweep:
        """Measures what is not measured yet."""
        settings, pair = self.settings, self.pair
        bench = SweepBench(records=records, origin=self.origin, runner=self.runner, measure=self.measure)
        selection = Selection.of(settings)
        with pair.open() as weights, solved_layers(records.path.parent / "recovered") as solved:

            @cache
            def ranking() -> Ranking:
                return self._rank(weights, selection)

            ratios = {f"ratio {ratio:g}": ratio for ratio in sorted(set(settings.ratios))}
            points = [
                point
                for ratio in announced(ratios)
                for point in bench.pruned(ranking, replace(selection, ratio=ratio), pair.graph, self._recover(solved))
            ]
        macs = [point.macs for point in points]
        controls = [bench.control(network, pair.weights_file) for network in control_networks(pair.graph, macs)]
        return summarise([*controls, *points], str(self.origin.settings["metric"]))

    def _recover(self, solved: SolvedLayers | None) -> Recover | None:
        """Returns what recovers a pruned network; None where nothing does."""
        samples, how = self.samples, self.settings.recover
        if samples is None or how == "none":
            return None
        from darkprune.refit.recover import recover_file

        def recover(surgery: Surgery, slim: Path) -> None:
            recover_file(surgery, slim, samples, how, solved)

        return recover

    def _rank(self, weights: NetworkWeights, selection: Selection) -> Ranking:
        """Ranks the channels, by images where the criterion looks at some."""
        by_images = None
        if self.samples is not None and selection.criterion in IMAGE_CRITERIA:
            from darkprune.scores.criteria import scorer

            by_images = scorer(selection.criterion, self.samples, self.settings.recover)
        ranking = rank(weights, selection, by_images=by_images)
        if selection.allocation != "sensitivity":
            return ranking
        images = CurveImages.of(self.dataset, self.settings.images, self.settings.runner)
        return replace(ranking, curves=measure_curves(ranking, selection, images).curves)


def _judged_at(graph: Graph) -> list[Graph]:
    """Returns the smaller inputs that agreement is taken at too: those with half of the operations and more."""
    return list(takewhile(lambda each: each.macs >= graph.macs / 2, smaller_inputs(graph)))


def _write_table(folder: Path, sweep: Sweep) -> str:
    """Writes cliff.csv; returns its name."""
    rows = sweep.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(folder / "cliff.csv", overwrite=True) as file:
        file.write(text.getvalue().encode())
    return "cliff.csv"
