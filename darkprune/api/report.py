"""`report`: one HTML page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from darkprune.api.pair import Pair
from darkprune.darknet.output import alone, atomic_file, check_folder, result_folder
from darkprune.data.class_names import class_names
from darkprune.data.dataset import Dataset, Objects
from darkprune.data.image_files import images_of
from darkprune.errors import DarkpruneError, UsageError
from darkprune.evaluation.of_graph import labelled_for
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.groups import PruneGroup, find_groups
from darkprune.pages.contents import Contents, PairFiles, find_original, read_contents
from darkprune.pages.context import Missing, ReportContext
from darkprune.pages.markup import is_page
from darkprune.pages.measure import Measurements, NamedNetwork, RunningNetworks
from darkprune.pages.run_page import make_run_page
from darkprune.pages.structure import Structure, pair_graphs
from darkprune.progress import Progress, reporting
from darkprune.runners.base import RUNNERS
from darkprune.settings import PathLike, Settings, setting

REPORT = "report.html"  #: in the run's folder, where no other file is asked for
MOST_ATTENTION = 2  #: images with attention maps


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """What a report measures and shows.

    Attributes:
        original: the pair before pruning; by default it is looked for near the run.
    """

    plots: PathLike | None = setting(
        None, "folder for the diagrams as PNG and SVG", metavar="DIR", default_text="F_files"
    )
    data: PathLike | None = setting(None, "labelled images: mAP per class, and samples", metavar="F", group="images")
    images: PathLike | None = setting(
        None, "images without labels, for samples and attention", metavar="DIR", group="images"
    )
    split: str = setting("valid", "which part of the data", group="images", metavar="PART")
    names: PathLike | None = setting(
        None, "names of the classes, in order", metavar="F", group="images", default_text="the data's"
    )
    limit: int | None = setting(None, "measure mAP on the first N images", group="images", at_least=1)
    samples: int = setting(6, "images shown", group="images", at_least=0)
    runs: int = setting(20, "timed runs", default_text="20; 0: none", at_least=0)
    runner: str | None = setting(
        None, "program to run the networks in", choices=tuple(RUNNERS), default_text="the first that can"
    )
    overwrite: bool = setting(False, "replace an earlier report")
    original: Pair | None = None


@dataclass(frozen=True)
class ReportResult:
    """A report that was written.

    Attributes:
        report: the HTML file.
        bytes: its size.
        plots: folder of the diagrams; None where there are none.
        sections: titles.
        missing: sections that the run or the settings have nothing for.
        warnings: files that could not be read.
    """

    report: Path
    bytes: int
    plots: Path | None
    sections: tuple[str, ...]
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        return {
            "report": str(self.report),
            "bytes": self.bytes,
            "plots": None if self.plots is None else str(self.plots),
            "sections": list(self.sections),
            "lacking": [{"what": part.what, "how": part.how} for part in self.missing],
            "warnings": list(self.warnings),
        }


def report(
    run: PathLike,
    settings: ReportSettings | None = None,
    *,
    output: PathLike | None = None,
    progress: Progress | None = None,
) -> ReportResult:
    """Writes one HTML page about a run, which loads nothing from elsewhere.

    Args:
        run: folder that prune, train, distill, cliff, compare or compress wrote, or a folder of such folders.
        settings: what is measured and shown.
        output: the HTML file; by default report.html in the run's folder.
        progress: gets events.

    Raises:
        DataError: the folder holds no result, or the images cannot be used.
        UsageError: the report is there already, or `original` is not the original.
        OutputError: the report cannot be written.
        GraphError, RunnerError: `data` or `runner` is given but the networks cannot be run.
    """
    settings = settings or ReportSettings()
    folder = Path(run)
    contents = read_contents(folder)
    page_file = Path(output) if output is not None else folder / REPORT
    if page_file.exists():
        if not settings.overwrite:
            raise UsageError(f"{page_file}: exists; give --overwrite to replace it, or another -o")
        if not is_page(page_file):
            raise UsageError(f"{page_file}: is not an earlier report, which --overwrite would replace; give another -o")
    given = settings.original
    original = PairFiles(given.cfg, given.weights_file) if given is not None else find_original(contents)
    networks = _networks(contents, original)
    structure, problem = _structure(contents, networks)
    if problem and given is not None:
        raise UsageError(
            f"--original {given.cfg}: {folder} holds the result of cutting another network; give the pair before "
            "that cut, or leave --original out"
        )
    inputs = [network.weights for network in networks]
    plots = Path(settings.plots) if settings.plots else page_file.with_name(f"{page_file.stem}_files")
    check_folder(plots, inputs, settings.overwrite)
    with reporting(progress), alone(page_file):
        groups = structure.groups if structure else ()
        measured, odd = _measure(settings, contents, networks, groups)
        contents = replace(contents, problems=(*contents.problems, *([problem] if problem else []), *odd))
        context = ReportContext(contents, networks, structure, measured)
        page = make_run_page(context)
        with atomic_file(page_file, inputs, settings.overwrite) as file:
            file.write(page.html)
        drawn = context.diagrams.files
        if drawn:
            with result_folder(plots, inputs, overwrite=settings.overwrite) as target:
                for name, content in drawn.items():
                    (target / name).write_bytes(content)
    return ReportResult(
        report=page_file,
        bytes=len(page.html),
        plots=plots if drawn else None,
        sections=page.titles,
        missing=page.missing,
        warnings=contents.problems,
    )


def _networks(contents: Contents, original: PairFiles | None) -> tuple[NamedNetwork, ...]:
    """Returns the original, where it is known, and the result."""
    found = []
    slim = contents.slim
    if original is not None:
        found.append(NamedNetwork("original", read_graph(original.cfg), original.weights))
    if slim is not None and (original is None or slim.weights != original.weights):
        name = next((part.name for part in contents.results if part.pair == slim), contents.folder.name or "result")
        found.append(NamedNetwork(name if name != "original" else "result", read_graph(slim.cfg), slim.weights))
    return tuple(found)


def _structure(contents: Contents, networks: tuple[NamedNetwork, ...]) -> tuple[Structure | None, str | None]:
    """Returns the original beside the result, and the reason where they cannot be compared."""
    if not networks:
        return None, None
    graph, slim = networks[0].graph, networks[-1].graph
    plan = contents.cut.plan if contents.cut is not None else None
    groups = find_groups(graph)
    if plan is not None and plan.groups and all(group.last < len(graph) for group in plan.groups):
        groups = tuple(PruneGroup(group.name, group.first, group.last) for group in plan.groups)
    if len(networks) == 1:
        return Structure(graph, groups), None
    try:
        return Structure(graph, groups, pair_graphs(graph, slim, plan)), None
    except DarkpruneError as error:
        return Structure(graph, groups), str(error)


def _measure(
    settings: ReportSettings,
    contents: Contents,
    networks: Sequence[NamedNetwork],
    groups: Sequence[PruneGroup],
) -> tuple[Measurements, tuple[str, ...]]:
    """Measures what can be measured; a report is written even where the networks cannot be run.

    Returns:
        The measurements, and problems of the images.
    """
    if not networks:
        return Measurements(), ()
    dataset, warnings = _dataset(settings, networks[0].graph)
    paths = _sample_paths(settings, dataset)
    names = dataset.class_names if dataset is not None else ()
    names = names or class_names(settings.names, networks[0].graph)
    try:
        running = RunningNetworks(networks, settings.runner)
    except DarkpruneError as error:
        if settings.runner or settings.data:
            raise
        return Measurements(problems={"networks": str(error)}), warnings
    evaluations, qualities = running.evaluate(dataset) if dataset is not None else ((), ())
    measured = Measurements(
        runner=running.runner,
        evaluations=evaluations,
        qualities=qualities,
        seconds=running.time(settings.runs) if settings.runs else (),
        samples=running.draw_samples(paths, names, _labels_of(paths, dataset)) if paths else (),
    )
    if not paths or len(networks) < 2:
        return measured, warnings
    plan = contents.cut.plan if contents.cut is not None else None
    try:
        measured = replace(measured, attention=running.draw_attention(paths[:MOST_ATTENTION], groups, plan))
    except DarkpruneError as error:
        measured = replace(measured, problems={"attention": str(error)})
    return measured, warnings


def _dataset(settings: ReportSettings, graph: Graph) -> tuple[Dataset | None, tuple[str, ...]]:
    """Returns the labelled images, if some are given, and their problems."""
    if settings.data is None:
        return None, ()
    labelled = labelled_for(graph, settings.data, settings.split, settings.names)
    return replace(labelled.dataset, images=labelled.dataset.images[: settings.limit]), labelled.warnings


def _labels_of(paths: Sequence[Path], dataset: Dataset | None) -> dict[Path, Objects]:
    records = {record.path: record for record in dataset.images} if dataset is not None else {}
    return {path: records[path].objects() for path in paths if path in records}


def _sample_paths(settings: ReportSettings, dataset: Dataset | None) -> list[Path]:
    if settings.images is not None:
        return list(images_of(Path(settings.images)))[: settings.samples]
    return [record.path for record in dataset.images[: settings.samples]] if dataset is not None else []
