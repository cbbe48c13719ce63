"""`darkprune check`: lists the problems of a data set."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.cli.console import add_json, print_result
from darkprune.data import read_dataset
from darkprune.data.check import check_dataset
from darkprune.data.class_names import network_names
from darkprune.data.dataset import Dataset
from darkprune.errors import DataError
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import read_graph
from darkprune.progress import reporting
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--data", required=True, metavar="F", help="a .data file, a VOC folder, COCO JSON, a list")
    parser.add_argument("--cfg", metavar="CFG", help="a network whose number of classes the data has to fit")
    parser.add_argument("--split", action="append", metavar="PART", help="which parts (default train and valid)")
    parser.add_argument("--names", metavar="F", help="names of the classes, in order")
    parser.add_argument("--fast", action="store_true", help="do not decode the images")
    add_json(parser)


def run(args: Namespace) -> int:
    """Lists the problems; exit status 1 if there are any."""
    graph = read_graph(resolve(args.cfg)) if args.cfg else None
    classes = heads_of(graph)[-1].classes if graph is not None else None
    order = network_names(graph) if graph is not None else None
    sets: dict[str, Dataset] = {}
    found: list[dict[str, str]] = []
    with reporting(None):
        for split in args.split or ["train", "valid"]:
            try:
                dataset = read_dataset(args.data, split, args.names, order)
            except DataError as error:
                if args.split or not sets:
                    raise
                found.append({"split": split, "kind": "list", "problem": str(error)})
                continue
            if any(dataset.images == other.images for other in sets.values()):  # checked already
                problems = list(dataset.problems)
            else:
                problems = check_dataset(dataset, classes, decode=not args.fast)
            sets[split] = dataset
            said = {entry["problem"] for entry in found}
            found += [
                {"split": split, "kind": problem.kind, "problem": str(problem)}
                for problem in problems
                if str(problem) not in said
            ]
    counts = {split: len(dataset) for split, dataset in sets.items()}
    forms = list(dict.fromkeys(dataset.form for dataset in sets.values()))
    also = list(dict.fromkeys(form for dataset in sets.values() for form in dataset.also))

    def show() -> None:
        for entry in found:
            print(f"{entry['split']}: {entry['problem']}")
        print(f"read as {', '.join(forms)}" + (f"; also there: {', '.join(also)}" if also else ""))
        splits = ", ".join(f"{count} {split} images" for split, count in counts.items())
        if len(sets) > 1 and len({dataset.images for dataset in sets.values()}) == 1:
            has_splits = any(dataset.has_splits for dataset in sets.values())
            splits += " (the same ones)" if has_splits else " (the same ones: this form has no splits)"
        print(f"{args.data}: {splits}: {len(found)} problem{'' if len(found) == 1 else 's'}")

    print_result(args, {"form": forms, "images": counts, "problems": found}, (), show)
    return 1 if found else 0
