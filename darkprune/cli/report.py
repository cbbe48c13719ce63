"""`darkprune report`: a run told in one HTML file."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.cli.console import add_json, megabytes, print_json, print_table, warn
from darkprune.darknet.output import atomic_file, result_folder
from darkprune.errors import DarkpruneError, DataError, UsageError
from darkprune.graph.graph import read_graph
from darkprune.graph.groups import PruneGroup, find_groups
from darkprune.progress import Progress, reporting
from darkprune.runners.base import RUNNERS
from darkprune.zoo import resolve

if TYPE_CHECKING:  # evaluation and drawing are imported when the command runs
    from darkprune.data.dataset import Dataset
    from darkprune.report.contents import Contents, Pair
    from darkprune.report.measure import Bench, Measured, Network
    from darkprune.report.structure import Structure

SAMPLES, LOOKS, RUNS = 6, 2, 20


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "run_folder", metavar="RUN", help="what prune, train, distill, cliff, compare or compress wrote, or a folder "
        "of such folders"
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="F", help="the HTML file (default RUN/report.html)")
    parser.add_argument("--plots", metavar="DIR", help="folder for the diagrams as PNG and SVG (default: F_files)")
    parser.add_argument(
        "--original", nargs=2, metavar=("CFG", "WEIGHTS"), help="the pair before (default: looked for near RUN)"
    )
    images = parser.add_argument_group("images")
    images.add_argument("--data", metavar="F", help="labelled images: mAP per class, and samples")
    images.add_argument("--images", metavar="DIR", help="images without labels, for samples and attention")
    images.add_argument("--split", default="valid", help="which part of the data (default valid)")
    images.add_argument("--names", metavar="F", help="names of the classes, in order")
    images.add_argument("--limit", type=int, metavar="N", help="measure mAP on the first N images")
    images.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"images shown (default {SAMPLES})")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"timed runs (default {RUNS}; 0: none)")
    parser.add_argument("--runner", choices=tuple(RUNNERS), help="program to run the networks in")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report")
    add_json(parser)


def run(args: Namespace) -> int:
    """Writes the report."""
    from darkprune.report.contents import Pair, find_original, read_contents
    from darkprune.report.page import report_page
    from darkprune.report.told import Told

    for name in ("limit", "samples", "runs"):
        value = getattr(args, name)
        if value is not None and value < (1 if name == "limit" else 0):
            raise UsageError(f"--{name} {value}: must be at least {1 if name == 'limit' else 0}")
    folder = Path(args.run_folder)
    contents = read_contents(folder)
    page = Path(args.output) if args.output else folder / "report.html"
    plots = Path(args.plots) if args.plots else page.with_name(f"{page.stem}_files")
    if not args.overwrite and page.exists():
        raise UsageError(f"{page}: exists; give --overwrite to replace it, or another -o")
    if args.original:
        original: Pair | None = Pair(resolve(args.original[0]), resolve(args.original[1], "weights"))
    else:
        original = find_original(contents)
    networks = _networks(contents, original)
    structure, problem = _structure(contents, networks)
    if problem and args.original:
        raise UsageError(
            f"--original {args.original[0]}: {folder} holds what another network was cut to; give the pair before "
            "that cut, or leave --original out"
        )
    with reporting(None) as progress:
        measured = _measure(args, contents, networks, structure.groups if structure else (), progress)
    if problem:
        contents = replace(contents, problems=(*contents.problems, problem))
    told = Told(contents, networks, structure, measured)
    data, titles, lacks = report_page(told)
    inputs = [network.weights for network in networks]
    with atomic_file(page, inputs, args.overwrite) as file:
        file.write(data)
    if told.album.files:
        with result_folder(plots, inputs, overwrite=args.overwrite) as target:
            for name, content in told.album.files.items():
                (target / name).write_bytes(content)
    if args.json:
        lacking = [{"what": lack.what, "how": lack.how} for lack in lacks]
        print_json({"report": str(page), "bytes": len(data), "plots": str(plots) if told.album.files else None,
                    "sections": titles, "lacking": lacking, "problems": list(contents.problems)})  # fmt: skip
        return 0
    print_table(("section", "in the report"), [*((title, "yes") for title in titles), *((x.what, "no") for x in lacks)])
    for lack in lacks:
        print(f"{lack.what}: {lack.how}")
    for text in contents.problems:
        warn(text)
    print(f"\nwritten: {page} ({megabytes(len(data))})" + (f", {plots}/" if told.album.files else ""))
    print(f"next: open {shlex.quote(str(page))} in a browser")
    return 0


def _networks(contents: Contents, original: Pair | None) -> tuple[Network, ...]:
    """Returns the original, where it is known, and what became of it."""
    from darkprune.report.measure import Network

    found = []
    slim = contents.slim
    if original is not None:
        found.append(Network("original", read_graph(original.cfg), original.weights))
    if slim is not None and (original is None or slim.weights != original.weights):
        name = next((part.name for part in contents.results if part.pair == slim), contents.folder.name or "result")
        found.append(Network(name if name != "original" else "result", read_graph(slim.cfg), slim.weights))
    return tuple(found)


def _structure(contents: Contents, networks: tuple[Network, ...]) -> tuple[Structure | None, str | None]:
    """Returns what is drawn: the original beside what became of it; and why that cannot be compared."""
    from darkprune.report.structure import Structure, pair_graphs

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
    args: Namespace,
    contents: Contents,
    networks: tuple[Network, ...],
    groups: tuple[PruneGroup, ...],
    progress: Progress,
) -> Measured:
    """Measures what can be measured; a report is written even where the networks cannot be run."""
    from darkprune.report.measure import Bench, Measured

    if not networks:
        return Measured()
    dataset = _dataset(args)
    paths = _paths(args, dataset)
    names = _names(args, dataset, networks)
    try:
        bench = Bench(networks, names, args.runner, progress)
    except DarkpruneError as error:
        if args.runner or args.data:
            raise
        return Measured(problems={"networks": str(error)})
    measured = Measured(runner=str(bench.runner))
    if dataset is not None:
        measured = replace(measured, evaluations=bench.evaluate(dataset))
    if args.runs:
        measured = replace(measured, seconds=bench.time(args.runs))
    if paths:
        measured = replace(measured, samples=bench.samples(paths))
    return _with_looks(measured, bench, contents, paths[:LOOKS], groups)


def _with_looks(
    measured: Measured, bench: Bench, contents: Contents, paths: list[Path], groups: tuple[PruneGroup, ...]
) -> Measured:
    if not paths or len(bench.networks) < 2:
        return measured
    plan = contents.cut.plan if contents.cut is not None else None
    try:
        return replace(measured, looks=bench.looks(paths, groups, plan))
    except DarkpruneError as error:
        return replace(measured, problems={**measured.problems, "attention": str(error)})


def _dataset(args: Namespace) -> Dataset | None:
    from darkprune.data import read_dataset

    if args.data is None:
        return None
    dataset = read_dataset(args.data, args.split, args.names)
    return replace(dataset, images=dataset.images[: args.limit])


def _paths(args: Namespace, dataset: Dataset | None) -> list[Path]:
    from darkprune.data.reading import list_images

    if args.images is not None:
        if not Path(args.images).is_dir():
            raise DataError(f"{args.images}: no such folder; --images takes a folder of images")
        return list(list_images(Path(args.images)))[: args.samples]
    return [record.path for record in dataset.images[: args.samples]] if dataset is not None else []


def _names(args: Namespace, dataset: Dataset | None, networks: tuple[Network, ...]) -> tuple[str, ...]:
    from darkprune.data.class_names import class_names

    if dataset is not None and dataset.class_names:
        return dataset.class_names
    return class_names(args.names, networks[0].graph)
